// Package web has the files of the playground. The playground is one page of HTML, CSS
// and JavaScript modules that uses the public API of the service like any other client.
//
// There is no build step. The service serves the files as they are. The page loads
// nothing from another host and stores nothing in the browser. It works under this
// Content-Security-Policy:
//
//	default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';
//	base-uri 'none'; form-action 'none'; frame-ancestors 'none';
//	require-trusted-types-for 'script'; trusted-types 'none'
package web

import (
	"embed"
	"io/fs"
)

//go:embed index.html
var page string

//go:embed assets
var assets embed.FS

// Page returns the HTML of the playground, which is served at /.
func Page() string { return page }

// Assets returns the files that are served below /assets/. The files never change while
// the process runs.
func Assets() fs.FS {
	sub, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the name is constant and valid
	}
	return sub
}
