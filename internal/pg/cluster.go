package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/datadir"
)

const (
	// owner is the superuser of a private cluster. database is the only database that
	// the service keeps in the cluster.
	owner    = "colophon"
	database = "colophon"
	port     = "5432" // only names the socket file, because the server listens on no network port

	// poll is the interval between two checks of a state that sends no event. Examples
	// are a lock of another process and a server that is starting.
	poll = 20 * time.Millisecond
)

// Options change how Start runs the server.
type Options struct {
	// Bin is the directory that holds initdb and postgres. If Bin is empty, Start
	// searches the usual directories, which the text of ErrNoServer lists.
	Bin string
	// Log gets a record of each server that was started, found running or moved
	// elsewhere. If Log is nil, nothing is recorded.
	Log *slog.Logger
	// Disposable trades durability for speed. A crash of the machine may lose the whole
	// cluster. Only tests should set Disposable.
	Disposable bool
}

// Cluster is a running private PostgreSQL server.
type Cluster struct {
	dir    directory
	socket string  // directory of the socket
	server *server // nil when another process started it

	// These fields are set for a server that another process started. They report its
	// end.
	ended   chan struct{}
	unwatch context.CancelFunc
}

// Start returns the private server whose files are in dir. It creates dir if dir is
// missing. If a server already runs in dir, Start uses that server. Otherwise it starts
// a server. Start returns when the server answers. As long as ctx allows, Start also
// waits for a server that is starting, recovering or stopping. Start returns
// ErrNoServer if this machine has no PostgreSQL to start.
//
// PostgreSQL refuses to run as root. So for root, Start runs PostgreSQL as the owner of
// an existing cluster. If there is no cluster, Start uses the account postgres. If that
// account is missing, Start uses the account nobody. If the account cannot reach dir,
// Start puts the cluster below /var/lib/colophon (or /var/tmp) and makes dir a symbolic
// link to the cluster. Removing or moving dir still works.
func Start(ctx context.Context, dir string, opt Options) (*Cluster, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("private postgres: %w", err)
	}
	c, err := start(ctx, dir, opt)
	if err != nil {
		return nil, fmt.Errorf("private postgres in %s: %w", dir, err)
	}
	return c, nil
}

func start(ctx context.Context, dir string, opt Options) (*Cluster, error) {
	slow := time.AfterFunc(5*time.Second, func() {
		opt.Log.Info("waiting for the private postgres, which recovers first after a crash", "dir", dir)
	})
	defer slow.Stop()

	lock, running, err := acquire(ctx, dir)
	if err != nil {
		return nil, err
	}
	if running != nil {
		running.watch(lock)
		if err := running.ensureDatabase(ctx); err != nil {
			running.unwatch()
			return nil, err
		}
		opt.Log.Info("private postgres found running", "dir", dir)
		return running, nil
	}
	// The server inherits the lock when it starts. Before that, this open file holds
	// the lock.
	defer lock.Close()

	bin, pl, err := prepare(ctx, dir, opt)
	if err != nil {
		return nil, err
	}
	if err := pl.initdb(ctx, bin, opt.Disposable); err != nil {
		return nil, err
	}
	if err := pl.disownPidfile(); err != nil {
		return nil, err
	}
	socket, err := pl.socketDir()
	if err != nil {
		return nil, err
	}
	srv, err := pl.launch(bin, socket, lock, opt.Disposable)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: pl, socket: socket, server: srv}
	if err = c.ready(ctx); err == nil {
		err = c.ensureDatabase(ctx)
	}
	if err != nil {
		// If ctx ended the wait, the server must not outlive ctx. So stop has a context
		// of its own.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, c.Stop(stop))
	}
	opt.Log.Info("private postgres started", "dir", pl.dir, "version", bin.version, "pid", srv.pid())
	return c, nil
}

// prepare finds the programs and the directory, which depend on each other. The
// directory tells which major version wrote the data and which account may read the
// data. The programs tell whether that account can reach the directory.
func prepare(ctx context.Context, dir string, opt Options) (binaries, directory, error) {
	pl, err := locate(dir)
	if err != nil {
		return binaries{}, directory{}, err
	}
	if err := CheckPrograms(opt.Bin); err != nil {
		return binaries{}, directory{}, err
	}
	bin, err := chooseBinaries(ctx, candidates(ctx, opt.Bin), pl)
	if err != nil {
		return binaries{}, directory{}, err
	}
	moved, err := pl.settle(ctx, dir, bin)
	if err != nil {
		return binaries{}, directory{}, err
	}
	if moved {
		opt.Log.Warn("cluster moved: the account that runs postgres cannot reach the data directory",
			"link", dir, "cluster", pl.dir)
	}
	return bin, pl, nil
}

