// Package web has the files of the playground and of the page that verifies receipts. The
// playground is one page of HTML, CSS and JavaScript modules that uses the public API of the
// service like any other client. The page that verifies receipts sends nothing.
//
// There is no build step. The service serves the files as they are. The pages load nothing
// from another host and store nothing in the browser. The playground works under this
// Content-Security-Policy, and the other page also under connect-src 'none':
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

//go:embed verify.html
var verifyPage string

//go:embed assets
var assets embed.FS

// Page returns the HTML of the playground, which is served at /.
func Page() string { return page }

// VerifyPage returns the HTML of the page that verifies receipts, which is served at /verify.
func VerifyPage() string { return verifyPage }

// Assets returns the files that are served below /assets/. The files never change while
// the process runs.
func Assets() fs.FS {
	sub, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the name is constant and valid
	}
	return sub
}
