// Package openapi embeds the documentation page and its files. The page shows the OpenAPI
// description.
//
// The page is written for a Content-Security-Policy without any unsafe-*
// source:
//
//	default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'
//
// The page loads only /docs/assets/ (the files of [Assets]), /assets/favicon.svg and
// /openapi.json, all from its own server. Swagger UI is vendored unchanged.
// assets/swagger-ui/SHA256SUMS has the version of Swagger UI and the digests of its
// files. A test compares the files with the digests.
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

// Page returns the HTML of the documentation page, which is served at /docs.
func Page() string { return page }

// Assets returns the files that are served below /docs/assets/. The files never change
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

// Vendored returns the name and version of the npm package whose files are vendored in
// assets/swagger-ui.
func Vendored() (name, version string) {
	sums, err := assets.ReadFile("assets/swagger-ui/SHA256SUMS")
	m := vendored.FindSubmatch(sums)
	if err != nil || m == nil {
		panic("SHA256SUMS does not say where its files are from") // impossible: the file is embedded, and a test reads it
	}
	return string(m[1]), string(m[2])
}