// acquire takes the lock of dir, or returns the cluster that already runs in dir. In both
// cases the caller closes the lock's file.
//
// The lock is a flock on <dir>.lock. Start holds the lock while it prepares the server.
// Then the server and all its backends inherit the lock. So the lock is free exactly
// when no process can be writing to the data directory. This holds for a recycled
// process id, for a zombie, and across containers that share the directory. In these
// cases postmaster.pid proves nothing.
func acquire(ctx context.Context, dir string) (lock *os.File, running *Cluster, err error) {
	if err := datadir.Make(filepath.Dir(dir)); err != nil {
		return nil, nil, err
	}
	lock, err = datadir.OpenLock(dir + ".lock")
	if errors.Is(err, os.ErrPermission) {
		return nil, nil, fmt.Errorf("%w (the directory belongs to another account)", err)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		free, err := datadir.TryLock(lock)
		if err != nil {
			return nil, nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		// A server that was started by hand can run although the lock is free. If such
		// a server answers, Start uses it.
		pl, err := locate(dir)
		var at pidfile
		if err == nil {
			at, err = probe(ctx, pl.data())
		}
		switch {
		case err == nil:
			if free {
				err = datadir.Unlock(lock)
			}
			return lock, &Cluster{dir: pl, socket: at.socket}, err
		case refused(err):
			return nil, nil, err
		case free:
			return lock, nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for %s, which a server or another start holds: %w (last answer: %w)", lock.Name(), context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// watchEvery is the interval at which a process checks a server that another process
// started. The kernel tells only the parent of a server that the server has ended.
const watchEvery = 250 * time.Millisecond

// watch closes c.ended when the server has ended. It closes lock at the same time, or
// when c.unwatch is called.
func (c *Cluster) watch(lock *os.File) {
	c.ended = make(chan struct{})
	var ctx context.Context
	ctx, c.unwatch = context.WithCancel(context.Background())
	go func() {
		defer lock.Close()
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if c.gone(ctx, lock) {
					close(c.ended)
					return
				}
			}
		}
	}()
}

// gone reports whether no server runs in the directory. A running server holds the lock,
// unless it was started by hand. A server that was started by hand answers.
func (c *Cluster) gone(ctx context.Context, lock *os.File) bool {
	free, err := datadir.TryLock(lock)
	if err != nil || !free || datadir.Unlock(lock) != nil {
		return false
	}
	_, err = probe(ctx, c.dir.data())
	_, answered := errors.AsType[*pgconn.PgError](err)
	return err != nil && !answered && ctx.Err() == nil
}

// ready waits until the server that c started answers.
func (c *Cluster) ready(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		at, err := probe(ctx, c.dir.data())
		if err == nil && at.pid == c.server.pid() {
			break
		}
		if refused(err) {
			return err
		}
		select {
		case <-c.server.exited:
			return fmt.Errorf("the server exited at start (%w):\n%s", c.server.err, c.dir.logTail())
		case <-ctx.Done():
			return fmt.Errorf("wait for the server: %w (last: %w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
	return nil
}

// ensureDatabase creates the service's database unless it exists. Every call of Start
// does this, because the process that started the server may have died before it
// created the database.
func (c *Cluster) ensureDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.url("postgres"))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(ctx)
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, database).Scan(&exists); err != nil {
		return fmt.Errorf("look for the database: %w", err)
	}
	if exists {
		return nil
	}
	_, err = conn.Exec(ctx, `CREATE DATABASE `+pgx.Identifier{database}.Sanitize())
	// If two processes create the database at once, the second process gets one of
	// these errors. Then the database exists.
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && (pgErr.Code == "42P04" || pgErr.Code == "23505") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return nil
}

// URL returns the connection URL of the service's database, as its owner. The URL
// contains no secret. The permissions of the socket's directory keep other accounts
// out.
func (c *Cluster) URL() string { return c.url(database) }

// LoginURL returns the connection URL of the service's database for another login, which
// the owner has to create.
func (c *Cluster) LoginURL(login string) string { return loginURL(c.socket, database, login) }

func (c *Cluster) url(database string) string { return socketURL(c.socket, database) }

func socketURL(socket, database string) string { return loginURL(socket, database, owner) }

func loginURL(socket, database, login string) string {
	u := url.URL{Scheme: "postgres", User: url.User(login), Path: "/" + database}
	u.RawQuery = url.Values{"host": {socket}, "port": {port}, "sslmode": {"disable"}}.Encode()
	return u.String()
}

// Exited returns a channel that is closed when the server has ended, by Stop or by itself.
// For a server that another process started, the channel is closed within a second of the
// server's end, and never after Stop.
func (c *Cluster) Exited() <-chan struct{} {
	if c.server == nil {
		return c.ended
	}
	return c.server.exited
}

// PID returns the process id of the server that this process started, also after the
// server has ended. For a server that another process started, PID returns 0.
func (c *Cluster) PID() int {
	if c.server == nil {
		return 0
	}
	return c.server.pid()
}

// Stop ends the server that Start started and waits for the server's end. Clients are
// disconnected, and everything committed is on disk. If ctx ends first, Stop kills the
// server. A kill loses nothing, but the next start must recover. A server that another
// process started goes on. A second Stop does nothing.
func (c *Cluster) Stop(ctx context.Context) error {
	if c.server == nil {
		c.unwatch()
		return nil
	}
	err := c.server.stop(ctx)
	if filepath.Dir(c.socket) != c.dir.dir {
		os.Remove(c.socket) // a socket's directory in /tmp is empty after the server has ended
	}
	return err
}

// logTail returns the end of the server's log, for an error message.
func (d directory) logTail() string {
	f, err := os.OpenInRoot(d.dir, "log")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const tail = 2 << 10
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-tail), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	return strings.TrimSpace(string(b))
}
