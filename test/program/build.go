package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Variable is the environment variable that may hold the path of a built program. If this
// variable is set, Build without tags returns its value as an absolute path and builds
// nothing.
const Variable = "COLOPHON_TEST_PROGRAM"

// Build builds the program with the given build tags, from the module of the working
// directory. It writes the program to a temporary directory, which the function remove
// deletes. The program has the race detector if the caller has the race detector. Every
// account can execute the program. After an error there is nothing to remove.
func Build(ctx context.Context, tags ...string) (path string, remove func() error, err error) {
	if path := os.Getenv(Variable); path != "" && len(tags) == 0 {
		path, err := filepath.Abs(path)
		return path, func() error { return nil }, err
	}
	dir, err := os.MkdirTemp("", "colophon-program-")
	if err != nil {
		return "", nil, err
	}
	remove = func() error { return os.RemoveAll(dir) }
	path = filepath.Join(dir, "colophon")
	if err = build(ctx, path, tags); err == nil {
		err = os.Chmod(dir, 0o711) // MkdirTemp lets only the caller's account enter
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("build the program: %w", err), remove())
	}
	return path, remove, nil
}

// build writes the program to path. It keeps a copy for each list of tags in the user's
// cache directory, because go build does not link the program again if that copy is up to
// date. One process builds a copy at a time, and the others then find it.
func build(ctx context.Context, path string, tags []string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return link(ctx, path, tags) // an account without a home directory keeps no copy
	}
	kept := filepath.Join(cache, "colophon-test", keptName(tags))
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(kept+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // also releases the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if err := link(ctx, kept, tags); err != nil {
		return err
	}
	program, err := os.ReadFile(kept)
	if err != nil {
		return err
	}
	return os.WriteFile(path, program, 0o755)
}

// keptName returns the file name of the copy. Programs that differ have different names.
func keptName(tags []string) string {
	parts := []string{"program"}
	if race {
		parts = append(parts, "race")
	}
	return strings.Join(append(parts, tags...), "-")
}

// link runs go build, which writes the program to path unless path is up to date.
func link(ctx context.Context, path string, tags []string) error {
	// Without debug information the linker takes a third less time.
	args := []string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", path}
	if len(tags) > 0 {
		args = append(args, "-tags="+strings.Join(tags, ","))
	}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "colophon/cmd/colophon")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}
