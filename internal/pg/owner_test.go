package pg

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// nobody is the id of an account that every system has. Here it stands for an ordinary
// user.
const nobody = 65534

// ofNobody returns an empty data directory that belongs to the account nobody.
func ofNobody(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server of another account")
	}
	dir, err := os.MkdirTemp("/tmp", "colophon-test-") //nolint:usetesting // nobody cannot reach t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRootGoesOnWhereAUserWasInterrupted leaves the files of a user's start that was
// killed during initdb. Root's start must succeed, and all files must still belong to the
// user.
func TestRootGoesOnWhereAUserWasInterrupted(t *testing.T) {
	t.Parallel()
	data := ofNobody(t)
	dir := filepath.Join(data, "postgres")
	half := filepath.Join(dir, "data.new-123")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(dir+".lock", nil, 0o600), os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, half, dir + ".lock", filepath.Join(half, "PG_VERSION")} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	startAndStop(t, dir)
	belongsToNobody(t, data)
	if left, _ := filepath.Glob(filepath.Join(dir, "data.new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// After a first start as root in a user's directory, the user must be able to start the
// cluster too.
func TestRootsClusterBelongsToTheDirectorysOwner(t *testing.T) {
	t.Parallel()
	data := ofNobody(t)
	startAndStop(t, filepath.Join(data, "postgres"))
	belongsToNobody(t, data)
}

func startAndStop(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Start(ctx, dir, Options{Bin: os.Getenv("PGBIN"), Disposable: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// belongsToNobody checks that all files in data belong to the account nobody. Only the
// server's log may belong to root.
func belongsToNobody(t *testing.T, data string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		fi, err := e.Info()
		if err == nil && fi.Sys().(*syscall.Stat_t).Uid != nobody && e.Name() != "log" {
			t.Errorf("%s belongs to account %d", path, fi.Sys().(*syscall.Stat_t).Uid)
		}
		return err
	})
	if err != nil || n < 100 {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestRootChangesNothingThatAUserPointsTo replaces entries of a user's directory by links
// to root's files, or by a directory of root. Root must refuse the entry and leave the
// files unchanged.
func TestRootChangesNothingThatAUserPointsTo(t *testing.T) {
	for what, c := range map[string]struct {
		prepare func(p directory, target string) error
		call    func(*directory) error
	}{
		"run is a link": {
			func(p directory, target string) error { return os.Symlink(target, filepath.Join(p.dir, "run")) },
			func(p *directory) error { _, err := p.socketDir(); return err },
		},
		"run is root's directory": { // the user has given root's directory this name
			func(p directory, target string) error { return os.Rename(target, filepath.Join(p.dir, "run")) },
			func(p *directory) error { _, err := p.socketDir(); return err },
		},
		"postmaster.pid is a link": {
			func(p directory, target string) error {
				return os.Symlink(filepath.Join(target, "secret"), filepath.Join(p.data(), "postmaster.pid"))
			},
			(*directory).disownPidfile,
		},
		"postmaster.pid is a hard link": {
			func(p directory, target string) error {
				return os.Link(filepath.Join(target, "secret"), filepath.Join(p.data(), "postmaster.pid"))
			},
			(*directory).disownPidfile,
		},
		"postmaster.pid is a pipe": {
			func(p directory, _ string) error {
				return syscall.Mkfifo(filepath.Join(p.data(), "postmaster.pid"), 0o600)
			},
			(*directory).disownPidfile,
		},
	} {
		dir := filepath.Join(ofNobody(t), "postgres")
		target := filepath.Join(filepath.Dir(dir), "target")
		const text = "1\nroot's own\n"
		err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, nobody, nobody), os.Mkdir(filepath.Join(dir, "data"), 0o700),
			os.Mkdir(target, 0o755), os.WriteFile(filepath.Join(target, "secret"), []byte(text), 0o640))
		if err != nil {
			t.Fatal(err)
		}
		secret, err := os.Open(filepath.Join(target, "secret"))
		if err != nil {
			t.Fatal(err)
		}
		defer secret.Close()
		above, err := os.Open(target)
		if err != nil {
			t.Fatal(err)
		}
		defer above.Close()
		p := directory{dir: dir, cred: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if err := c.prepare(p, target); err != nil {
			t.Fatal(err)
		}
		if err := c.call(&p); err == nil {
			t.Errorf("%s: accepted", what)
		}
		for f, mode := range map[*os.File]os.FileMode{above: 0o755, secret: 0o640} {
			fi, err := f.Stat()
			if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 0 || fi.Mode().Perm() != mode {
				t.Errorf("%s: %s is now %v, %v", what, f.Name(), fi, err)
			}
		}
		if got, err := io.ReadAll(secret); err != nil || string(got) != text {
			t.Errorf("%s: the file is now %q, %v", what, got, err)
		}
	}
}

func TestServersAccountIsTheDirectorysOwner(t *testing.T) {
	data := ofNobody(t)
	for _, dir := range []string{data, filepath.Join(data, "postgres")} {
		if p, err := locate(dir); err != nil || p.account() != nobody || !p.ofOwner {
			t.Errorf("%s: %+v, %v", dir, p, err)
		}
	}
	// PostgreSQL does not run for an owner without an account.
	if err := os.Chown(data, 3_999_999_999, 1); err != nil {
		t.Fatal(err)
	}
	if p, err := locate(filepath.Join(data, "postgres")); err != nil || p.account() == 3_999_999_999 || p.account() == 0 {
		t.Errorf("an owner without an account: %+v, %v", p, err)
	}
}

// TestOtherFilesAreNotRemoved starts in a directory that the server's account cannot
// reach, so that the cluster has to be elsewhere. Files that no start has made must stay.
func TestOtherFilesAreNotRemoved(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server of another account")
	}
	above := t.TempDir()
	dir := filepath.Join(above, "postgres")
	kept := filepath.Join(dir, "backup.sql")
	err := errors.Join(os.Chmod(above, 0o700), os.MkdirAll(filepath.Join(dir, "data.new-123"), 0o700), os.WriteFile(kept, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(t.Context(), dir, Options{Bin: os.Getenv("PGBIN"), Disposable: true})
	if err == nil {
		t.Errorf("a cluster was made in place of other files: %v", c.Stop(t.Context()))
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}
