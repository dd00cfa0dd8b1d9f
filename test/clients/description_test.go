package clients

import (
	"os"
	"path/filepath"
	"testing"
)

// testDescription checks the description of the service with linters. None may report
// anything.
func testDescription(t *testing.T, s *service) {
	for _, form := range []string{"/openapi.json", "/openapi-3.0.json"} {
		scenario(t, "@redocly/cli", npmVersion(t, "@redocly/cli"), "reports nothing about "+form[1:], func(t *testing.T) {
			// recommended-strict turns warnings into errors, and a warning ends the command well
			// otherwise.
			output(t, npm(t), nil, "npx", "--no-install", "redocly", "lint", "--extends=recommended-strict", s.fetch(t, form))
		})
		scenario(t, "@stoplight/spectral-cli", npmVersion(t, "@stoplight/spectral-cli"), "reports nothing about "+form[1:], func(t *testing.T) {
			output(t, npm(t), nil, "npx", "--no-install", "spectral", "lint", "--fail-severity=hint", "--ruleset=spectral.yaml", s.fetch(t, form))
		})
	}
	scenario(t, "openapi-typescript", npmVersion(t, "openapi-typescript"), "its types compile and make one call", func(t *testing.T) {
		c := s.user(t, "typescript")
		dir := t.TempDir()
		source, err := os.ReadFile(filepath.Join(npm(t), "typed.ts"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "typed.ts"), source, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type":"module"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(npm(t), "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		output(t, npm(t), nil, "npx", "--no-install", "openapi-typescript", s.fetch(t, "/openapi.json"), "--output", filepath.Join(dir, "api.d.ts"))
		output(t, npm(t), nil, "npx", "--no-install", "tsc", "--strict", "--noEmitOnError", "--skipLibCheck", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext", "--types", "node", "--outDir", filepath.Join(dir, "out"), filepath.Join(dir, "typed.ts"))
		if out := output(t, dir, []string{"URL=" + c.URL, "TOKEN=" + c.Access}, "node", filepath.Join(dir, "out", "typed.js")); out != "completed job.accepted\n" {
			t.Errorf("%s", out)
		}
	})
}
