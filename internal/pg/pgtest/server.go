package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"colophon/internal/pg"
)

// Server is a PostgreSQL server for one test. The test may stop, crash and freeze the
// server. The server is durable, so a crash loses no committed data. A Server is not
// safe for concurrent use.
type Server struct {
	t       testing.TB
	dir     string
	cluster *pg.Cluster
}

// NewServer starts an empty server. The server ends with the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: filepath.Join(Dir(t), "postgres")}
	s.startWith(start)
	t.Cleanup(s.Stop)
	return s
}

// OpenServer starts the server whose files are in dir, in the way in which the service
// starts its private server. The server ends with the test.
func OpenServer(t testing.TB, dir string) *Server {
	t.Helper()
	s := &Server{t: t, dir: dir}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// URL returns the connection URL of the server's database, as its owner.
func (s *Server) URL() string { return s.cluster.URL() }

// Dir returns the directory of the server's files.
func (s *Server) Dir() string { return s.dir }

// Start starts the server again after Stop or Crash.
func (s *Server) Start() {
	s.t.Helper()
	s.startWith(pg.Start)
}

func (s *Server) startWith(start func(context.Context, string, pg.Options) (*pg.Cluster, error)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if s.cluster, err = start(ctx, s.dir, pg.Options{Bin: os.Getenv("PGBIN")}); err != nil {
		s.t.Fatal(err)
	}
}

// Stop disconnects every client and shuts the server down.
func (s *Server) Stop() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.cluster.Stop(ctx); err != nil {
		s.t.Error(err)
	}
}

// Crash ends the server without a shutdown. The next start recovers the data.
func (s *Server) Crash() {
	s.t.Helper()
	_ = syscall.Kill(s.cluster.PID(), syscall.SIGQUIT)
	<-s.cluster.Exited()
}

// Kill ends all processes of the server at once. Its clients see their connections end.
func (s *Server) Kill() {
	s.t.Helper()
	for _, pid := range s.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // the process may have ended
	}
	<-s.cluster.Exited()
}

// Freeze suspends all processes of the server. The returned function resumes the
// processes. They are also resumed when the test ends.
func (s *Server) Freeze() (thaw func()) {
	s.t.Helper()
	pids := s.processes()
	all := func(signal syscall.Signal) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, signal) // the process may have ended
		}
	}
	all(syscall.SIGSTOP)
	thaw = func() { all(syscall.SIGCONT) }
	s.t.Cleanup(thaw)
	return thaw
}

func (s *Server) processes() []int {
	s.t.Helper()
	pids, err := Processes(s.cluster.PID())
	if err != nil {
		s.t.Skipf("only Linux lists a server's processes: %v", err)
	}
	return pids
}

// Processes returns the process ids of the server whose postmaster has the given id. The
// postmaster comes first, then its children. Only Linux lists them.
func Processes(postmaster int) ([]int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", postmaster, postmaster))
	if err != nil {
		return nil, err
	}
	pids := []int{postmaster}
	for field := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
