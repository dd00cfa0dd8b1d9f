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

// pidfile is what a running server says about itself in postmaster.pid, one
// value a line: process id, data directory, start time, port, socket directory,
// listen address, shared memory, status. A server that is starting has written
// only the first lines.
type pidfile struct {
	pid    int
	socket string // directory
	status string // starting, ready, stopping
}

func readPidfile(data string) (pidfile, error) {
	// In root's hands a file below the server account's directory: no link may
	// lead out of it.
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

// probe says which server answers for the data directory. Its error tells why
// none does; it is a refused one when no waiting will help.
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

// refused reports whether the server answered with a no that stands.
func refused(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return answered && !transient(err)
}

// disownPidfile prepares the file that a killed server left for the next one.
// PostgreSQL refuses to start when the process of that id exists, which after a
// restart of a container or of the machine is often some other process, or a
// zombie. We hold the lock, so it is not a server of ours. The id of its own
// parent is one that PostgreSQL overlooks, while it still examines the shared
// memory named in the file, as it would not if the file were removed.
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
