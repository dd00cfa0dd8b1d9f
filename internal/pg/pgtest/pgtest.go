// Package pgtest gives each test a PostgreSQL database of its own.
//
// The first test of a test binary starts a private server with durability
// switched off; it is gone, with its files, when the binary has ended, however
// that happened, so that no package needs a TestMain. Migrations run once, into
// a template that each test's database is a copy of. Tests may run in parallel.
//
// With DATABASE_URL set the databases are made on that server instead. Nothing
// can clean up there after a binary was killed, so there is no template then:
// each test migrates its own database.
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
)

// AppRole is the role that migrations create for the service to act as.
const AppRole = "colophon_app"

// DB is one test's database.
type DB struct {
	URL   string        // as the owner
	Owner *pgxpool.Pool // may do everything
	App   *pgxpool.Pool // acts as AppRole
}

// Migrate brings an empty database to the schema under test.
type Migrate func(context.Context, *pgxpool.Pool) error

// New returns a database that migrate has prepared. It is dropped when the test
// ends; a test that ends with a connection still acquired fails.
func New(t testing.TB, migrate Migrate) *DB {
	t.Helper()
	db := &DB{URL: newDatabase(t, migrate)}
	db.Owner = connect(t, db.URL, "")
	db.App = connect(t, db.URL, AppRole)
	return db
}

// Empty returns the owner's URL of a database with nothing in it, for tests of
// migrations and of whole programs. It is dropped when the test ends.
func Empty(t testing.TB) string {
	t.Helper()
	return newDatabase(t, nil)
}

// Dir returns an empty directory that the test may start a private cluster in,
// as root too: t.TempDir lies where only the test's own account gets. It is
// removed when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := makeDir(diskRoot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
	})
	return dir
}

const (
	// diskRoot is not $TMPDIR, which may be too long for a socket and closed to the
	// server's account.
	diskRoot = "/tmp"

	memoryRoot = "/dev/shm"
	minMemory  = 2 << 30 // bytes
)

// serverRoot returns where the server of a test binary has its directory: in memory
// if there is room. Creating and dropping a database there takes a third of the
// processor time, because it is hundreds of files.
func serverRoot() string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memoryRoot, &fs); err == nil && fs.Bavail*uint64(fs.Bsize) >= minMemory {
		return memoryRoot
	}
	return diskRoot
}

// makeDir makes a directory that the server's account can reach.
func makeDir(root string) (string, error) {
	dir, err := os.MkdirTemp(root, "colophon-test-")
	if err != nil {
		return "", err
	}
	if os.Geteuid() == 0 {
		err = os.Chmod(dir, 0o711)
	}
	return dir, err
}

func newDatabase(t testing.TB, migrate Migrate) string {
	t.Helper()
	// Not t.Context(): it ends before the cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	srv, err := shared()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	name, err := srv.create(ctx, migrate)
	if name != "" {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := srv.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
				t.Errorf("pgtest: %v", err)
			}
		})
	}
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return srv.databaseURL(name)
}

func connect(t testing.TB, url, role string) *pgxpool.Pool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := pg.Connect(ctx, url, role)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() { pool.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Errorf("pgtest: %d connections of the test's pool (role %q) were never released", pool.Stat().AcquiredConns(), role)
		}
	})
	return pool
}

// host is the server that this test binary uses.
type host struct {
	url      string
	external bool      // somebody's, by DATABASE_URL
	alive    io.Closer // open for as long as the process lives, see removeAtExit

	mu        sync.Mutex         // held while migrations run
	templates map[uintptr]string // database name by migrate function
}

// shared starts the server at its first call. The one exception to "no state in
// packages": the server belongs to the process.
var shared = sync.OnceValues(func() (*host, error) {
	h := &host{templates: map[uintptr]string{}}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		h.url, h.external = url, true
		return h, nil
	}
	dir, err := makeDir(serverRoot())
	if err != nil {
		return nil, err
	}
	if h.alive, err = removeAtExit(dir); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cluster, err := pg.Start(ctx, filepath.Join(dir, "postgres"), pg.Options{
		Bin:        os.Getenv("PGBIN"),
		Disposable: true,
	})
	if err != nil {
		return nil, err
	}
	h.url = cluster.URL()
	return h, nil
})

// removeAtExit leaves behind a shell that waits for this process to end, which
// closes its standard input, then for the server to end, and then removes dir.
// The caller keeps what is returned reachable: collecting it closes it.
func removeAtExit(dir string) (io.Closer, error) {
	const script = `cat; while [ -e "$0/postgres/data/postmaster.pid" ] && [ $((n += 1)) -lt 100 ]; do sleep 0.1; done; rm -rf -- "$0"`
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", script, dir)
	cmd.Dir = "/"
	// A signal to the terminal's processes is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return in, cmd.Start()
}

// create makes a database. It returns its name also with an error, when there
// is something to drop.
func (h *host) create(ctx context.Context, migrate Migrate) (string, error) {
	name := "test_" + strings.ToLower(rand.Text())
	if migrate == nil {
		return name, h.exec(ctx, "CREATE DATABASE "+name)
	}
	if h.external {
		if err := h.exec(ctx, "CREATE DATABASE "+name); err != nil {
			return "", err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		return name, h.migrate(ctx, name, migrate)
	}
	template, err := h.template(ctx, migrate)
	if err != nil {
		return "", err
	}
	return name, h.copy(ctx, template, name)
}

// copy copies a database by its files, which takes a quarter of the processor time
// of the default strategy, a copy through the write-ahead log. PostgreSQL 14 has
// only the former.
func (h *host) copy(ctx context.Context, from, to string) error {
	conn, err := pgx.Connect(ctx, h.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	sql := "CREATE DATABASE " + to + " TEMPLATE " + from
	if !strings.HasPrefix(conn.PgConn().ParameterStatus("server_version"), "14.") {
		sql += " STRATEGY file_copy"
	}
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (h *host) template(ctx context.Context, migrate Migrate) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := reflect.ValueOf(migrate).Pointer()
	if name, ok := h.templates[key]; ok {
		return name, nil
	}
	name := fmt.Sprintf("template_%d", len(h.templates))
	if err := h.exec(ctx, "DROP DATABASE IF EXISTS "+name); err != nil { // of a failed attempt
		return "", err
	}
	if err := h.exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	if err := h.migrate(ctx, name, migrate); err != nil {
		return "", err
	}
	h.templates[key] = name
	return name, nil
}

// migrate runs under a lock of the whole server: roles are not a database's
// own, and other test binaries may be at work on the same server.
func (h *host) migrate(ctx context.Context, name string, migrate Migrate) error {
	conn, err := pgx.Connect(ctx, h.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtext('colophon pgtest'))`); err != nil {
		return err
	}
	pool, err := pg.Connect(ctx, h.databaseURL(name), "")
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrate(ctx, pool); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func (h *host) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, h.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// databaseURL is the server's URL with another database.
func (h *host) databaseURL(name string) string { return withDatabase(h.url, name) }
