// Package datadir creates and locks files of a data directory.
//
// The directory may belong to another account than the process, because root may run the
// service of a user. A file that root creates in a user's directory then belongs to the
// user, so that the user can run the service again. All functions are safe for concurrent
// use.
package datadir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Make creates a directory and its parents. Root's private Postgres runs as another
// account, which must be able to pass through the directory.
func Make(dir string) error {
	if os.Geteuid() == 0 {
		return os.MkdirAll(dir, 0o711)
	}
	return os.MkdirAll(dir, 0o700)
}

// Give gives a file that the caller has just created to the owner of the file's
// directory, if the process is root. It goes through the descriptor, because the owner of
// the directory could replace the path by a link.
func Give(file *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(file.Name()))
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	return file.Chown(int(owner.Uid), int(owner.Gid))
}

// OpenLock opens the file at path, for use with TryLock. It creates a missing file with
// mode 0600. It follows no link.
func OpenLock(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
		file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) { // another process was faster
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := Give(file); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	}
}

// TryLock takes an exclusive lock on the file, and reports false if another open file has
// a lock. Child processes may inherit the lock. The lock ends when every process that has
// the open file has closed it or has ended.
func TryLock(file *os.File) (locked bool, err error) {
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// Unlock releases the lock of TryLock.
func Unlock(file *os.File) error { return syscall.Flock(int(file.Fd()), syscall.LOCK_UN) }
