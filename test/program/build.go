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

// Variable names the environment variable with the path of a program that is
// already built. Build then builds none.
const Variable = "COLOPHON_TEST_PROGRAM"

// Build builds the program from the module of the working directory, into a
// temporary directory that remove deletes. Where the caller runs with the race
// detector, the program does too. The program is executable by every account.
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
		err = os.Chmod(dir, 0o711) // MkdirTemp lets only the caller's account in
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("build the program: %w\n%s", err, bytes.TrimSpace(out)), remove())
	}
	return path, remove, nil
}
