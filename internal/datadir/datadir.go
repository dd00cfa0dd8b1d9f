// Package datadir creates and locks files of a data directory.
//
// The directory may belong to another account than the process, because root may run the
// service of a user. A file that root creates in a user's directory then belongs to the
// user, so that the user can run the service again. All functions are safe for concurrent
// use.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Make creates a directory and its parents. A directory that root creates in a user's
// directory belongs to the user. In a directory of its own, root lets other accounts pass
// through, because its private Postgres runs as another account.
func Make(dir string) error {
	if os.Geteuid() != 0 {
		return os.MkdirAll(dir, 0o700)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if err := Make(filepath.Dir(dir)); err != nil {
		return err
	}
	// The directory above may belong to a user, who could replace its entries at any time.
	above, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer above.Close()
	if err := above.Mkdir(filepath.Base(dir), 0o711); errors.Is(err, fs.ErrExist) {
		return nil // another process was faster
	} else if err != nil {
		return err
	}
	return giveNew(above, filepath.Base(dir))
}

// giveNew gives an empty directory of root in the directory above to the owner of that
// directory.
func giveNew(above *os.Root, name string) error {
	info, err := above.Stat(".")
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	dir, err := above.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	info, err = dir.Stat()
	if err != nil {
		return err
	}
	now, ok := info.Sys().(*syscall.Stat_t)
	if _, err := dir.Readdirnames(1); !ok || now.Uid != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s was replaced while it was made", dir.Name())
	}
	return dir.Chown(int(owner.Uid), int(owner.Gid))
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
// mode 0600. It follows no link, and refuses a file that has a second name.
func OpenLock(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err == nil {
			err = single(file)
		}
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

// single closes the file and returns an error unless it is a regular file with one name. A
// user could give the name of a lock to a file of root, which the caller would overwrite.
func single(file *os.File) error {
	info, err := file.Stat()
	if err == nil {
		if of, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || of.Nlink != 1 {
			err = fmt.Errorf("%s is not a file of this program: remove it", file.Name())
		}
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	return nil
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

// CloseLock releases the lock of TryLock and closes the file. A child process that is about to
// execute its program has the file open too, so closing it alone would release the lock late.
func CloseLock(file *os.File) error { return errors.Join(Unlock(file), file.Close()) }

// Unlock releases the lock of TryLock.
func Unlock(file *os.File) error { return syscall.Flock(int(file.Fd()), syscall.LOCK_UN) }
