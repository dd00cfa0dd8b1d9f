package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"colophon/events/receipt"
	"colophon/internal/datadir"
)

// Guard keeps the last checkpoint that a process has signed in a file, outside the database.
// A restored database, or a standby that has lost the last transactions, has lost the record
// of what was signed together with the events. The file has not. A Guard is not safe for
// concurrent use, and one process at a time can have its file.
type Guard struct {
	path string
	lock *os.File
	last *receipt.Checkpoint // nil before the first checkpoint
}

// ErrHeld occurs when another process has the file of a [Guard].
var ErrHeld = errors.New("another process signs the log with this file")

// OpenGuard reads the guard's file, which may be missing. It keeps other processes out until
// the guard is closed. It returns ErrHeld while another process has the file.
func OpenGuard(path string) (*Guard, error) {
	lock, err := datadir.OpenLock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("lock the state of the log: %w", err)
	}
	locked, err := datadir.TryLock(lock)
	if err == nil && !locked {
		err = fmt.Errorf("%s: %w", path, ErrHeld)
	}
	g := &Guard{path: path, lock: lock}
	if err == nil {
		g.last, err = ReadState(path)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return g, nil
}

// ReadState returns the checkpoint in the file of a [Guard], or nil if the file is missing.
func ReadState(path string) (*receipt.Checkpoint, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of the log: %w", err)
	}
	c, err := receipt.ParseCheckpoint(string(text))
	if err != nil {
		return nil, fmt.Errorf("read the state of the log: %s: %w: restore the file; without it, a process would not notice lost events", path, err)
	}
	return &c, nil
}

// Last returns the last checkpoint. It reports false before the first one.
func (g *Guard) Last() (receipt.Checkpoint, bool) {
	if g.last == nil {
		return receipt.Checkpoint{}, false
	}
	return *g.last, true
}

// keep records a checkpoint that is about to be signed.
func (g *Guard) keep(c receipt.Checkpoint) error {
	if g.last != nil && g.last.Text() == c.Text() {
		return nil
	}
	if err := datadir.Replace(g.path, []byte(c.Text())); err != nil {
		return fmt.Errorf("keep the state of the log: %w", err)
	}
	g.last = &c
	return nil
}

// Close lets other processes use the file.
func (g *Guard) Close() error { return datadir.CloseLock(g.lock) }
