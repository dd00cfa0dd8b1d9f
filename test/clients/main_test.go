package clients

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

var report = flag.String("report", "", "file that gets the report of the scenarios, relative to this package")

// here is the directory of this package.
var here string

func TestMain(m *testing.M) {
	var err error
	if here, err = os.Getwd(); err == nil {
		// The program is built from the module of the working directory.
		err = os.Chdir(filepath.Join("..", ".."))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programtest.Main(m)
}

// row is a line of the report.
type row struct{ client, version, scenario, result string }

var rows struct {
	sync.Mutex
	all []row
}

// scenario runs a scenario of a client and adds its result to the report.
func scenario(t *testing.T, client, version, name string, run func(*testing.T)) {
	t.Helper()
	t.Run(client+"/"+name, func(t *testing.T) {
		defer func() {
			result := "passed"
			if t.Failed() {
				result = "failed"
			}
			rows.Lock()
			defer rows.Unlock()
			rows.all = append(rows.all, row{client, version, name, result})
		}()
		run(t)
	})
}

// TestClients runs all scenarios and writes the report, if one is wanted.
func TestClients(t *testing.T) {
	t.Run("all", func(t *testing.T) { // it returns when all parallel groups have ended
		t.Run("description", testDescription)
		t.Run("generated", testGenerated)
		t.Run("streams", testStreams)
		t.Run("sessions", testSessions)
	})
	if *report == "" {
		return
	}
	slices.SortFunc(rows.all, func(a, b row) int {
		return strings.Compare(a.client+"\x00"+a.scenario, b.client+"\x00"+b.scenario)
	})
	var text strings.Builder
	text.WriteString("# Clients that other people wrote\n\n" +
		"The tests of [test/clients](../../test/clients/doc.go) run these clients against the real program. This report is theirs:\n\n" +
		"```sh\nnpm --prefix test/clients/npm ci\ngo -C test/clients test -count=1 ./... -report ../../docs/reports/clients.md\n```\n\n" +
		"| client | version | scenario | result |\n|---|---|---|---|\n")
	for _, r := range rows.all {
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r.client, r.version, r.scenario, r.result)
	}
	file := *report
	if !filepath.IsAbs(file) {
		file = filepath.Join(here, file)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// service is two processes of the API and a worker over one database.
type service struct {
	apis     [2]*programtest.Process
	settings []string
}

func start(t *testing.T) *service {
	t.Helper()
	db := programtest.Database(t)
	s := &service{settings: []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir()}}
	for i := range s.apis {
		s.apis[i] = programtest.Start(t, s.settings, "api", "--listen", "127.0.0.1:0", "--no-rate-limits")
	}
	programtest.Start(t, s.settings, "worker")
	return s
}

// user returns a client of a new user.
func (s *service) user(t *testing.T, name string) apitest.Client {
	t.Helper()
	return apitest.NewUser(t, s.apis[0].URL, name)
}

// fetch saves an answer of the service in a file.
func (s *service) fetch(t *testing.T, path string) (file string) {
	t.Helper()
	a := apitest.Client{T: t, URL: s.apis[0].URL}.Do("GET", path, "").Must(t, 200)
	file = filepath.Join(t.TempDir(), strings.TrimPrefix(path, "/"))
	if err := os.WriteFile(file, a.Body, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// output runs a command in a directory and returns its standard output. A command that fails
// fails the test.
func output(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...) // a compiler may take as long as the test may
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%.4000s\n%.4000s", name, args, err, out, errs.String())
	}
	return string(out)
}

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

// goVersion returns the version of a module that the go.mod in a directory of this package
// requires.
func goVersion(t *testing.T, dir, module string) string {
	t.Helper()
	return strings.TrimSpace(output(t, filepath.Join(here, dir), nil, "go", "list", "-m", "-f", "{{.Version}}", module))
}

// run runs a scenario in Node and decodes the JSON that it prints.
func run(t *testing.T, into any, file string, env ...string) {
	t.Helper()
	out := output(t, npm(t), env, "node", file)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%s: %v in %.4000s", file, err, out)
	}
}
