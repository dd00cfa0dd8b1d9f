package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a running API or worker process, which ends with this one.
type process struct {
	cmd    *exec.Cmd
	ready  chan string // gets its word that it is ready, and is closed with its output
	exited chan struct{}
	err    error // how it ended; set before exited is closed
}

// launch starts a program. What it prints goes to log; the line that begins with
// word says that it is ready.
func launch(program string, args, env []string, log io.Writer, word string) (*process, error) {
	cmd := exec.CommandContext(context.Background(), program, args...) // it is ended by signals
	cmd.Env = env
	cmd.Stderr = log
	// A group of its own: an interrupt from the terminal is ours to pass on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	// Not StdoutPipe, which Wait would close before all has been read.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = write
	p := &process{cmd: cmd, ready: make(chan string, 1), exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal comes when the thread that forked ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		write.Close()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), read.Close())
	}
	go func() {
		defer read.Close()
		defer close(p.ready)
		lines := bufio.NewScanner(read)
		for told := false; lines.Scan(); {
			fmt.Fprintln(log, lines.Text())
			if said, ok := strings.CutPrefix(lines.Text(), word); ok && !told {
				p.ready <- strings.TrimSpace(said)
				told = true
			}
		}
	}()
	return p, nil
}

// signal sends a signal to a process that may have ended.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// endWithin is how long a process may take to end that was asked to: the grace
// period that it promises, and some time for a machine that has much to do.
const endWithin = 30 * time.Second

// end sends a signal and waits until the process has ended; it reports whether
// it did within the time that it may take.
func (p *process) end(s syscall.Signal) bool {
	p.signal(s)
	select {
	case <-p.exited:
		return true
	case <-time.After(endWithin):
		return false
	}
}
