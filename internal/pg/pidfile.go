package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
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
	data   string // data directory
	socket string // directory
	key    uint32 // key of the shared memory; 0 if the server had none yet
	status string // starting, ready, stopping
}

func readPidfile(data string) (pidfile, error) {
	// A root process reads this file in a directory that belongs to another account.
	// That account must not be able to make root follow a link out of the directory.
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
	var key uint64 // the file has a negative key as a large number
	_, _ = fmt.Sscan(line[6], &key)
	return pidfile{pid: pid, data: line[1], socket: strings.TrimSpace(line[4]), key: uint32(key), status: strings.TrimSpace(line[7])}, nil
}

// probe returns the pidfile of the server that answers for the data directory. If no
// server answers, probe returns an error with the reason. The caller passes this error
// to refused to learn whether waiting is useless.
func probe(ctx context.Context, data string) (pidfile, error) {
	at, err := readPidfile(data)
	if err != nil {
		return pidfile{}, err
	}
	if err := at.ofCopy(data); err != nil {
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

// refused reports whether the server answered with a permanent error, or is not the
// server of this directory.
func refused(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return answered && !transient(err) || errors.Is(err, errCopy)
}

// disownPidfile changes the postmaster.pid of a killed server so that the next server
// can start. PostgreSQL refuses to start if a process with the id in the file exists.
// After a restart of a container or of the machine, another process or a zombie often
// has this id. That process cannot be a server of this directory, because the caller
// holds the directory's lock.
//
// PostgreSQL ignores the id of its own parent, so disownPidfile writes that id into the
// file. It does not remove the file, because PostgreSQL must still check the shared
// memory that the file names.
func (d *directory) disownPidfile() error {
	root, err := os.OpenRoot(d.data())
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile("postmaster.pid", os.O_RDWR|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// The account could have put a hard link to a file of another account here.
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.Mode().IsRegular() || st.Nlink != 1 || st.Uid != d.account() {
		return fmt.Errorf("%s is not a file that the server has written: remove it", f.Name())
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "%d\n%s", os.Getpid(), rest), 0)
	return err
}
