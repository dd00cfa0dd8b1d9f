// Package program builds Colophon's program and runs its commands as processes,
// as users do: with arguments, an environment, and signals.
//
// A process belongs to the one that started it. On Linux it is killed when its
// parent ends, however the parent ends. It has a process group of its own, so an
// interrupt from the terminal does not reach it.
//
// All functions and methods may be called from several goroutines. The package
// programtest does the same for tests, with databases and logs.
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
	err    error // how it ended; set before exited is closed
}

// Start starts a command of the program at path and returns at once. The process
// gets exactly the environment env, and no input. Its standard output and its
// standard error go to log, in whole writes, one at a time.
func Start(log io.Writer, env []string, path string, args ...string) (*Process, error) {
	p := &Process{
		cmd:    exec.CommandContext(context.Background(), path, args...), // signals end it
		output: output{log: log, ready: make(chan struct{})},
		exited: make(chan struct{}),
	}
	if env == nil {
		env = []string{} // nil stands for the caller's
	}
	p.cmd.Env = env
	p.cmd.Stdout = &p.output
	p.cmd.Stderr = writer(p.output.write)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(p.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		// The signal of the parent's death comes when the thread that forked ends.
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

// Ready waits until the process says that it is ready: `ready URL` or `working
// with MODEL`. It returns the URL or the model's name. A process that ends before
// is an error, and so is a ctx that does.
func (p *Process) Ready(ctx context.Context) (string, error) {
	select {
	case <-p.output.ready:
		return p.output.said, nil
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

// Signal sends a signal to a process that may have ended.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Freeze stops the process where it is, until Thaw. On Linux it has stopped when
// Freeze returns.
func (p *Process) Freeze() {
	p.Signal(syscall.SIGSTOP)
	awaitStop(p.cmd.Process.Pid)
}

// Thaw lets a frozen process go on.
func (p *Process) Thaw() { p.Signal(syscall.SIGCONT) }

// Kill kills the process and waits until it has ended.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.exited
}

// Stop asks the process to stop, by SIGTERM. It reports whether the process ended
// within the time.
func (p *Process) Stop(within time.Duration) bool {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return true
	case <-time.After(within):
		return false
	}
}

// Exited is closed when the process has ended and all it said is in the log.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err returns how the process ended: nil stands for exit status 0. It waits for
// the end.
func (p *Process) Err() error {
	<-p.exited
	return p.err
}

// ExitCode returns the exit status, -1 after a signal. It waits for the end.
func (p *Process) ExitCode() int {
	<-p.exited
	return p.cmd.ProcessState.ExitCode()
}

// output takes what a process prints, and finds the line that says it is ready.
type output struct {
	mu    sync.Mutex // also of what goes to log from elsewhere
	log   io.Writer
	line  []byte
	ready chan struct{} // closed after said is set
	said  string
	told  bool
}

// Write takes a piece of standard output.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	for _, c := range b {
		if o.told {
			break
		}
		if o.line = append(o.line, c); c == '\n' {
			o.read(string(bytes.TrimSpace(o.line)))
			o.line = o.line[:0]
		}
	}
	o.mu.Unlock()
	return o.write(b)
}

func (o *output) read(line string) {
	for _, word := range []string{"ready ", "working with "} {
		if said, ok := strings.CutPrefix(line, word); ok {
			o.said, o.told = said, true
			close(o.ready)
		}
	}
}

func (o *output) write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(b)
}

// writer is a function that is an io.Writer.
type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
