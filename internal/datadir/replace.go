package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Create writes a complete file of mode 0600 to path in one step, and makes its directory. If
// a file exists there, Create returns fs.ErrExist and leaves it unchanged.
func Create(path string, content []byte) error {
	if err := Make(filepath.Dir(path)); err != nil {
		return err
	}
	draft, err := write(path, content)
	if err != nil {
		return err
	}
	defer os.Remove(draft)
	return os.Link(draft, path)
}

// write writes a file beside path, and returns its name. The content is on disk.
func write(path string, content []byte) (draft string, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, Give(file), file.Sync(), file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// Replace writes a file of mode 0600 in one step: after a crash, the file has either the old
// or the new content. When Replace returns without an error, the new content is on disk.
func Replace(path string, content []byte) error {
	draft, err := write(path, content)
	if err == nil {
		if err = os.Rename(draft, path); err != nil {
			err = errors.Join(err, os.Remove(draft))
		}
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// syncDir makes a change of a directory's entries durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
