package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// server is a service in a process of its own.
type server struct {
	url string
	cmd *exec.Cmd
	log string // path of its log file
}

// serve starts a service, which logs to the file log. serve returns when the service
// has printed its URL.
func serve(cmd *exec.Cmd, log string) (*server, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &server{cmd: cmd, log: log}
	cmd.Stderr = f
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			s.url = url
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return s, nil
		}
	}
	return nil, errors.Join(errors.New("service did not start"), s.stop())
}

// memory returns the service's memory in 1e6 bytes, or 0 if it is unknown.
func (s *server) memory() float64 { return memoryOf(s.cmd.Process.Pid, currentMemory) }

// stop ends the service. If the service ends with an error, stop returns that error and
// the end of the log.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	err := s.cmd.Wait()
	if err == nil {
		return nil
	}
	const most = 2 << 10
	log, _ := os.ReadFile(s.log)
	return fmt.Errorf("the service ended with %w:\n%s", err, log[max(0, len(log)-most):])
}
