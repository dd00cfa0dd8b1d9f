// Package program builds Colophon's program and runs the program's commands as processes.
// Each process gets arguments, an environment and signals, as it would from a user.
//
// On Linux the kernel kills a process when its parent ends, for whatever reason. Each
// process has its own process group, so an interrupt from the terminal does not reach the
// process.
//
// All functions and methods are safe for concurrent use. Package programtest runs the
// same commands for tests, with databases and logs.
package program

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a running command of the program.
type Process struct {
	cmd    *exec.Cmd
	output output
	exited chan struct{}
	err    error // the result of cmd.Wait, which is set before exited is closed
}

// Start starts a command of the program at path. It returns at once, and Ready waits
// until the process is ready. The process gets exactly the environment env, and no input.
// Its standard output and standard error go to log. Each write to log is complete before
// the next write begins.
func Start(log io.Writer, env []string, path string, args ...string) (*Process, error) {
	return StartAs(nil, log, env, path, args...)
}

// StartAs is like Start for a process of another account. A nil account is that of the
// caller. Only root can start processes of other accounts.
func StartAs(account *syscall.Credential, log io.Writer, env []string, path string, args ...string) (*Process, error) {
	p := &Process{
		cmd:    exec.CommandContext(context.Background(), path, args...), // only signals end the process
		output: output{log: log, ready: make(chan struct{})},
		exited: make(chan struct{}),
	}
	if env == nil {
		env = []string{} // for exec, nil means the environment of the caller
	}
	p.cmd.Env = env
	p.cmd.Stdout = &p.output
	p.cmd.Stderr = writerFunc(p.output.write)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: account}
	dieWithParent(p.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		// Linux sends the parent-death signal when the thread that started the process
		// ends. The goroutine therefore keeps its thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return p, nil
}

// Ready waits until the process prints that it is ready, as `ready URL` or `working with
// MODEL`. It returns the URL or the model's name. If the process or ctx ends before that,
// Ready returns an error.
func (p *Process) Ready(ctx context.Context) (string, error) {
	select {
	case <-p.output.ready:
		return p.output.readyFor, nil
	case <-p.exited:
		return "", fmt.Errorf("%s ended before it was ready: %s", p, p.cmd.ProcessState)
	case <-ctx.Done():
		return "", fmt.Errorf("wait until %s is ready: %w", p, context.Cause(ctx))
	}
}

// String returns the command's arguments.
func (p *Process) String() string { return strings.Join(p.cmd.Args[1:], " ") }

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal. It does nothing if the process has ended.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Freeze suspends the process until Thaw. On Linux it returns after the process has
// stopped. On other systems it may return earlier.
func (p *Process) Freeze() {
	p.Signal(syscall.SIGSTOP)
	awaitStop(p.cmd.Process.Pid)
}

// Thaw resumes a frozen process.
func (p *Process) Thaw() { p.Signal(syscall.SIGCONT) }

// Kill kills the process and waits until it has ended.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.exited
}

// Stop sends SIGTERM. It reports whether the process ended within the given time. Stop
// does not kill a process that still runs.
func (p *Process) Stop(within time.Duration) bool {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return true
	case <-time.After(within):
		return false
	}
}

// Exited returns a channel that is closed after the process has ended and all its output
// is in the log.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err waits for the process to end. It returns nil for exit status 0. For any other end
// it returns the error of exec.Cmd.Wait.
func (p *Process) Err() error {
	<-p.exited
	return p.err
}

// ExitCode waits for the process to end. It returns the exit status, or -1 if a signal
// ended the process.
func (p *Process) ExitCode() int {
	<-p.exited
	return p.cmd.ProcessState.ExitCode()
}

// output forwards a process's output to log. It also finds the line which says that the
// process is ready.
type output struct {
	mu       sync.Mutex // also held during each write to log
	log      io.Writer
	line     []byte        // incomplete line of standard output
	ready    chan struct{} // closed after readyFor is set
	readyFor string        // URL of the service, or name of the model
	isReady  bool
}

// Write takes pieces of standard output. A piece may end within a line. When ready is closed,
// the log has the line, and all lines before it.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.write(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range b {
		if o.isReady {
			break
		}
		if o.line = append(o.line, c); c == '\n' {
			o.readLine(string(bytes.TrimSpace(o.line)))
			o.line = o.line[:0]
		}
	}
	return n, err
}

func (o *output) readLine(line string) {
	for _, prefix := range []string{"ready ", "working with "} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			o.readyFor, o.isReady = rest, true
			close(o.ready)
		}
	}
}

func (o *output) write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(b)
}

// writerFunc is an io.Writer that calls a function.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
