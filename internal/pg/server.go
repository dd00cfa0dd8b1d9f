package pg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// server is a postgres process that this process started.
type server struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // the error with which the process ended, which is set before exited is closed
}

// settings returns the settings of a small private server. All other settings keep
// PostgreSQL's defaults on purpose. fsync and full_page_writes are on. wal_level is
// replica, because the level minimal would save nothing for small transactions and
// would rule out pg_basebackup. initdb chooses shared_buffers for the machine.
func settings(socket string, disposable bool) []string {
	s := []string{
		"listen_addresses=",
		"unix_socket_directories=" + socket,
		"unix_socket_permissions=0700",
		"port=" + port,
		"max_connections=100",
		"timezone=UTC",
		"log_timezone=UTC",
		// All statements are short, so compiling them costs more than it saves.
		"jit=off",
		// The log contains errors, but no row and no statement.
		"log_error_verbosity=terse",
		"log_min_error_statement=panic",
		"log_checkpoints=off",
	}
	if disposable {
		s = append(s, "fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300")
	}
	return s
}

// launch starts postgres itself, not pg_ctl. So the server is a child of this process,
// and each process notices when the other ends. The server inherits the lock.
func (d directory) launch(bin binaries, socket string, lock *os.File, disposable bool) (*server, error) {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.Rename("log", "log.1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// O_EXCL is needed, because the owner of the directory could put a hard link here.
	log, err := root.OpenFile("log", os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	args := []string{"-D", d.data()}
	for _, s := range settings(socket, disposable) {
		args = append(args, "-c", s)
	}
	// The server outlives the caller's ctx, because only Stop ends the server.
	cmd := d.command(context.Background(), bin.postgres, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock}
	// The server has a session of its own. Otherwise Ctrl-C in a terminal would stop
	// the database before the service has drained.
	cmd.SysProcAttr.Setsid = true
	// On SIGINT, postgres does a fast shutdown. It disconnects clients and flushes the
	// log.
	dieWithParent(cmd.SysProcAttr, syscall.SIGINT)

	s := &server{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the death signal when the forking thread ends, which in Go
		// may be long before the process ends. So the goroutine keeps its thread until
		// the server has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		s.err = cmd.Wait()
		if s.err == nil {
			s.err = errors.New("exit status 0")
		}
		close(s.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	return s, nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// stop asks the server for a fast shutdown. If ctx ends first, stop kills the server.
func (s *server) stop(ctx context.Context) error {
	if s.signal(ctx, syscall.SIGINT) {
		return nil
	}
	why := context.Cause(ctx)
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		done := s.signal(ctx, sig)
		cancel()
		if done {
			break
		}
	}
	return fmt.Errorf("stop the private postgres in time (it was killed and recovers at the next start): %w", why)
}

// signal sends sig to the server. It reports whether the server ended before ctx was
// done.
func (s *server) signal(ctx context.Context, sig syscall.Signal) bool {
	// An error means that the process has ended. Then exited is closed.
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.exited:
		return true
	case <-ctx.Done():
		return false
	}
}

// output runs a short command. It keeps the thread until the command ends, because the
// end of the thread would kill the command. The function launch explains this.
func output(cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	return bytes.TrimSpace(out), err
}
