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

// place is where a cluster's files are and the account that owns them:
//
//	<dir>/data   the data directory, 0700, of the account
//	<dir>/run    the socket, 0700, of the account
//	<dir>/log    what the server said; log.1 is the run before
//
// dir itself belongs to whoever runs Start, so that an account that serves
// root's cluster cannot make root follow a link of its making.
type place struct {
	dir  string              // absolute, no symbolic links once it exists
	cred *syscall.Credential // nil: the caller's own
}

func (p place) data() string { return filepath.Join(p.dir, "data") }
func (p place) log() string  { return filepath.Join(p.dir, "log") }

// dirMode is the mode of a directory above the cluster: root's server runs as
// another account that has to pass through.
func dirMode() os.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}

// locate follows dir to where an earlier start put it, and finds the account to
// run as. It creates nothing.
func locate(dir string) (place, error) {
	p := place{dir: dir}
	real, err := filepath.EvalSymlinks(dir)
	switch {
	case err == nil:
		p.dir = real
	case !errors.Is(err, os.ErrNotExist):
		return place{}, err
	default:
		if to, err := os.Readlink(dir); err == nil {
			return place{}, fmt.Errorf("the cluster was put into %s, which is gone: restore it, or remove the link to begin anew", to)
		}
	}
	if os.Geteuid() != 0 {
		return p, nil
	}
	if fi, err := os.Stat(p.data()); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			p.cred = &syscall.Credential{Uid: st.Uid, Gid: st.Gid}
			return p, nil
		}
	}
	p.cred, err = serverAccount("postgres", "nobody")
	return p, err
}

// serverAccount is the first of names that exists, without supplementary groups.
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

// settle creates p.dir. Where the server's account cannot get there it makes
// the cluster elsewhere, with dir a link to it, and reports that it did.
func (p *place) settle(ctx context.Context, dir string, bin binaries) (moved bool, err error) {
	if err := os.MkdirAll(p.dir, dirMode()); err != nil {
		return false, err
	}
	if p.dir, err = filepath.EvalSymlinks(p.dir); err != nil {
		return false, err
	}
	if p.cred == nil || p.reachable(ctx, bin, p.dir) {
		return false, nil
	}
	if _, err := os.Lstat(p.data()); err == nil {
		return false, fmt.Errorf("account %d, which owns the cluster, cannot reach it: let it pass through the directories above (chmod a+x)", p.cred.Uid)
	}
	var errs []error
	for _, base := range []string{"/var/lib/colophon", "/var/tmp"} {
		elsewhere, err := p.elsewhere(ctx, bin, base)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// What an interrupted start left in dir is of no use.
		if err := os.RemoveAll(dir); err != nil {
			return false, err
		}
		if err := os.Symlink(elsewhere, dir); err != nil {
			return false, err
		}
		p.dir = elsewhere
		return true, nil
	}
	return false, fmt.Errorf("account %d cannot reach %s, nor a place for it elsewhere: %w", p.cred.Uid, p.dir, errors.Join(errs...))
}

// elsewhere makes a directory below base that the server's account can reach.
func (p *place) elsewhere(ctx context.Context, bin binaries, base string) (string, error) {
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
	if !p.reachable(ctx, bin, dir) {
		return "", errors.Join(fmt.Errorf("%s is out of reach", dir), os.Remove(dir))
	}
	return dir, nil
}

// reachable asks the only one who knows for certain, with every kind of access
// rule counted: a program that the account starts in dir.
func (p *place) reachable(ctx context.Context, bin binaries, dir string) bool {
	cmd := p.command(ctx, bin.postgres, "--version")
	cmd.Dir = dir
	_, err := output(cmd)
	return err == nil
}

// command is a server program, run as the place's account and dying with us. It
// gets no environment: ours may hold secrets, and PG* variables that mean
// another server.
func (p *place) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	dieWithParent(cmd.SysProcAttr, syscall.SIGKILL)
	return cmd
}

// give makes path a private directory of the server's account.
func (p *place) give(path string) error {
	if p.cred != nil {
		if err := os.Lchown(path, int(p.cred.Uid), int(p.cred.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o700)
}

// initdb makes the cluster unless it is there. It is built under another name
// and renamed when complete, so that one that was interrupted is never taken
// for a cluster.
func (p *place) initdb(ctx context.Context, bin binaries, disposable bool) error {
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return nil
	}
	if err := os.Remove(p.data()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w (it is not a cluster, so it is in the way)", err)
	}
	const unfinished = "data.new-"
	left, _ := filepath.Glob(filepath.Join(p.dir, unfinished+"*"))
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what an interrupted start left: %w", err)
		}
	}
	dir, err := os.MkdirTemp(p.dir, unfinished)
	if err != nil {
		return err
	}
	if err := p.give(dir); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + dir, "--username=" + owner, "--encoding=UTF8",
		// Byte order everywhere: no index depends on a libc's idea of a language.
		"--no-locale",
		"--data-checksums",
		// The socket's directory lets nobody in but the account itself (and root).
		"--auth=trust",
		"--no-instructions",
	}
	if disposable {
		args = append(args, "--no-sync")
	}
	if out, err := output(p.command(ctx, bin.initdb, args...)); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return errors.Join(fmt.Errorf("initdb: %w\n%s", err, out), os.RemoveAll(dir))
	}
	if err := os.Rename(dir, p.data()); err != nil {
		return err
	}
	return syncDir(p.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// maxSocketPath is the longest path of a unix socket, in bytes: 107 on Linux,
// 103 on macOS and the BSDs.
const maxSocketPath = 103

// socketDir makes the directory of the socket: <dir>/run, or one in /tmp when
// that would be too long for a socket.
func (p *place) socketDir() (string, error) {
	dir := filepath.Join(p.dir, "run")
	if len(filepath.Join(dir, ".s.PGSQL."+port)) <= maxSocketPath {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
		return dir, p.give(dir)
	}
	// The same name each time, so that a crash leaves no trail of directories.
	sum := sha256.Sum256([]byte(p.dir))
	dir = fmt.Sprintf("/tmp/colophon-%x", sum[:6])
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		if p.owns(dir) {
			return dir, nil
		}
		// Somebody else's: whoever owns the directory could answer as the server.
		dir, err = os.MkdirTemp("/tmp", "colophon-")
	}
	if err != nil {
		return "", err
	}
	return dir, p.give(dir)
}

// owns reports whether path is a directory, not a link, that only the server's
// account can enter.
func (p *place) owns(path string) bool {
	uid := uint32(os.Geteuid())
	if p.cred != nil {
		uid = p.cred.Uid
	}
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode() != os.ModeDir|0o700 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uid
}
