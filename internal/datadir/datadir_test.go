package datadir

import (
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
}

// TestFilesBelongToTheDirectorysOwner creates a lock as root in directories of root and
// of another account. Each lock must belong to the owner of its directory.
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
		f, err := OpenLock(filepath.Join(dir, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != owner {
			t.Errorf("in a directory of account %d: %+v, %v", owner, info, err)
		}
	}
}
