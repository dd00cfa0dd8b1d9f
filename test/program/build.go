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

// Variable is the environment variable that may hold the path of a built program. If this
// variable is set, Build returns its value as an absolute path and builds nothing.
const Variable = "COLOPHON_TEST_PROGRAM"

// Build builds the program from the module of the working directory. It writes the
// program to a temporary directory, which the function remove deletes. The program has
// the race detector if the caller has the race detector. Every account can execute the
// program. After an error there is nothing to remove.
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
	// Without debug information the linker takes a third less time.
	args := []string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", path}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "colophon/cmd/colophon")...).CombinedOutput()
	if err == nil {
		err = os.Chmod(dir, 0o711) // MkdirTemp lets only the caller's account enter
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("build the program: %w\n%s", err, bytes.TrimSpace(out)), remove())
	}
	return path, remove, nil
}
