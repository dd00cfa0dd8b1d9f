package programtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// statSources makes go test treat the files of the module as inputs of the test. go test
// repeats a cached result unless an input has changed. It does not see that the program
// is built from these files, because another process reads them.
func statSources() error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case path == root:
			return nil
		case d.IsDir() && (strings.HasPrefix(name, ".") || name == "data" || name == "models"): // such directories are not in the repository
			return filepath.SkipDir
		case d.IsDir() || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		_, err = os.Stat(path)
		return err
	})
}

// moduleRoot returns the closest directory with a go.mod. It starts at the working directory
// and goes up.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find go.mod: %w", fs.ErrNotExist)
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}
