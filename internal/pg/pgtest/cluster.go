package pgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"colophon/internal/pg"
)

// start starts a server in the new directory dir. The program initdb takes a second of
// processor time. So the server's files are a copy of a cluster that is kept in the user's
// cache directory. The first call makes that cluster.
func start(ctx context.Context, dir string, opt pg.Options) (*pg.Cluster, error) {
	kept, err := keptCluster()
	if err != nil {
		return pg.Start(ctx, dir, opt) // for example for an account without a home directory
	}
	if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
		if err := keep(ctx, kept, opt.Bin); err != nil {
			return nil, fmt.Errorf("make a cluster to copy: %w", err)
		}
	}
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // the server's account must be able to pass through
	}
	if err := os.Mkdir(dir, mode); err != nil {
		return nil, err
	}
	if err := copyTree(ctx, kept, filepath.Join(dir, "data")); err != nil {
		return nil, err
	}
	cluster, err := pg.Start(ctx, dir, opt)
	if err == nil {
		return cluster, nil
	}
	// Another version of PostgreSQL may be installed now.
	if err := errors.Join(os.RemoveAll(kept), os.RemoveAll(dir)); err != nil {
		return nil, err
	}
	return pg.Start(ctx, dir, opt)
}

// keptCluster returns the path of the cluster that start copies. The path depends on the
// source that runs initdb, so a change of its flags makes another cluster.
func keptCluster() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("no source files")
	}
	source, err := os.ReadFile(filepath.Join(filepath.Dir(file), "..", "directory.go"))
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "colophon-test", fmt.Sprintf("cluster-%x", sha256.Sum256(source))[:24]), nil
}

// keep makes the cluster at the path kept. If another process makes it at the same time,
// either cluster is kept.
func keep(ctx context.Context, kept, bin string) (err error) {
	dir, err := MakeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cluster, err := pg.Start(ctx, filepath.Join(dir, "postgres"), pg.Options{Bin: bin, Disposable: true})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := cluster.Stop(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(kept), "cluster-new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(unfinished)) }()
	copied := filepath.Join(unfinished, "data")
	if err := copyTree(ctx, filepath.Join(dir, "postgres", "data"), copied); err != nil {
		return err
	}
	if err := os.Rename(copied, kept); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// copyTree copies a directory with the owners and the modes of its files.
func copyTree(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-Rp", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w\n%s", from, err, out)
	}
	return nil
}
