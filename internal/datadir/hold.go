package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrHeld occurs when another process holds the data directory.
var ErrHeld = errors.New("another process runs the service with this data directory")

// Hold keeps every other caller of Hold out of the data directory until release is called
// or the process ends. Otherwise a second service would use the private Postgres of the
// first, and lose its database when the first ends. The text who tells other processes who
// holds the directory.
func Hold(dir, who string) (release func(), err error) {
	if err := Make(dir); err != nil {
		return nil, err
	}
	lock, err := OpenLock(filepath.Join(dir, "up.lock"))
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("lock the data directory: %w (it belongs to another account: run this as that account, or choose another --data)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	locked, err := TryLock(lock)
	if err == nil && !locked {
		text, _ := io.ReadAll(io.LimitReader(lock, 1<<10))
		err = fmt.Errorf("%s: %w: %s: stop it, or choose another --data", dir, ErrHeld, strings.TrimSpace(string(text)))
	}
	if err == nil {
		if err = lock.Truncate(0); err == nil {
			_, err = fmt.Fprintf(lock, "process %d, %s\n", os.Getpid(), who)
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return func() { _ = CloseLock(lock) }, nil
}
