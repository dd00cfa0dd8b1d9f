package datadir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestOneOpenFileHasTheLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	var locked atomic.Int32
	files := make([]*os.File, 16)
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() {
			var err error
			if files[i], err = OpenLock(path); err != nil {
				t.Error(err)
				return
			}
			if ok, err := TryLock(files[i]); err != nil {
				t.Error(err)
			} else if ok {
				locked.Add(1)
			}
		})
	}
	wg.Wait()
	for _, f := range files {
		f.Close()
	}
	if n := locked.Load(); n != 1 {
		t.Errorf("%d of %d have the lock", n, len(files))
	}
	again, err := OpenLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if ok, err := TryLock(again); !ok || err != nil {
		t.Errorf("after all others have closed: %v, %v", ok, err)
	}
	if info, err := again.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestFilesAreWrittenInOneStep creates and replaces a file. A second Create must change nothing.
func TestFilesAreWrittenInOneStep(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "file")
	must := func(want string) {
		t.Helper()
		content, err := os.ReadFile(path)
		info, err2 := os.Stat(path)
		if err := errors.Join(err, err2); err != nil || string(content) != want || info.Mode().Perm() != 0o600 {
			t.Errorf("%q, %v, %v, want %q", content, info, err, want)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
			t.Errorf("files in the directory: %v, %v", entries, err)
		}
	}
	if err := Create(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	must("first")
	if err := Create(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second creation: %v", err)
	}
	must("first")
	if err := Replace(path, []byte("third")); err != nil {
		t.Fatal(err)
	}
	must("third")
	if err := Replace(filepath.Join(path, "below"), nil); err == nil {
		t.Error("a file below a file")
	}
}

func TestLockFollowsNoLink(t *testing.T) {
	t.Parallel()
	for _, target := range []string{filepath.Join(t.TempDir(), "missing"), t.TempDir()} {
		link := filepath.Join(t.TempDir(), "lock")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if f, err := OpenLock(link); err == nil {
			f.Close()
			t.Errorf("opened a link to %s", target)
		}
	}
	secret, link := filepath.Join(t.TempDir(), "secret"), filepath.Join(t.TempDir(), "lock")
	if err := errors.Join(os.WriteFile(secret, []byte("text"), 0o600), os.Link(secret, link)); err != nil {
		t.Fatal(err)
	}
	if f, err := OpenLock(link); err == nil {
		f.Close()
		t.Error("opened a second name of a file")
	}
}

// TestFilesBelongToTheDirectorysOwner creates directories and a lock as root in directories of root and of
// another account.
func TestFilesBelongToTheDirectorysOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can create files for another account")
	}
	for _, owner := range []int{0, 65534} {
		dir := t.TempDir()
		if err := os.Chown(dir, owner, owner); err != nil {
			t.Fatal(err)
		}
		below := filepath.Join(dir, "new", "data")
		for range 2 {
			if err := Make(below); err != nil {
				t.Fatal(err)
			}
		}
		lock := filepath.Join(below, "lock")
		f, err := OpenLock(lock)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, path := range []string{filepath.Dir(below), below, lock} {
			info, err := os.Stat(path)
			if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != owner {
				t.Errorf("in a directory of account %d: %+v, %v", owner, info, err)
			}
		}
		if err := Make(lock); err == nil {
			t.Error("a file counts as a directory")
		}
	}
}
