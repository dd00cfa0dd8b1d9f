package clients

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// npm is the directory of the clients for Node.
func npm(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(here, "npm")
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal("the clients for Node are missing: npm --prefix test/clients/npm ci")
	}
	return dir
}

// npmVersion returns the version of a package that package.json pins.
func npmVersion(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(npm(t), "package.json"))
	if err != nil {
		t.Fatal(err)
	}
	var pinned struct{ Dependencies map[string]string }
	if err := json.Unmarshal(raw, &pinned); err != nil {
		t.Fatal(err)
	}
	if pinned.Dependencies[name] == "" {
		t.Fatalf("package.json has no %s", name)
	}
	return pinned.Dependencies[name]
}

// run runs a program in Node and decodes the JSON that it prints.
func run(t *testing.T, into any, file string, env ...string) {
	t.Helper()
	out := output(t, npm(t), env, "node", file)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%s: %v in %.4000s", file, err, out)
	}
}

// scenarios runs a file of scenarios for Node's test runner. Each of its tests is a scenario of
// the client. A test that is skipped is reported as not done.
func scenarios(t *testing.T, client, version, file string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "--test-reporter=./reporter.js", "--test-force-exit", file)
	cmd.Dir, cmd.Env = npm(t), append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		var result struct {
			Name    string
			Error   *string
			Skipped bool
		}
		if err := json.Unmarshal([]byte(line), &result); err != nil {
			t.Fatalf("%s: %v in %.4000s", file, err, line)
		}
		n++
		scenario(t, client, version, result.Name, func(t *testing.T) {
			switch {
			case result.Skipped:
				t.Skip("not done")
			case result.Error != nil:
				t.Error(*result.Error)
			}
		})
	}
	if n == 0 || err != nil && !t.Failed() {
		t.Errorf("%s: %d scenarios, %v\n%.4000s", file, n, err, errs.String())
	}
}

// testNpm uses clients for Node.
func testNpm(t *testing.T, s *service) {
	limited := s.api(t, "--limit-keys=1/2s")
	for _, c := range []struct {
		packages []string
		files    []string
	}{
		{[]string{"openai"}, []string{"openai.js", "logprobs.js", "batches.js"}},
		{[]string{"ai", "@ai-sdk/openai"}, []string{"ai.js", "logprobs.js"}},
		{[]string{"ai", "@ai-sdk/openai-compatible"}, []string{"ai.js"}},
		{[]string{"ai", "@ai-sdk/open-responses"}, []string{"ai.js"}},
		{[]string{"@langchain/openai"}, []string{"langchain.js", "logprobs.js"}},
	} {
		provider := c.packages[len(c.packages)-1]
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			versions := make([]string, len(c.packages))
			for i, name := range c.packages {
				versions[i] = npmVersion(t, name)
			}
			user := "npm-" + strings.NewReplacer("@", "", "/", "-").Replace(provider)
			env := append(s.env(t, user), "STAGE=live", "PROVIDER="+provider, "LIMITED="+limited.URL)
			for _, file := range c.files {
				scenarios(t, strings.Join(c.packages, ", "), strings.Join(versions, ", "), file, env...)
			}
		})
	}
	t.Run("openresponses", func(t *testing.T) {
		t.Parallel()
		const client, version = "compliance cases of OpenResponses", "2026-04-24"
		schema := filepath.Join(here, "..", "..", "..", "shared", "openresponses", "openapi.json") // beside the clone
		switch raw, err := os.ReadFile(schema); {
		case errors.Is(err, fs.ErrNotExist):
			schema = ""
		case err != nil || !strings.Contains(string(raw), version):
			t.Fatalf("%s is not of %s: %v", schema, version, err)
		}
		scenarios(t, client, version, "openresponses.js", append(s.env(t, "openresponses"), "SCHEMA="+schema)...)
	})
}

// env returns the environment of scenarios with a new user.
func (s *service) env(t *testing.T, user string) []string {
	t.Helper()
	return []string{"KEY=" + s.key(t, user), "URL=" + s.apis[0].URL, "OTHER=" + s.apis[1].URL}
}
