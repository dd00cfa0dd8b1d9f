// Package programtest runs the program's commands for tests.
//
// The tests of a package share one build of the program and one Postgres. Each
// process ends with its test, and a test that fails shows the log of each of its
// processes. A data race that a process reports fails its test.
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

// Patience is how long anything may take on a machine that has much to do.
const Patience = time.Minute

// build is the program of this test binary: one for all tests, removed by Main.
var build struct {
	once   sync.Once
	path   string
	remove func() error
	err    error
}

// parallel is how many tests run at once unless the command line says otherwise.
// They wait for processes most of the time, so that processors are not the limit.
const parallel = "4"

// Main runs the tests of a package and removes the program that they used:
//
//	func TestMain(m *testing.M) { programtest.Main(m) }
func Main(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", parallel) // a number is a good value
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

// path returns the program, which the first call builds.
func path() (string, error) {
	build.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		build.path, build.remove, build.err = program.Build(ctx)
	})
	return build.path, build.err
}

// Path returns the path of the program, for tests that start it on their own.
func Path(t testing.TB) string {
	t.Helper()
	at, err := path()
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// Database returns an up-to-date database of the test's own. The program has
// migrated it.
func Database(t testing.TB) *pgtest.DB {
	t.Helper()
	Path(t) // a build may take longer than pgtest gives a migration
	return pgtest.New(t, migrate)
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	at, err := path()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, at, "migrate")
	cmd.Env = environment([]string{"DATABASE_URL=" + pool.Config().ConnString()})
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Eventually polls a condition that no event announces until it holds. A condition
// that does not hold within Patience fails the test.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

// environment returns the test's environment without the service's settings,
// and with those given. PGBIN, which says where Postgres is, stays.
func environment(settings []string) (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "COLOPHON_") && !strings.HasPrefix(e, "DATABASE_URL=") {
			env = append(env, e)
		}
	}
	return append(env, settings...)
}

// Process is a command that runs until it is told to stop: up, api or worker.
type Process struct {
	*program.Process
	URL    string // of a process that serves, without a slash at the end
	Worker string // name of a worker process

	t   testing.TB
	log *program.Log
}

var workerName = regexp.MustCompile(`msg=working worker=(\S+)`)

// Start starts a command with settings such as "DATABASE_URL=..." and returns
// once it serves or works. The process is killed when the test ends.
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

// Await waits until the log contains a text, and returns the whole log.
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

// Log returns all that the process has printed so far.
func (p *Process) Log() string { return p.log.String() }

// Exit waits for the process's end and returns its exit status, -1 after a
// signal. A process that still runs after the time fails the test.
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

// Stop asks the process to stop, and fails the test unless it does so with exit
// status 0.
func (p *Process) Stop() {
	p.t.Helper()
	if !p.Process.Stop(Patience) || p.ExitCode() != 0 {
		p.t.Errorf("%s did not stop in order: %v", p, p.exit())
	}
}

func (p *Process) exit() error {
	if p.Running() {
		return errors.New("it still runs")
	}
	return p.Err()
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.Exited():
		return false
	default:
		return true
	}
}

// Run runs a command to its end, with settings such as "DATABASE_URL=..." and
// with stdin as its input.
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
