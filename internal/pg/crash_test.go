package pg_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

func TestStartRecoversAKilledServer(t *testing.T) {
	dir := stopped(t)
	c := startWith(t, dir, durable())
	exec1(t, c, `DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 'committed' AS v`)
	if err := syscall.Kill(serverPID(dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Exited()
	if serverPID(dir) == 0 {
		t.Fatal("the killed server removed its pid file, so nothing is tested")
	}
	c = start(t, dir)
	if v := query1(t, c, `SELECT v FROM kept`); v != "committed" {
		t.Fatalf("after the crash: %q", v)
	}
}

// TestStartIgnoresThePIDOfAnotherProcess starts a server whose pid file names a living
// process of the server's account. That process is not a server. A restart of the machine
// can leave such a file. The start must succeed.
func TestStartIgnoresThePIDOfAnotherProcess(t *testing.T) {
	dir := stopped(t)
	c := start(t, dir)
	if err := syscall.Kill(serverPID(dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Exited()

	file := filepath.Join(dir, "data", "postmaster.pid")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sleeper := exec.CommandContext(t.Context(), "sleep", "600")
	fi, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		st := fi.Sys().(*syscall.Stat_t)
		sleeper.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: st.Uid, Gid: st.Gid}}
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	_, rest, _ := bytes.Cut(b, []byte("\n"))
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d\n%s", sleeper.Process.Pid, rest), 0o600); err != nil {
		t.Fatal(err)
	}

	query1(t, start(t, dir), `SELECT 'works'`)
}

func TestInterruptedInitdbIsStartedAgain(t *testing.T) {
	dir := filepath.Join(pgtest.Dir(t), "postgres")
	// The first start is cancelled while initdb runs.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := pg.Start(ctx, dir, options())
		done <- err
	}()
	for {
		left, _ := filepath.Glob(filepath.Join(dir, "data.new-*", "base"))
		if len(left) > 0 {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("it ended before it was interrupted: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	// A start that was killed leaves an incomplete cluster like this one.
	half := filepath.Join(dir, "data.new-123")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	query1(t, start(t, dir), `SELECT 'works'`)
	if left, _ := filepath.Glob(filepath.Join(dir, "data.new-*")); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestCancelledStartLeavesNoServer(t *testing.T) {
	dir := stopped(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := pg.Start(ctx, dir, options()); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, %v", c, err)
	}
	free(t, dir)
}

// TestServerEndsWithItsParent starts a server in another process and kills that
// process. The server must then shut down by itself.
func TestServerEndsWithItsParent(t *testing.T) {
	if dir := os.Getenv("PG_TEST_PARENT"); dir != "" {
		query1(t, start(t, dir), `SELECT 'works'`)
		fmt.Println("started")
		_, _ = io.Copy(io.Discard, os.Stdin) // waits until this process is killed
		return
	}
	dir := stopped(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestServerEndsWithItsParent$")
	cmd.Env = append(os.Environ(), "PG_TEST_PARENT="+dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
		t.Fatal(err)
	}
	found := start(t, dir)
	if found.PID() != 0 {
		t.Fatal("the other process's server was not found")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	free(t, dir)
	if pid := serverPID(dir); pid != 0 {
		t.Fatalf("the server %d was killed, not stopped", pid)
	}
}
