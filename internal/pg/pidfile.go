package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pidfile is the content of a running server's postmaster.pid. The file has one value
// per line. The lines are: process id, data directory, start time, port, socket
// directory, listen address, shared memory, status. A starting server has written only
// the first lines.
type pidfile struct {
	pid    int
	socket string // directory
	status string // starting, ready, stopping
}

func readPidfile(data string) (pidfile, error) {
	// Root reads this file below a directory of the server's account. So no link may
	// lead out of that directory.
	f, err := os.OpenInRoot(data, "postmaster.pid")
	if err != nil {
		return pidfile{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return pidfile{}, err
	}
	return parsePidfile(string(b))
}

func parsePidfile(s string) (pidfile, error) {
	line := make([]string, 8)
	copy(line, strings.Split(s, "\n"))
	pid, err := strconv.Atoi(strings.TrimSpace(line[0]))
	if err != nil {
		return pidfile{}, fmt.Errorf("postmaster.pid: %w", err)
	}
	return pidfile{pid: pid, socket: strings.TrimSpace(line[4]), status: strings.TrimSpace(line[7])}, nil
}

// probe returns the pidfile of the server that answers for the data directory. If no
// server answers, probe returns an error with the reason. For this error, refused
// reports whether waiting is useless.
func probe(ctx context.Context, data string) (pidfile, error) {
	at, err := readPidfile(data)
	if err != nil {
		return pidfile{}, err
	}
	if at.status != "ready" || at.socket == "" {
		return pidfile{}, fmt.Errorf("server process %d is %q", at.pid, at.status)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, socketURL(at.socket, "postgres"))
	if err != nil {
		return pidfile{}, fmt.Errorf("server process %d: %w", at.pid, err)
	}
	return at, conn.Close(ctx)
}

// refused reports whether the server answered with a permanent error.
func refused(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return answered && !transient(err)
}

// disownPidfile prepares a killed server's file for the next server. PostgreSQL refuses
// to start if a process with the id in the file exists. After a restart of a container
// or of the machine, another process or a zombie often has this id. Such a process is
// not a server of this directory, because this process holds the lock.
//
// PostgreSQL ignores the id of its own parent, so disownPidfile writes that id into the
// file. It does not remove the file, because PostgreSQL must still check the shared
// memory that the file names.
func disownPidfile(data string) error {
	root, err := os.OpenRoot(data)
	if err != nil {
		return err
	}
	defer root.Close()
	b, err := root.ReadFile("postmaster.pid")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	return root.WriteFile("postmaster.pid", fmt.Appendf(nil, "%d\n%s", os.Getpid(), rest), 0o600)
}
