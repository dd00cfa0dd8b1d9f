package pg_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// shared returns the directory of a cluster that the tests use one after another,
// because the creation of a cluster takes seconds.
var shared = sync.OnceValues(pgtest.MakeDir)

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := shared(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// stopped returns the directory of a stopped cluster.
func stopped(t *testing.T) string {
	t.Helper()
	dir, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "postgres")
	stop(t, start(t, dir))
	free(t, dir)
	return dir
}

// start starts the cluster and stops it when the test ends.
func start(t *testing.T, dir string) *pg.Cluster {
	t.Helper()
	return startWith(t, dir, options())
}

func startWith(t *testing.T, dir string, opt pg.Options) *pg.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := pg.Start(ctx, dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, c) })
	return c
}

func durable() pg.Options { return pg.Options{Bin: os.Getenv("PGBIN")} }

// options returns the options for tests that need no durability.
func options() pg.Options { return pg.Options{Bin: os.Getenv("PGBIN"), Disposable: true} }

func stop(t *testing.T, c *pg.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func exec1(t *testing.T, c *pg.Cluster, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func query1(t *testing.T, c *pg.Cluster, sql string) (v string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// serverPID returns the process id of the server, or 0 if there is no server.
func serverPID(dir string) int {
	b, _ := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	line, _, _ := strings.Cut(string(b), "\n")
	pid, _ := strconv.Atoi(line)
	return pid
}

// free waits until no process of the server is left.
func free(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(dir+".lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	deadline := time.After(30 * time.Second)
	for syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		select {
		case <-deadline:
			t.Fatalf("the server in %s does not end", dir)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestDataOutlivesStopAndStart(t *testing.T) {
	dir := stopped(t)
	c := start(t, dir)
	exec1(t, c, `DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 'as it was' AS v`)
	stop(t, c)
	select {
	case <-c.Exited():
	default:
		t.Fatal("stopped, but Exited is open")
	}
	stop(t, c) // stopped a second time, which must do nothing
	free(t, dir)

	c = startWith(t, dir, durable())
	if v := query1(t, c, `SELECT v FROM kept`); v != "as it was" {
		t.Fatalf("after the restart: %q", v)
	}
	// The server's settings must keep committed data safe, and the modes of its
	// directories must keep other accounts out.
	for setting, want := range map[string]string{"fsync": "on", "full_page_writes": "on", "listen_addresses": "", "data_checksums": "on"} {
		if got := query1(t, c, `SELECT current_setting('`+setting+`')`); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	for sub, want := range map[string]os.FileMode{"data": 0o700, "run": 0o700} {
		if fi, err := os.Stat(filepath.Join(dir, sub)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", sub, fi.Mode(), err, want)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "run", ".s.PGSQL.5432")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("socket: %v, %v", fi, err)
	}
}

func TestOnlyTheStarterStopsTheServer(t *testing.T) {
	dir := stopped(t)
	first := start(t, dir)
	second := start(t, dir)
	if second.URL() != first.URL() {
		t.Fatalf("%s and %s", first.URL(), second.URL())
	}
	if second.PID() != 0 {
		t.Fatal("the second says that it started the server")
	}
	third := start(t, dir)
	stop(t, second)
	query1(t, first, `SELECT 'still there'`)
	select {
	case <-third.Exited():
		t.Fatal("the server runs, but Exited is closed")
	default:
	}
	// A process that uses the server of another process must learn that the server has
	// ended.
	stop(t, first)
	<-third.Exited()
	select {
	case <-second.Exited():
		t.Error("Exited is closed after Stop")
	default:
	}
}

func TestConcurrentStartsShareOneServer(t *testing.T) {
	dir := filepath.Join(pgtest.Dir(t), "postgres")
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		started int
	)
	for range 6 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, err := pg.Start(ctx, dir, options())
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { stop(t, c) })
			if c.PID() != 0 {
				mu.Lock()
				started++
				mu.Unlock()
			}
			conn, err := pgx.Connect(ctx, c.URL())
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close(ctx)
		})
	}
	wg.Wait()
	if started != 1 {
		t.Fatalf("%d of 6 started a server", started)
	}
}

// TestStartWaitsForAStoppingServer calls Start repeatedly while the server of the
// previous Start stops. Each call must return a working server.
func TestStartWaitsForAStoppingServer(t *testing.T) {
	dir := stopped(t)
	c := start(t, dir)
	for range 5 {
		if err := syscall.Kill(serverPID(dir), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		next := start(t, dir)
		if next.PID() == 0 { // Start found the old server, which still answered
			<-c.Exited()
			next = start(t, dir)
		}
		query1(t, next, `SELECT 'works'`)
		c = next
	}
}

func TestLongPathGetsASocketInTmp(t *testing.T) {
	short := stopped(t)
	dir := filepath.Join(pgtest.Dir(t), strings.Repeat("long/", 40), "postgres")
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o711), os.Rename(short, dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename(dir, short); err != nil {
			t.Error(err)
		}
	})
	var socket string
	for range 2 {
		c := start(t, dir)
		query1(t, c, `SELECT 'works'`)
		cfg, err := pgx.ParseConfig(start(t, dir).URL()) // this second Start uses the running server
		if err != nil {
			t.Fatal(err)
		}
		socket = cfg.Host
		fi, err := os.Stat(socket)
		if err != nil || fi.Mode() != os.ModeDir|0o700 {
			t.Fatalf("socket directory %s: %v, %v", socket, fi, err)
		}
		stop(t, c)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("socket directory %s is left: %v", socket, err)
	}
}

// TestClusterMovesWhereItsAccountCanReachIt starts a cluster as root in a directory
// that the server's account cannot reach. Start must put the cluster in a directory
// that the account can reach.
//
// security: ASVS 13.2.2
func TestClusterMovesWhereItsAccountCanReachIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user's server runs as that user")
	}
	dir := filepath.Join(t.TempDir(), "postgres") // t.TempDir has the mode 0700
	var log bytes.Buffer
	opt := options()
	opt.Log = slog.New(slog.NewTextHandler(&log, nil))
	c, err := pg.Start(t.Context(), dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	exec1(t, c, `CREATE TABLE kept AS SELECT 'elsewhere' AS v`)
	elsewhere, err := os.Readlink(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(elsewhere) })
	if !strings.Contains(log.String(), elsewhere) {
		t.Errorf("the log does not say where it is: %s", &log)
	}
	stop(t, c)
	c = start(t, dir)
	if v := query1(t, c, `SELECT v FROM kept`); v != "elsewhere" {
		t.Fatalf("after the restart: %q", v)
	}
	stop(t, c)

	if err := os.RemoveAll(elsewhere); err != nil {
		t.Fatal(err)
	}
	if _, err := pg.Start(t.Context(), dir, options()); err == nil || !strings.Contains(err.Error(), elsewhere) {
		t.Fatalf("with the cluster gone: %v", err)
	}
}

func TestMissingProgramsAreExplained(t *testing.T) {
	for _, way := range []string{"apt-get install postgresql", "docker compose up", "DATABASE_URL="} {
		if !strings.Contains(pg.ErrNoServer.Error(), way) {
			t.Errorf("the message does not say %q:\n%v", way, pg.ErrNoServer)
		}
	}
	// If the user has named a directory without the programs, the error must name this
	// directory.
	for _, bin := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		_, err := pg.Start(t.Context(), filepath.Join(t.TempDir(), "postgres"), pg.Options{Bin: bin})
		if err == nil || !strings.Contains(err.Error(), "PGBIN") || !strings.Contains(err.Error(), bin) {
			t.Errorf("%s: %v", bin, err)
		}
	}
}

func TestStartDeletesNothingThatIsNotACluster(t *testing.T) {
	dir := filepath.Join(pgtest.Dir(t), "postgres")
	if err := os.MkdirAll(filepath.Join(dir, "data", "holiday-pictures"), 0o711); err != nil {
		t.Fatal(err)
	}
	if _, err := pg.Start(t.Context(), dir, options()); err == nil || !strings.Contains(err.Error(), "not a cluster") {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "holiday-pictures")); err != nil {
		t.Fatal(err)
	}
}
