package api

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"colophon/openapi"
	"colophon/web"
)

// pagePolicy lets a page load from its own server only.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// verifyPolicy lets a page load its own files, and lets it send nothing.
const verifyPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'none'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " + noInjection

// noInjection lets no script turn a text into elements or into another script.
const noInjection = "require-trusted-types-for 'script'; trusted-types 'none'"

// docs serves the pages and their files. The pages show the OpenAPI description, which
// Huma serves at /openapi.json and /openapi.yaml.
func (s *server) docs(mux *routes) error {
	mux.Handle("GET /{$}", page(web.Page(), pagePolicy+"; "+noInjection))
	mux.Handle("GET /verify", page(web.VerifyPage(), verifyPolicy))
	mux.Handle("GET /docs", page(openapi.Page(), pagePolicy))
	for prefix, tree := range map[string]fs.FS{"/assets/": web.Assets(), "/docs/assets/": openapi.Assets()} {
		files, err := s.files(prefix, tree)
		if err != nil {
			return err
		}
		mux.Handle("GET "+prefix, files)
	}
	return nil
}

func page(html, policy string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		_, _ = w.Write([]byte(html)) // an error means that the client has disconnected
	})
}

// files serves a tree of files without listing its directories. Browsers have to
// revalidate a file at each use. Otherwise a new page could run with old modules after an
// upgrade.
func (s *server) files(prefix string, tree fs.FS) (http.Handler, error) {
	tags := map[string]string{}
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(tree, name)
		tags[name] = fmt.Sprintf(`"%x"`, sha256.Sum256(content))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the files of %s: %w", prefix, err)
	}
	files := http.StripPrefix(prefix, http.FileServerFS(tree))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tag, ok := tags[strings.TrimPrefix(r.URL.Path, prefix)]
		if !ok {
			s.answer(w, r, newProblem(http.StatusNotFound, "no_such_route", "no file is at this path"))
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", tag)
		// net/http would answer bad ranges and conditions with texts that are not RFC
		// 9457 problems. The headers below are therefore removed, and ranges are not
		// supported. If-None-Match stays, because no value of If-None-Match is bad.
		r = r.Clone(r.Context())
		for _, name := range []string{"Range", "If-Range", "If-Match", "If-Modified-Since", "If-Unmodified-Since"} {
			r.Header.Del(name)
		}
		files.ServeHTTP(w, r)
	}), nil
}
