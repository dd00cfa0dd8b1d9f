package pg

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
// dir itself belongs to the caller of Start, or to the account. An account that owns dir
// can replace each entry at any time. So Start opens the entries below dir, without
// following a link out of it, and checks and changes what it has opened. It never
// changes the owner or the mode of a file by its path.
type directory struct {
	dir  string              // absolute path; has no symbolic links once dir exists
	cred *syscall.Credential // nil if the account is the caller's

	// ofOwner is set if the account is the owner of the directory above dir, and not an
	// account for servers. A new dir then belongs to that owner.
	ofOwner bool
}

func (d directory) data() string { return filepath.Join(d.dir, "data") }

// locate follows dir to the cluster of an earlier start. It also finds the account that
// must run the server. It creates nothing.
func locate(dir string) (directory, error) {
	d := directory{dir: dir}
	real, err := filepath.EvalSymlinks(dir)
	switch {
	case err == nil:
		d.dir = real
		if err := checkLink(dir, real); err != nil {
			return directory{}, err
		}
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
	// If a cluster in a user's directory belonged to another account, the user could not
	// start it.
	for _, dir := range []string{d.dir, filepath.Dir(d.dir)} {
		if fi, err := os.Lstat(dir); err == nil {
			d.cred = userAccount(fi)
			d.ofOwner = d.cred != nil
			break
		}
	}
	if d.cred != nil {
		return d, nil
	}
	d.cred, err = serverAccount("postgres", "nobody")
	return d, err
}

// userAccount returns the owner of a directory. It returns nil for root and for an owner
// with no account on this machine, because PostgreSQL refuses to run as root or without an
// account.
func userAccount(dir os.FileInfo) *syscall.Credential {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok || !dir.IsDir() || st.Uid == 0 {
		return nil
	}
	if _, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10)); err != nil {
		return nil
	}
	return &syscall.Credential{Uid: st.Uid, Gid: st.Gid}
}

// serverAccount returns the first account of names that exists, without supplementary
// groups.
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
	if err := d.make(); err != nil {
		return false, err
	}
	if d.dir, err = filepath.EvalSymlinks(d.dir); err != nil {
		return false, err
	}
	if d.cred == nil || d.reachable(ctx, bin, d.dir) {
		return false, d.recordLink(dir)
	}
	if _, err := os.Lstat(d.data()); err == nil {
		return false, fmt.Errorf("account %d, which owns the cluster, cannot reach it: let it pass through the directories above (chmod a+x)", d.cred.Uid)
	}
	if err := removeUnfinished(dir); err != nil {
		return false, err
	}
	var errs []error
	for _, base := range []string{"/var/lib/colophon", "/var/tmp"} {
		elsewhere, err := d.elsewhere(ctx, bin, base)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.Symlink(elsewhere, dir); err != nil {
			return false, err
		}
		d.dir = elsewhere
		return true, d.recordLink(dir)
	}
	return false, fmt.Errorf("account %d can reach neither %s nor another directory for it: %w", d.cred.Uid, d.dir, errors.Join(errs...))
}

// removeUnfinished removes the files of an interrupted start, and dir. It returns an error
// if dir has other files.
func removeUnfinished(dir string) error {
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		return errors.Join(err, os.Remove(dir))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := fs.Glob(root.FS(), unfinished+"*")
	if err != nil {
		return err
	}
	for _, name := range append(names, "run", "log", "log.1", linkFile) {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("%w (the directory is not a cluster: move it away)", err)
	}
	return nil
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

// make creates d.dir. The directory above it exists.
func (d *directory) make() error {
	above, err := os.OpenRoot(filepath.Dir(d.dir))
	if err != nil {
		return err
	}
	defer above.Close()
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // the account must be able to pass through
	}
	name := filepath.Base(d.dir)
	err = above.Mkdir(name, mode)
	switch {
	case errors.Is(err, os.ErrExist):
		return nil
	case err != nil || !d.ofOwner:
		return err
	}
	return d.give(above, name, mode)
}

// give makes the server's account the owner of the directory name in root, and sets the
// directory's mode. It gives away only an empty directory of this process's account, which
// the process has just made. Such a directory has nothing that the account could gain.
func (d *directory) give(root *os.Root, name string, mode os.FileMode) error {
	dir, err := root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	fi, err := dir.Stat()
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: unknown owner", dir.Name())
	}
	if account := d.account(); st.Uid != account {
		if _, err := dir.Readdirnames(1); st.Uid != uint32(os.Geteuid()) || !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s belongs to account %d, want %d: move it away", dir.Name(), st.Uid, account)
		}
		if err := dir.Chown(int(account), int(d.cred.Gid)); err != nil {
			return err
		}
	}
	return dir.Chmod(mode)
}

// account returns the id of the server's account.
func (d *directory) account() uint32 {
	if d.cred != nil {
		return d.cred.Uid
	}
	return uint32(os.Geteuid())
}

// unfinished begins the name of a cluster that initdb has not completed.
const unfinished = "data.new-"

// initdb creates the cluster unless it exists. It builds the cluster under another name
// and renames the complete cluster. So an incomplete cluster is never mistaken for a
// complete cluster.
func (d *directory) initdb(ctx context.Context, bin binaries, disposable bool) error {
	if _, err := os.Stat(filepath.Join(d.data(), "PG_VERSION")); err == nil {
		return nil
	}
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove("data"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w (the directory is not a cluster: move it away)", err)
	}
	left, err := fs.Glob(root.FS(), unfinished+"*")
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("remove the files of an interrupted start: %w", err)
		}
	}
	name := unfinished + rand.Text()
	if err := root.Mkdir(name, 0o700); err != nil {
		return err
	}
	if err := d.give(root, name, 0o700); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + filepath.Join(d.dir, name), "--username=" + owner, "--encoding=UTF8",
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
		return errors.Join(fmt.Errorf("initdb: %w\n%s", err, out), root.RemoveAll(name))
	}
	if err := root.Rename(name, "data"); err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// maxSocketPath is the longest path of a unix socket that every system allows, in
// bytes. Linux allows 107 bytes. macOS and the BSDs allow 103 bytes.
const maxSocketPath = 103

// socketDir creates the directory of the socket. The directory is <dir>/run. If that
// path would be too long for a socket, the directory is in /tmp.
func (d *directory) socketDir() (string, error) {
	dir := filepath.Join(d.dir, "run")
	if len(filepath.Join(dir, ".s.PGSQL."+port)) <= maxSocketPath {
		return dir, d.mkdir(d.dir, "run")
	}
	// Each start uses the same name, so that crashes do not leave many directories.
	sum := sha256.Sum256([]byte(d.dir))
	name := fmt.Sprintf("colophon-%x", sum[:6])
	dir = filepath.Join("/tmp", name)
	if _, err := os.Lstat(dir); err == nil && !d.owns(dir) {
		// The directory belongs to another account, which could impersonate the server.
		name = "colophon-" + rand.Text()
		dir = filepath.Join("/tmp", name)
	}
	return dir, d.mkdir("/tmp", name)
}

// mkdir creates the directory name in parent, or uses the existing one. Only the server's
// account can enter it.
func (d *directory) mkdir(parent, name string) error {
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return d.give(root, name, 0o700)
}

// owns reports whether path is a directory, not a link, that only the server's
// account can enter.
func (d *directory) owns(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode() != os.ModeDir|0o700 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Uid == d.account()
}
