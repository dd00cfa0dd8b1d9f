package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoServer is returned if the caller named no directory and none of the usual
// directories contains initdb and postgres. The text of ErrNoServer tells the user what to
// do.
var ErrNoServer = errors.New(`no PostgreSQL server programs (initdb and postgres, version 15 or newer) on this machine
(searched $PATH, pg_config, /usr/lib/postgresql, /usr/pgsql-*, Homebrew, Postgres.app).
Any one of these helps:
  install it       colophon up --install-postgres, or apt-get install postgresql (macOS: brew install postgresql@17)
  use containers   docker compose up
  name a server    DATABASE_URL=postgres://USER:PASSWORD@HOST:5432/DATABASE`)

// oldest is the oldest supported major version.
const oldest = 15

// binaries are the server programs of one PostgreSQL installation.
type binaries struct {
	initdb, postgres string
	major            int
	version          string // version as the program prints it, such as 17.2
}

// candidates returns the directories that may hold the programs, the likeliest first.
// If the caller named a directory, candidates returns only that directory.
func candidates(ctx context.Context, named string) []string {
	if named != "" {
		return []string{named}
	}
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian and its family
		"/usr/pgsql-*/bin",          // the PostgreSQL project's RPMs
		"/usr/libexec/postgresql*",  // Alpine
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return cmp.Compare(pathVersion(b), pathVersion(a)) })
		dirs = append(dirs, found...)
	}
	return dirs
}

// Installed returns nil if this machine has the programs that Start needs for dir, and
// ErrNoServer if it has no programs. The directory bin is Options.Bin.
func Installed(ctx context.Context, dir, bin string) error {
	if err := CheckPrograms(bin); err != nil {
		return err
	}
	_, err := chooseBinaries(ctx, candidates(ctx, bin), directory{dir: dir})
	return err
}

// CheckPrograms returns an error if dir, the directory of Options.Bin, lacks a program. An
// empty dir has no mistake.
func CheckPrograms(dir string) error {
	if dir == "" {
		return nil
	}
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return fmt.Errorf("the directory of the PostgreSQL programs ($PGBIN, --pg-bin) is %s: %w: name the directory that has initdb and postgres, or none", dir, err)
		}
	}
	return nil
}

var digits = regexp.MustCompile(`\d+`)

// pathVersion returns the version in a path such as /usr/lib/postgresql/17/bin.
func pathVersion(path string) int {
	n, _ := strconv.Atoi(digits.FindString(path))
	return n
}

// chooseBinaries returns the first programs in dirs that the directory's account can
// run. If the directory already holds data, the programs must match the version of the
// data.
func chooseBinaries(ctx context.Context, dirs []string, d directory) (binaries, error) {
	want, err := dataVersion(d.data())
	if err != nil {
		return binaries{}, err
	}
	var other []string // major versions of programs that cannot read the data
	var errs []error
	for _, dir := range dirs {
		bin, err := examine(ctx, dir, d)
		switch {
		case err != nil:
			if !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		case want != 0 && bin.major != want:
			other = append(other, strconv.Itoa(bin.major))
		case bin.major < oldest:
			errs = append(errs, fmt.Errorf("PostgreSQL %d in %s is too old", bin.major, dir))
		default:
			return bin, nil
		}
	}
	if len(other) > 0 {
		return binaries{}, fmt.Errorf("the data in %s was written by PostgreSQL %d, and this machine has version %s: "+
			"install PostgreSQL %[2]d beside it, or convert the data with pg_upgrade or pg_dump",
			d.data(), want, strings.Join(slices.Compact(other), ", "))
	}
	return binaries{}, errors.Join(append(errs, ErrNoServer)...)
}

// dataVersion returns the major version that wrote the data directory. It returns 0 if
// there is no data.
func dataVersion(data string) (int, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION: %w", data, err)
	}
	return n, nil
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

func examine(ctx context.Context, dir string, d directory) (binaries, error) {
	bin := binaries{initdb: filepath.Join(dir, "initdb"), postgres: filepath.Join(dir, "postgres")}
	for _, program := range []string{bin.initdb, bin.postgres} {
		if _, err := os.Stat(program); err != nil {
			return binaries{}, err
		}
	}
	out, err := output(d.command(ctx, bin.postgres, "--version"))
	if err != nil {
		return binaries{}, fmt.Errorf("%s --version: %w", bin.postgres, err)
	}
	m := versionLine.FindStringSubmatch(string(out))
	if m == nil {
		return binaries{}, fmt.Errorf("%s --version: not PostgreSQL: %q", bin.postgres, out)
	}
	bin.version = m[1]
	bin.major, err = strconv.Atoi(m[2])
	return bin, err
}
