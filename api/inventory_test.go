package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

// TestEveryRouteIsDescribed compares the patterns of the mux with the OpenAPI
// description. Every route must be in both, or must be listed in the map elsewhere.
//
// security: ASVS 13.4.5, API9:2023
func TestEveryRouteIsDescribed(t *testing.T) {
	s, mux, err := build(Options{})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := map[string]string{
		"GET /{$}":                        "the playground: a page, not an operation",
		"GET /verify":                     "the page that verifies receipts",
		"GET /docs":                       "the page of the documentation",
		"GET /assets/":                    "files of the playground",
		"GET /docs/assets/":               "files of the documentation",
		"GET /log/tile/{level}/{path...}": "tiles and entries of the log: the description of /log/checkpoint says where, as OpenAPI has no paths of any length",
		"GET /openapi.json":               "the description itself",
		"GET /openapi.yaml":               "the description itself",
		"GET /openapi-3.0.json":           "the description for older readers",
		"GET /openapi-3.0.yaml":           "the description for older readers",
	}
	described := map[string]bool{}
	for path, item := range s.api.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{
			"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete,
			"OPTIONS": item.Options, "HEAD": item.Head, "PATCH": item.Patch, "TRACE": item.Trace,
		} {
			if op != nil {
				described[method+" "+path] = true
			}
		}
	}
	if len(described) < 10 {
		t.Errorf("only %d operations are described", len(described))
	}
	for _, pattern := range mux.patterns {
		if method, path, _ := strings.Cut(pattern, " "); method == "" || path == "" {
			t.Errorf("%q accepts any method", pattern)
		}
		if described[pattern] == (elsewhere[pattern] != "") {
			t.Errorf("%s: described %v, and listed here as %q", pattern, described[pattern], elsewhere[pattern])
		}
	}
	for pattern := range described {
		if !slices.Contains(mux.patterns, pattern) {
			t.Errorf("%s is described, but not routed", pattern)
		}
	}
	for pattern := range elsewhere {
		if !slices.Contains(mux.patterns, pattern) {
			t.Errorf("%s is listed here, but not routed", pattern)
		}
	}
}
