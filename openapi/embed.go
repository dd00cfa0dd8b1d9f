// Package openapi embeds the documentation page, which shows the OpenAPI
// description, and the files of that page.
//
// The page is written for a Content-Security-Policy without any unsafe-*
// source:
//
//	default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'
//
// It loads only /docs/assets/ (the files of [Assets]), /assets/favicon.svg and
// /openapi.json, all from its own server. Swagger UI is vendored unchanged.
// assets/swagger-ui/SHA256SUMS has its version and digests, and a test compares
// the files with them.
package openapi

import (
	"embed"
	"io/fs"
	"regexp"
)

//go:embed docs.html
var page string

//go:embed assets
var assets embed.FS

// Page returns the HTML of the documentation page, to be served at /docs.
func Page() string { return page }

// Assets returns the files to be served below /docs/assets/, which never change
// while the process runs.
func Assets() fs.FS {
	sub, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the name is constant and valid
	}
	return sub
}

// vendored matches the name and version of the npm package in SHA256SUMS.
var vendored = regexp.MustCompile(`npm (\S+)@([^\s,]+)`)

// Vendored returns the name and version of the npm package whose files are here.
func Vendored() (name, version string) {
	sums, err := assets.ReadFile("assets/swagger-ui/SHA256SUMS")
	m := vendored.FindSubmatch(sums)
	if err != nil || m == nil {
		panic("SHA256SUMS does not say where its files are from") // it is embedded, and a test reads it
	}
	return string(m[1]), string(m[2])
}
