package pg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

var (
	// errCopy means that a directory is a copy of a directory whose cluster it does not own.
	errCopy = errors.New("this directory is a copy")

	// errMoved means that a pidfile is that of a server from before the directory was moved.
	errMoved = errors.New("this directory was moved after a crash")
)

// ofCopy returns errCopy if the pidfile in the data directory is a copy. The socket in a
// copied pidfile leads to the original's server. The files of such a copy were read while
// the server wrote them, or after a crash, and may contradict each other.
//
// The directory was moved and not copied if nothing is at its old path, or if it is the
// directory in which the server ran. In the second case ofCopy returns errMoved, because the
// socket may lead to the server of another cluster at the old path.
func (at pidfile) ofCopy(data string) error {
	if at.data == "" {
		return nil
	}
	original, err := os.Stat(at.data)
	if err != nil {
		return nil //nolint:nilerr // the original is gone
	}
	here, err := os.Stat(data)
	if err != nil || os.SameFile(original, here) {
		return err
	}
	if at.ranIn(here, original) {
		return fmt.Errorf("%w: the server ran in %s", errMoved, at.data)
	}
	return fmt.Errorf("%w of %s, made while PostgreSQL ran there or after a crash, so it may be damaged: "+
		"stop the original (after a crash, start it first) and copy it again. "+
		"If this directory is the original, moved here after a crash, its PG_VERSION was created before that of %[2]s "+
		"(`stat` shows the birth of a file): then remove %[3]s", errCopy, at.data, filepath.Join(data, "postmaster.pid"))
}

// ranIn reports whether the server of the pidfile ran in the data directory here, which is
// not at the server's path now. The key of the server's shared memory is the inode number of
// its data directory. A move keeps the number, and a copy has another one. Numbers of other
// file systems prove nothing, so the directory at the server's path must be on the same one.
//
// PostgreSQL uses a higher key if the first one is taken. ranIn then returns false.
func (at pidfile) ranIn(here, original os.FileInfo) bool {
	ours, ok := here.Sys().(*syscall.Stat_t)
	theirs, ok2 := original.Sys().(*syscall.Stat_t)
	return ok && ok2 && ours.Dev == theirs.Dev && at.key != 0 && at.key == uint32(ours.Ino)
}
