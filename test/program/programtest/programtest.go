// Package programtest runs the program's commands for tests.
//
// The tests of a package share one build of the program and one Postgres. Each process
// ends when its test ends. A failed test prints the logs of its processes. If a process
// reports a data race, its test fails.
package programtest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg/pgtest"
	"colophon/test/program"
)

// Patience is the limit of any single wait. It is long enough for a busy machine.
const Patience = time.Minute

// build is the program that all tests of this test binary share. Main removes the
// program.
var build struct {
	once   sync.Once
	path   string
	remove func() error
	err    error
}

// parallel is the default of -test.parallel. Tests mostly wait for processes, so the
// default does not depend on the number of processors.
const parallel = "4"

// Main runs the tests of a package, removes the program built for them, and exits:
//
//	func TestMain(m *testing.M) { programtest.Main(m) }
func Main(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", parallel) // the error is ignored, because Set accepts every number
	}
	code := m.Run()
	if build.remove != nil {
		if err := build.remove(); err != nil {
			fmt.Fprintln(os.Stderr, "remove the program:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// path returns the path of the program. The first call builds the program.
func path() (string, error) {
	build.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if os.Getenv(program.Variable) == "" {
			build.err = statSources()
		}
		if build.err == nil {
			build.path, build.remove, build.err = program.Build(ctx)
		}
	})
	return build.path, build.err
}

// Path returns the path of the program. It is for tests that start the program
// themselves.
func Path(t testing.TB) string {
	t.Helper()
	file, err := path()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Database returns a database for the test alone. The program migrates this database, and
// the database is dropped after the test.
func Database(t testing.TB) *pgtest.DB {
	t.Helper()
	Path(t) // the build comes first, because it may take longer than a migration may take
	return pgtest.New(t, migrate)
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	file, err := path()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, file, "migrate")
	cmd.Env = environment([]string{"DATABASE_URL=" + pool.Config().ConnString()})
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Eventually polls a condition until the condition holds. It is for conditions that no
// event announces. If the condition does not hold within Patience, the test fails.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

// environment returns the test's environment, in which the given settings replace all
// settings of the service. PGBIN, the directory of Postgres, stays.
func environment(settings []string) (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "COLOPHON_") && !strings.HasPrefix(e, "DATABASE_URL=") {
			env = append(env, e)
		}
	}
	return append(env, settings...)
}

// Process is a command that runs until a signal. The command is up, api or worker.
type Process struct {
	*program.Process
	URL    string // URL of up and api, without a trailing slash
	Worker string // name of the process of a worker

	t   testing.TB
	log *program.Log
}

var workerName = regexp.MustCompile(`msg=working worker=(\S+)`)

// Start starts a command with settings such as "DATABASE_URL=...". It returns as soon as
// the process is ready. The process is killed when the test ends.
func Start(t testing.TB, settings []string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, log: new(program.Log)}
	var err error
	if p.Process, err = program.Start(p.log, environment(settings), Path(t), args...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		log := p.log.String()
		if strings.Contains(log, "WARNING: DATA RACE") {
			t.Errorf("data race in %s", p)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%.20000s", p, log)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if p.URL, err = p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if args[0] == "worker" {
		p.URL, p.Worker = "", workerName.FindStringSubmatch(p.Await("msg=working"))[1]
	}
	return p
}

// Await waits until the log contains a text, and returns the whole log so far. After
// Patience it ends the test.
func (p *Process) Await(text string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	log, err := p.log.Await(ctx, text)
	if err != nil {
		p.t.Fatal(err)
	}
	return log
}

// Log returns the output of the process so far.
func (p *Process) Log() string { return p.log.String() }

// Exit waits for the process to end. It returns the exit status, or -1 if a signal ended
// the process. If the process still runs after the given time, Exit ends the test.
func (p *Process) Exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.Exited():
		return p.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("%s still runs after %s", p, within)
		return 0
	}
}

// Stop sends SIGTERM. The test fails unless the process ends with exit status 0 within
// Patience.
func (p *Process) Stop() {
	p.t.Helper()
	if !p.Process.Stop(Patience) || p.ExitCode() != 0 {
		p.t.Errorf("%s did not stop cleanly: %v", p, p.stopError())
	}
}

func (p *Process) stopError() error {
	if p.Running() {
		return errors.New("it still runs")
	}
	return p.Err()
}

// Running reports whether the process still runs.
func (p *Process) Running() bool {
	select {
	case <-p.Exited():
		return false
	default:
		return true
	}
}

// Run runs a command with settings such as "DATABASE_URL=..." and with stdin as its
// input. If the command does not end within Patience, Run kills it and returns the exit
// code -1.
func Run(t testing.TB, settings []string, stdin string, args ...string) (stdout, stderr string, exitCode int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, Path(t), args...)
	cmd.Env = environment(settings)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}
