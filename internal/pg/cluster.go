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
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// owner is the superuser of a private cluster, and database the one database
	// the service keeps in it.
	owner    = "colophon"
	database = "colophon"
	port     = "5432" // names the socket file; nothing listens on the network

	// poll is the interval between checks of a state that sends no event: a lock of
	// another process, a server that is starting.
	poll = 20 * time.Millisecond
)

// Options are the choices of a caller of Start.
type Options struct {
	// Bin is the directory that holds initdb and postgres. If it is empty, Start
	// searches the usual directories; see ErrNoServer.
	Bin string
	// Log gets a record of each server that was started, found running or moved
	// elsewhere. If it is nil, there are no records.
	Log *slog.Logger
	// Disposable trades durability for speed: a crash of the machine may lose
	// the whole cluster. For tests.
	Disposable bool
}

// Cluster is a running private PostgreSQL server.
type Cluster struct {
	dir    directory
	socket string  // directory of the socket
	server *server // nil when another process started it
}

// Start returns the private server whose files are in dir, which Start creates if
// it is missing. It uses a server that runs there already or starts one, and waits
// until the server answers. It also waits, as long as ctx allows, for a server
// that is starting, recovering or stopping. Start returns ErrNoServer if this
// machine has no PostgreSQL to start.
//
// PostgreSQL refuses to run as root. For root it therefore runs as the owner of
// an existing cluster, else as the account postgres, else as the account nobody. If that
// account cannot reach dir, Start puts the cluster below /var/lib/colophon (or
// /var/tmp) and makes dir a symbolic link to it. Removing or moving dir still works.
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
		if err := running.ensureDatabase(ctx); err != nil {
			return nil, err
		}
		opt.Log.Info("private postgres found running", "dir", dir)
		return running, nil
	}
	// The server inherits the lock. This copy holds it until then.
	defer lock.Close()

	bin, pl, err := prepare(ctx, dir, opt)
	if err != nil {
		return nil, err
	}
	if err := pl.initdb(ctx, bin, opt.Disposable); err != nil {
		return nil, err
	}
	if err := disownPidfile(pl.data()); err != nil {
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
		// ctx may have ended the wait, and the server must not outlive it.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, c.Stop(stop))
	}
	opt.Log.Info("private postgres started", "dir", pl.dir, "version", bin.version, "pid", srv.pid())
	return c, nil
}

// prepare finds the programs and the directory, which depend on each other. The
// directory tells which major version wrote the data and which account may read
// it. The programs tell whether that account can reach the directory.
func prepare(ctx context.Context, dir string, opt Options) (binaries, directory, error) {
	pl, err := locate(dir)
	if err != nil {
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

// acquire takes the lock of dir, or returns the cluster that runs there.
//
// The lock is a flock on <dir>.lock. Start holds it while it prepares, then the
// server and all its backends inherit it. So the lock is free exactly when no
// process can be writing to the data directory. This holds for a recycled process
// id, for a zombie, and across containers that share the directory, where
// postmaster.pid proves nothing.
func acquire(ctx context.Context, dir string) (*os.File, *Cluster, error) {
	if err := os.MkdirAll(filepath.Dir(dir), dirMode()); err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrPermission) {
		return nil, nil, fmt.Errorf("%w (the directory belongs to another account)", err)
	}
	if err != nil {
		return nil, nil, err
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		free := err == nil
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			lock.Close()
			return nil, nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		// A server can run although the lock is free, if it was started by hand. If it
		// answers, it serves as well as ours.
		pl, err := locate(dir)
		var at pidfile
		if err == nil {
			at, err = probe(ctx, pl.data())
		}
		switch {
		case err == nil:
			lock.Close()
			return nil, &Cluster{dir: pl, socket: at.socket}, nil
		case refused(err):
			lock.Close()
			return nil, nil, err
		case free:
			return lock, nil, nil
		}
		select {
		case <-ctx.Done():
			lock.Close()
			return nil, nil, fmt.Errorf("wait for %s, which a server or another start holds: %w (last answer: %w)", lock.Name(), context.Cause(ctx), err)
		case <-tick.C:
		}
	}
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

// ensureDatabase creates the service's database unless it exists. Every start does
// this, because the process that started the server may have died before.
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
	// If two processes create it at once, the second fails at a check or at the index.
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && (pgErr.Code == "42P04" || pgErr.Code == "23505") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return nil
}

// URL returns the connection URL of the service's database, as its owner. It holds
// no secret: the permissions of the socket's directory keep others out.
func (c *Cluster) URL() string { return c.url(database) }

func (c *Cluster) url(database string) string { return socketURL(c.socket, database) }

func socketURL(socket, database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(owner), Path: "/" + database}
	u.RawQuery = url.Values{"host": {socket}, "port": {port}, "sslmode": {"disable"}}.Encode()
	return u.String()
}

// Exited returns a channel that is closed when the server that this process
// started has ended, by Stop or by itself. For a server that another process
// started the channel is nil.
func (c *Cluster) Exited() <-chan struct{} {
	if c.server == nil {
		return nil
	}
	return c.server.exited
}

// PID returns the process id of the server that this process started, also after
// it has ended. For a server that another process started it returns 0.
func (c *Cluster) PID() int {
	if c.server == nil {
		return 0
	}
	return c.server.pid()
}

// Stop ends the server that Start started and waits for it: clients are
// disconnected, and everything committed is on disk. If ctx ends first, Stop kills
// the server, which loses nothing but makes the next start recover. Stop does
// nothing for a server that another process started, and nothing the second time.
func (c *Cluster) Stop(ctx context.Context) error {
	if c.server == nil {
		return nil
	}
	err := c.server.stop(ctx)
	if filepath.Dir(c.socket) != c.dir.dir {
		os.Remove(c.socket) // a directory in /tmp that is empty now
	}
	return err
}

// logTail returns the end of the server's log, for an error message.
func (d directory) logTail() string {
	f, err := os.Open(d.log())
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
