package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Variable is the environment variable that may hold the path of a built program. If it
// is set, Build returns its absolute path and builds nothing.
const Variable = "COLOPHON_TEST_PROGRAM"

// Build builds the program from the module of the working directory, into a temporary
// directory that remove deletes. The program has the race detector if the caller has
// it, and is executable by every account. After an error there is nothing to remove.
func Build(ctx context.Context) (path string, remove func() error, err error) {
	if path := os.Getenv(Variable); path != "" {
		path, err := filepath.Abs(path)
		return path, func() error { return nil }, err
	}
	dir, err := os.MkdirTemp("", "colophon-program-")
	if err != nil {
		return "", nil, err
	}
	remove = func() error { return os.RemoveAll(dir) }
	path = filepath.Join(dir, "colophon")
	// Without debug information a link takes a third less time.
	args := []string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", path}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "colophon/cmd/colophon")...).CombinedOutput()
	if err == nil {
		err = os.Chmod(dir, 0o711) // MkdirTemp admits only the caller's account
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("build the program: %w\n%s", err, bytes.TrimSpace(out)), remove())
	}
	return path, remove, nil
}
