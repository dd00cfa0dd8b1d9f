package clients

import (
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
			switch {
			case t.Failed():
				result = "failed"
			case t.Skipped():
				result = "not done"
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
		s := start(t)
		s.work()
		for name, test := range map[string]func(*testing.T, *service){
			"browser":     testBrowser,
			"description": testDescription,
			"generated":   testGenerated,
			"npm":         testNpm,
			"openai":      testOpenAI,
			"sessions":    testSessions,
			"streams":     testStreams,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, s)
			})
		}
		t.Run("killed", testKilled)
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

// service is two processes of the API and a worker over one database. The scenarios share
// one, unless they stop its processes.
type service struct {
	t        *testing.T
	apis     [2]*programtest.Process
	worker   *programtest.Process
	settings []string
}

// start starts a service without its worker.
func start(t *testing.T) *service {
	t.Helper()
	db := programtest.Database(t)
	s := &service{t: t, settings: []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir()}}
	for i := range s.apis {
		s.apis[i] = s.api(t, "--no-rate-limits", "--max-streams=0")
	}
	return s
}

// work starts the worker.
func (s *service) work() {
	s.t.Helper()
	s.worker = programtest.Start(s.t, s.settings, "worker")
}

// api starts one more process of the API for a test.
func (s *service) api(t *testing.T, args ...string) *programtest.Process {
	t.Helper()
	return programtest.Start(t, s.settings, append([]string{"api", "--listen", "127.0.0.1:0"}, args...)...)
}

// user returns a client of a new user.
func (s *service) user(t *testing.T, name string) apitest.Client {
	t.Helper()
	return apitest.NewUser(t, s.apis[0].URL, name)
}

// key returns an API key of a new user.
func (s *service) key(t *testing.T, name string) string {
	t.Helper()
	var key struct{ Key string }
	s.user(t, name).Do("POST", "/keys", `{"name":"test"}`).Must(t, 201).Into(t, &key)
	return key.Key
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

// goVersion returns the version of a module that the go.mod in a directory of this package
// requires.
func goVersion(t *testing.T, dir, module string) string {
	t.Helper()
	return strings.TrimSpace(output(t, filepath.Join(here, dir), nil, "go", "list", "-m", "-f", "{{.Version}}", module))
}
