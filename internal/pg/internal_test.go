package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// fakeServer creates a directory with programs initdb and postgres that claim to have
// the given version.
func fakeServer(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"initdb", "postgres"} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestChooseBinariesMatchesTheData(t *testing.T) {
	v13, v15, v17, v18 := fakeServer(t, "13.20"), fakeServer(t, "15.13 (Debian 15.13-0+deb12u1)"), fakeServer(t, "17.5"), fakeServer(t, "18beta1")
	liar := fakeServer(t, "")
	for _, c := range []struct {
		name    string
		data    string // version in the data directory, or "" if there is no data
		dirs    []string
		want    string
		wantErr string
	}{
		{"the first", "", []string{"/nowhere", v17, v18}, v17, ""},
		{"a beta", "", []string{v18}, v18, ""},
		{"the one that fits the data", "15", []string{v18, v17, v15}, v15, ""},
		{"too old", "", []string{v13, v15}, v15, ""},
		{"only too old", "", []string{v13}, "", "PostgreSQL 13"},
		{"not postgres", "", []string{liar}, "", "not PostgreSQL"},
		{"none fits the data", "15", []string{v18, v17}, "", "written by PostgreSQL 15, and this machine has version 18, 17: install PostgreSQL 15"},
		{"none", "", nil, "", ErrNoServer.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := directory{dir: t.TempDir()}
			if c.data != "" {
				if err := os.Mkdir(p.data(), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(p.data(), "PG_VERSION"), []byte(c.data+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			bin, err := chooseBinaries(t.Context(), c.dirs, p)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Fatalf("error %v, want %q", err, c.wantErr)
				}
				return
			}
			if err != nil || filepath.Dir(bin.postgres) != c.want {
				t.Fatalf("%+v, %v; want %s", bin, err, c.want)
			}
		})
	}
}

// A connection may break at any point of the start of a process: while it is opened, or
// while its first statement is sent.
func TestBrokenConnectionIsTriedAgain(t *testing.T) {
	broken := []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, pgconn.ErrConnClosed, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE}
	for _, err := range broken {
		if err := fmt.Errorf("connect: %w", err); !transient(err) || State(err) != ErrUnavailable {
			t.Errorf("%v: tried again %v, state %v", err, transient(err), State(err))
		}
	}
}

func FuzzParsePidfile(f *testing.F) {
	f.Add("4711\n/d/data\n1700000000\n5432\n/d/run\n\n  12345   6\nready   \n")
	f.Add("4711\n/d/data\n1700000000\n5432\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parsePidfile(s); err == nil && p.status == "ready" && strings.Count(s, "\n") < 7 {
			t.Fatalf("%q is ready: %+v", s, p)
		}
	})
}

func TestParsePidfileToleratesAStartingServer(t *testing.T) {
	for key, want := range map[string]uint32{"    12345": 12345, "18446744071562067969": 1<<31 + 1} { // PostgreSQL writes a negative key as a large number
		got, err := parsePidfile("4711\n/d/data\n1700000000\n5432\n/d/run\n\n" + key + "   6\nready   \n")
		if err != nil || got != (pidfile{4711, "/d/data", "/d/run", want, "ready"}) {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if got, err := parsePidfile("4711\n/d/data\n"); err != nil || got != (pidfile{pid: 4711, data: "/d/data"}) {
		t.Fatalf("a file that is being written: %+v, %v", got, err)
	}
}

// TestForeignSocketDirIsNotUsed makes the usual socket directory unsafe. The test opens
// the directory to other accounts, or replaces it with a link. socketDir must then use
// another directory.
func TestForeignSocketDirIsNotUsed(t *testing.T) {
	p := directory{dir: filepath.Join(t.TempDir(), strings.Repeat("x", maxSocketPath))}
	usual, err := p.socketDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(usual) })
	if again, err := p.socketDir(); err != nil || again != usual {
		t.Fatalf("%s, then %s, %v", usual, again, err)
	}
	for what, taken := range map[string]func() error{
		"open to others": func() error { return os.Chmod(usual, 0o755) },
		"a link":         func() error { return errors.Join(os.Remove(usual), os.Symlink(t.TempDir(), usual)) },
	} {
		if err := taken(); err != nil {
			t.Fatal(err)
		}
		other, err := p.socketDir()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(other) })
		if other == usual || !p.owns(other) {
			t.Errorf("%s: %s used", what, other)
		}
	}
}

func TestServerAccountIsTheFirstThatExists(t *testing.T) {
	if _, err := serverAccount("no-such-account", "nor-this"); err == nil || !strings.Contains(err.Error(), "ordinary user") {
		t.Fatal(err)
	}
	cred, err := serverAccount("no-such-account", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	if cred.Uid == 0 || cred.NoSetGroups || len(cred.Groups) != 0 {
		t.Fatalf("%+v", cred)
	}
}

// TestCommandInheritsNothing runs a program with the method command. The program must
// not get this process's environment. If this process runs as root, the program must
// get only the account's groups.
func TestCommandInheritsNothing(t *testing.T) {
	t.Setenv("COLOPHON_MASTER_KEY", "secret")
	p, err := locate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	out, err := output(p.command(context.Background(), "/bin/sh", "-c", "env; id -u; id -G; pwd"))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Contains(string(out), "secret") || !strings.Contains(string(out), "LC_ALL=C") {
		t.Errorf("environment: %s", out)
	}
	if p.cred != nil {
		lines := strings.Split(string(out), "\n")
		if n := len(lines); lines[n-3] == "0" || strings.Contains(lines[n-2], " ") || lines[n-1] != "/" {
			t.Errorf("uid, groups, directory: %q", lines[max(0, n-3):])
		}
	}
	var attr syscall.SysProcAttr
	dieWithParent(&attr, syscall.SIGINT)
}
