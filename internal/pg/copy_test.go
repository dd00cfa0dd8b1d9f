package pg_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// copyDir copies a directory with its links and owners, as a person would.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestCopiedDirectoryHasAClusterOfItsOwn copies the directory of a cluster while its
// server runs, and after the server has stopped. No copy may use the original's server.
func TestCopiedDirectoryHasAClusterOfItsOwn(t *testing.T) {
	dir := stopped(t)
	copies := pgtest.Dir(t)
	c := start(t, dir)
	exec1(t, c, `DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 'original' AS v`)
	running := filepath.Join(copies, "running")
	copyDir(t, dir, running)
	if _, err := pg.Start(t.Context(), running, options()); err == nil || !strings.Contains(err.Error(), "copy of "+dir) {
		t.Errorf("a copy of a running cluster: %v", err)
	}
	stop(t, c)
	free(t, dir)

	still := filepath.Join(copies, "stopped")
	copyDir(t, dir, still)
	c = start(t, dir)
	other := start(t, still)
	if other.PID() == 0 || other.URL() == c.URL() {
		t.Fatalf("the copy uses the server of the original: %s", other.URL())
	}
	exec1(t, other, `UPDATE kept SET v = 'copy'`)
	if v := query1(t, c, `SELECT v FROM kept`); v != "original" {
		t.Errorf("the copy has written %q into the original", v)
	}
}

// A directory that was moved after a crash is not a copy, so its server must start. Its
// file postmaster.pid still names the old path. A new cluster at the old path must neither
// prevent the start nor be taken for the moved cluster. A copy of the moved directory may be
// damaged, so it must be refused.
func TestMovedDirectoryIsStartedAfterACrash(t *testing.T) {
	t.Parallel()
	for _, replaced := range []bool{false, true} {
		s := pgtest.NewServer(t)
		var id, other string
		s.Query(`SELECT system_identifier::text FROM pg_control_system()`, &id)
		s.Kill()
		dir := s.Dir()
		moved, copied := filepath.Join(filepath.Dir(dir), "moved"), filepath.Join(filepath.Dir(dir), "copied")
		if err := os.Rename(dir, moved); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(moved, "data", "postmaster.pid")); err != nil {
			t.Fatal(err)
		}
		if replaced {
			s.Start()
			s.Query(`SELECT system_identifier::text FROM pg_control_system()`, &other)
			copyDir(t, moved, copied)
			_, err := pg.Start(t.Context(), copied, options())
			if pidfile := filepath.Join(copied, "data", "postmaster.pid"); err == nil || !strings.Contains(err.Error(), "copy of "+dir) || !strings.Contains(err.Error(), "remove "+pidfile) {
				t.Errorf("a copy of the moved directory: %v", err)
			}
		}
		if got := query1(t, start(t, moved), `SELECT system_identifier::text FROM pg_control_system()`); got != id || got == other {
			t.Errorf("replaced %v: cluster %s runs in the moved directory, want %s", replaced, got, id)
		}
	}
}

// TestCopiedLinkIsRefused copies a data directory that is a link to a cluster elsewhere.
// The copied link leads to the original's cluster, so Start must refuse the copy.
func TestCopiedLinkIsRefused(t *testing.T) {
	cluster := stopped(t)
	above := pgtest.Dir(t)
	first, second, moved := filepath.Join(above, "first"), filepath.Join(above, "second"), filepath.Join(above, "moved")
	link := filepath.Join(first, "postgres")
	if err := os.Mkdir(first, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(cluster, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(cluster, "link")) })
	c := start(t, link)
	copyDir(t, first, second)
	refused := func(when string) {
		t.Helper()
		_, err := pg.Start(t.Context(), filepath.Join(second, "postgres"), options())
		if err == nil || !strings.Contains(err.Error(), "copy of "+link) {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("while the original runs")
	stop(t, c)
	free(t, link)
	refused("after the original has stopped")
	if err := os.Rename(first, moved); err != nil {
		t.Fatal(err)
	}
	stop(t, start(t, filepath.Join(moved, "postgres")))
	free(t, filepath.Join(moved, "postgres"))
	link = filepath.Join(moved, "postgres")
	refused("after the original was moved")
}
