// Package pgtest gives each test a PostgreSQL database of its own.
//
// The first test of a test binary starts a private server without durability. The
// server and its files disappear when the binary ends, even by a kill. So no package
// needs a TestMain. Migrations run once, into a template. The database of each test is
// a copy of the template. Tests may run in parallel.
//
// If DATABASE_URL is set, the databases are created on that server instead. A killed
// binary would leave a template there, so each test migrates its own database.
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

// AppRole is the database role of the service, which the migrations create.
const AppRole = "colophon_app"

// DB is one test's database.
type DB struct {
	URL   string        // connection URL of the database's owner
	Owner *pgxpool.Pool // connections of the owner, who may do everything in the database
	App   *pgxpool.Pool // connections with the few rights of AppRole
}

// Migrate creates the schema under test in an empty database.
type Migrate func(context.Context, *pgxpool.Pool) error

// New returns a database on which migrate has run. The database is dropped when the
// test ends. The test fails if it has not released every connection by then.
func New(t testing.TB, migrate Migrate) *DB {
	t.Helper()
	db := &DB{URL: newDatabase(t, migrate)}
	db.Owner = pool(t, "owner", func(context.Context) (*pgxpool.Pool, error) { return lazy(db.URL) })
	db.App = pool(t, AppRole, func(ctx context.Context) (*pgxpool.Pool, error) { return pg.Connect(ctx, db.URL, AppRole) })
	return db
}

// lazy returns a pool that connects at its first use, because many tests need no owner. A
// new connection takes about 35 ms of processor time.
func lazy(url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 10 // as the pool of the app has
	return pgxpool.NewWithConfig(context.Background(), cfg)
}

// Empty returns the owner's URL of an empty database, for tests of migrations and of
// whole programs. The database is dropped when the test ends.
func Empty(t testing.TB) string {
	t.Helper()
	return newDatabase(t, nil)
}

// Dir returns an empty directory for a private cluster, as MakeDir does. The directory is
// removed when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := MakeDir()
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
	// diskRoot is /tmp and not $TMPDIR. The path in $TMPDIR may be too long for a
	// socket, and the server's account may have no access to it.
	diskRoot = "/tmp"

	memoryRoot = "/dev/shm"
	minMemory  = 2 << 30 // free bytes of memory that the servers' files need
)

// MakeDir creates an empty directory that the server's account can reach, even if the
// tests run as root. That account cannot reach t.TempDir. The caller removes the
// directory.
//
// The directory is in memory if there is room. A cluster has a thousand files. In memory,
// creating and dropping these files takes a third of the processor time. The files outlive
// every process, so a durable server keeps its data when the test kills it.
func MakeDir() (string, error) {
	root := diskRoot
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memoryRoot, &fs); err == nil && fs.Bavail*uint64(fs.Bsize) >= minMemory {
		root = memoryRoot
	}
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
	// t.Context() is not used, because it ends before the cleanups run.
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

// pool opens a pool that is closed when the test ends.
func pool(t testing.TB, role string, open func(context.Context) (*pgxpool.Pool, error)) *pgxpool.Pool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := open(ctx)
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
	external bool      // true if DATABASE_URL names the server
	alive    io.Closer // the pipe of removeAtExit, which stays open while the process lives

	mu        sync.Mutex         // held while migrations run, and guards templates
	templates map[uintptr]string // name of the template database, by the pointer of the migrate function

	executing sync.Mutex // guards conn
	conn      *pgx.Conn  // creates and drops databases; nil before its first use
}

// shared starts the server at its first call. It is package state, which this code base
// otherwise avoids, because the server belongs to the whole process.
var shared = sync.OnceValues(func() (*host, error) {
	h := &host{templates: map[uintptr]string{}}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		h.url, h.external = url, true
		return h, nil
	}
	dir, err := MakeDir()
	if err != nil {
		return nil, err
	}
	if h.alive, err = removeAtExit(dir); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cluster, err := start(ctx, filepath.Join(dir, "postgres"), pg.Options{
		Bin:        os.Getenv("PGBIN"),
		Disposable: true,
	})
	if err != nil {
		return nil, err
	}
	h.url = cluster.URL()
	return h, nil
})

// removeAtExit starts a shell that outlives this process and removes dir. When this
// process ends, the shell's standard input is closed. The shell waits for that, and
// then for the end of the server. The caller must keep the returned pipe reachable,
// because the garbage collector would close it.
func removeAtExit(dir string) (io.Closer, error) {
	const script = `cat; while [ -e "$0/postgres/data/postmaster.pid" ] && [ $((n += 1)) -lt 100 ]; do sleep 0.1; done; rm -rf -- "$0"`
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", script, dir)
	cmd.Dir = "/"
	// In a session of its own, the shell gets no signals of the terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return in, cmd.Start()
}

// create creates a database. If it returns a name with an error, the caller must drop
// the database.
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

// copy creates a database by copying the files of another database. By default,
// Postgres copies through the write-ahead log instead. A copy of the files takes a
// quarter of that processor time.
func (h *host) copy(ctx context.Context, from, to string) error {
	return h.exec(ctx, "CREATE DATABASE "+to+" TEMPLATE "+from+" STRATEGY file_copy")
}

func (h *host) template(ctx context.Context, migrate Migrate) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := reflect.ValueOf(migrate).Pointer()
	if name, ok := h.templates[key]; ok {
		return name, nil
	}
	name := fmt.Sprintf("template_%d", len(h.templates))
	if err := h.exec(ctx, "DROP DATABASE IF EXISTS "+name); err != nil { // a failed migration may have left a database of this name
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

// migrate runs the migration under a lock for the whole server. Roles belong to the
// server, and other test binaries may migrate on the same server at the same time.
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

// exec executes a statement over the one connection that is kept for all tests.
func (h *host) exec(ctx context.Context, sql string) error {
	h.executing.Lock()
	defer h.executing.Unlock()
	if h.conn == nil || h.conn.IsClosed() {
		var err error
		if h.conn, err = pgx.Connect(ctx, h.url); err != nil {
			return err
		}
	}
	if _, err := h.conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// databaseURL returns the server's URL with another database name.
func (h *host) databaseURL(name string) string { return withDatabase(h.url, name) }
