package pg

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// directory names a cluster's directory and the account that owns the files in it:
//
//	<dir>/data   the data directory, mode 0700, owned by the account
//	<dir>/run    the socket's directory, mode 0700, owned by the account
//	<dir>/log    the server's log; log.1 is the log of the previous run
//
// dir itself belongs to the caller of Start. If the caller is root, the account that
// runs the server cannot put a link into dir and make root follow it.
type directory struct {
	dir  string              // absolute path, without symbolic links if dir exists
	cred *syscall.Credential // the account, or nil if the caller's own account owns the files
}

func (d directory) data() string { return filepath.Join(d.dir, "data") }
func (d directory) log() string  { return filepath.Join(d.dir, "log") }

// dirMode returns the mode of a directory above the cluster. If root starts the server,
// the server runs as another account. That account must be able to pass through the
// directory.
func dirMode() os.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}

// locate follows dir to the cluster of an earlier start. It also finds the account that
// must run the server. It creates nothing.
func locate(dir string) (directory, error) {
	d := directory{dir: dir}
	real, err := filepath.EvalSymlinks(dir)
	switch {
	case err == nil:
		d.dir = real
	case !errors.Is(err, os.ErrNotExist):
		return directory{}, err
	default:
		if to, err := os.Readlink(dir); err == nil {
			return directory{}, fmt.Errorf("the cluster was in %s, which is gone: restore it, or remove the link to create a new cluster", to)
		}
	}
	if os.Geteuid() != 0 {
		return d, nil
	}
	if fi, err := os.Stat(d.data()); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			d.cred = &syscall.Credential{Uid: st.Uid, Gid: st.Gid}
			return d, nil
		}
	}
	d.cred, err = serverAccount("postgres", "nobody")
	return d, err
}

// serverAccount returns the first of the named accounts that exists. The result has no
// supplementary groups.
func serverAccount(names ...string) (*syscall.Credential, error) {
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root and there is no account %s: run this as an ordinary user, or set DATABASE_URL",
		strings.Join(names, " or "))
}

// settle creates d.dir. If the server's account cannot reach d.dir, settle creates the
// cluster elsewhere, makes dir a link to the cluster, and returns true.
func (d *directory) settle(ctx context.Context, dir string, bin binaries) (moved bool, err error) {
	if err := os.MkdirAll(d.dir, dirMode()); err != nil {
		return false, err
	}
	if d.dir, err = filepath.EvalSymlinks(d.dir); err != nil {
		return false, err
	}
	if d.cred == nil || d.reachable(ctx, bin, d.dir) {
		return false, nil
	}
	if _, err := os.Lstat(d.data()); err == nil {
		return false, fmt.Errorf("account %d, which owns the cluster, cannot reach it: let it pass through the directories above (chmod a+x)", d.cred.Uid)
	}
	var errs []error
	for _, base := range []string{"/var/lib/colophon", "/var/tmp"} {
		elsewhere, err := d.elsewhere(ctx, bin, base)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// dir holds at most the useless files of an interrupted start.
		if err := os.RemoveAll(dir); err != nil {
			return false, err
		}
		if err := os.Symlink(elsewhere, dir); err != nil {
			return false, err
		}
		d.dir = elsewhere
		return true, nil
	}
	return false, fmt.Errorf("account %d can reach neither %s nor another directory for it: %w", d.cred.Uid, d.dir, errors.Join(errs...))
}

// elsewhere creates a directory below base that the server's account can reach, and
// returns its path.
func (d *directory) elsewhere(ctx context.Context, bin binaries, base string) (string, error) {
	if err := os.MkdirAll(base, 0o711); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(base, "colophon-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", err
	}
	if !d.reachable(ctx, bin, dir) {
		return "", errors.Join(fmt.Errorf("%s is out of reach", dir), os.Remove(dir))
	}
	return dir, nil
}

// reachable reports whether the account can start a program in dir. It really starts a
// program, so that the result respects every kind of access rule.
func (d *directory) reachable(ctx context.Context, bin binaries, dir string) bool {
	cmd := d.command(ctx, bin.postgres, "--version")
	cmd.Dir = dir
	_, err := output(cmd)
	return err == nil
}

// command returns a command that runs a server program as the directory's account. The
// program dies with this process. It does not get this process's environment, which may
// hold secrets and PG* variables of another server.
func (d *directory) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.cred}
	dieWithParent(cmd.SysProcAttr, syscall.SIGKILL)
	return cmd
}

// give makes the server's account the only account, except root, that can enter path.
func (d *directory) give(path string) error {
	if d.cred != nil {
		if err := os.Lchown(path, int(d.cred.Uid), int(d.cred.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o700)
}

// initdb creates the cluster unless it exists. It builds the cluster under another name
// and renames the complete cluster. So an incomplete cluster is never mistaken for a
// complete cluster.
func (d *directory) initdb(ctx context.Context, bin binaries, disposable bool) error {
	if _, err := os.Stat(filepath.Join(d.data(), "PG_VERSION")); err == nil {
		return nil
	}
	if err := os.Remove(d.data()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w (the directory is not a cluster: move it away)", err)
	}
	const unfinished = "data.new-"
	left, _ := filepath.Glob(filepath.Join(d.dir, unfinished+"*"))
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove the files of an interrupted start: %w", err)
		}
	}
	dir, err := os.MkdirTemp(d.dir, unfinished)
	if err != nil {
		return err
	}
	if err := d.give(dir); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + dir, "--username=" + owner, "--encoding=UTF8",
		// Text sorts in byte order, so that no index depends on the locales of a libc.
		"--no-locale",
		"--data-checksums",
		// Connections need no password, because only the account itself (and root) can
		// enter the socket's directory.
		"--auth=trust",
		"--no-instructions",
	}
	if disposable {
		args = append(args, "--no-sync")
	}
	if out, err := output(d.command(ctx, bin.initdb, args...)); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return errors.Join(fmt.Errorf("initdb: %w\n%s", err, out), os.RemoveAll(dir))
	}
	if err := os.Rename(dir, d.data()); err != nil {
		return err
	}
	return syncDir(d.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// maxSocketPath is the longest path of a unix socket that every system allows, in
// bytes. Linux allows 107 bytes. macOS and the BSDs allow 103 bytes.
const maxSocketPath = 103

// socketDir creates the directory of the socket. The directory is <dir>/run. If that
// path would be too long for a socket, the directory is in /tmp.
func (d *directory) socketDir() (string, error) {
	dir := filepath.Join(d.dir, "run")
	if len(filepath.Join(dir, ".s.PGSQL."+port)) <= maxSocketPath {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
		return dir, d.give(dir)
	}
	// Each start uses the same name, so that crashes do not leave many directories.
	sum := sha256.Sum256([]byte(d.dir))
	dir = fmt.Sprintf("/tmp/colophon-%x", sum[:6])
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		if d.owns(dir) {
			return dir, nil
		}
		// The directory belongs to another account, which could impersonate the server.
		dir, err = os.MkdirTemp("/tmp", "colophon-")
	}
	if err != nil {
		return "", err
	}
	return dir, d.give(dir)
}

// owns reports whether path is a directory, not a link, that only the server's
// account can enter.
func (d *directory) owns(path string) bool {
	uid := uint32(os.Geteuid())
	if d.cred != nil {
		uid = d.cred.Uid
	}
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode() != os.ModeDir|0o700 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uid
}
