package clients

import (
	"os"
	"path/filepath"
	"testing"
)

// testGenerated generates clients from the description, compiles them and makes calls. The
// generators and what they generate are in a copy of the module generated.
func testGenerated(t *testing.T, s *service) {
	for _, g := range []struct {
		name, module, call string
		generate           func(description string) []string
	}{
		{"ogen", "github.com/ogen-go/ogen", "ogencall", func(description string) []string {
			return []string{"ogen", "--config", "ogen.yml", "--target", "ogenclient", "--package", "ogenclient", description}
		}},
		{"oapi-codegen", "github.com/oapi-codegen/oapi-codegen/v2", "oapicall", func(description string) []string {
			return []string{"oapi-codegen", "-generate", "types,client", "-package", "oapiclient", "-o", "oapiclient/client.go", description}
		}},
	} {
		scenario(t, g.name, goVersion(t, "generated", g.module), "its client compiles, submits a job, and reads an event by its type and a problem", func(t *testing.T) {
			c := s.user(t, g.call)
			dir := filepath.Join(t.TempDir(), "generated")
			if err := os.CopyFS(dir, os.DirFS(filepath.Join(here, "generated"))); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"ogenclient", "oapiclient"} {
				if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			// ogen does not read numbers as exclusive bounds, and oapi-codegen reads OpenAPI 3.0 only.
			// With ogen.yml, ogen leaves out operations that it cannot express.
			output(t, dir, nil, "go", append([]string{"tool"}, g.generate(s.fetch(t, "/openapi-3.0.json"))...)...)
			if out := output(t, dir, []string{"URL=" + c.URL, "TOKEN=" + c.Access}, "go", "run", "./"+g.call); out != "The nature of light 404\n" {
				t.Errorf("%s", out)
			}
		})
	}
}
