package openapi_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"colophon/openapi"
)

// TestVendoredFilesAreUnchanged compares the vendored files with the reviewed digests in
// SHA256SUMS. Every file must have its digest, and there must be no other files in the
// directory.
//
// security: ASVS 15.2.4
func TestVendoredFilesAreUnchanged(t *testing.T) {
	dir, err := fs.Sub(openapi.Assets(), "swagger-ui")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := fs.ReadFile(dir, "SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		sum, name, ok := strings.Cut(line, "  ")
		if !ok {
			t.Fatalf("SHA256SUMS: %q is not a digest and a name", line)
		}
		want[name] = sum
	}
	got := map[string]string{}
	files, err := fs.ReadDir(dir, ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if file.Name() == "SHA256SUMS" {
			continue
		}
		data, err := fs.ReadFile(dir, file.Name())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		got[file.Name()] = hex.EncodeToString(sum[:])
	}
	if !maps.Equal(got, want) {
		t.Errorf("files are\n%v\nSHA256SUMS says\n%v", got, want)
	}
	for _, name := range []string{"swagger-ui.css", "swagger-ui-bundle.js", "LICENSE"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestPageFitsItsPolicy reads the documentation page. It must load only files that are
// served with it, and contain nothing that a policy without unsafe-* would block.
//
// security: ASVS 3.6.1
func TestPageFitsItsPolicy(t *testing.T) {
	page := openapi.Page()
	if !strings.Contains(page, "Swagger UI") {
		t.Error("the page does not say Swagger UI")
	}
	if m := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|javascript:|(src|href)="(https?:)?//`).FindString(page); m != "" {
		t.Errorf("the page contains %q", m)
	}
	for _, script := range regexp.MustCompile(`<script[^>]*>[^<]*`).FindAllString(page, -1) {
		if !strings.Contains(script, "src=") || !strings.HasSuffix(script, ">") {
			t.Errorf("inline script: %q", script)
		}
	}
	elsewhere := []string{"/assets/favicon.svg", "/openapi.json", "/openapi.yaml", "/"}
	var loaded int
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		name, ours := strings.CutPrefix(m[1], "/docs/assets/")
		if !ours {
			if !slices.Contains(elsewhere, m[1]) {
				t.Errorf("the page refers to %s", m[1])
			}
			continue
		}
		if _, err := fs.Stat(openapi.Assets(), name); err != nil {
			t.Errorf("the page refers to %s: %v", m[1], err)
		}
		loaded++
	}
	if loaded < 4 {
		t.Errorf("the page loads %d of our files, want at least 4", loaded)
	}
}
