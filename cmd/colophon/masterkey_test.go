package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colophon/internal/database"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
	"colophon/test/apitest"
)

// TestProcessWithoutTheMasterKeyDoesNotStart starts each kind of process with a missing,
// wrong or unsafe master key. The process must end, name the remedy, and write no key.
func TestProcessWithoutTheMasterKeyDoesNotStart(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	prove(t, db, 1)
	key := func(fill byte) string {
		return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, vault.MasterKeySize))
	}
	for _, process := range []string{"worker", "api --listen 127.0.0.1:0", "up --listen 127.0.0.1:0", "user list", "keys rotate", "history rebuild"} {
		start := func(data string, flags ...string) error {
			t.Helper()
			args := append(strings.Fields(process), "--database-url", db.URL, "--data", data)
			_, _, err := command(t, "", append(args, flags...)...)
			return err
		}
		none := filepath.Join(t.TempDir(), "none")
		if err := start(none); !errors.Is(err, database.ErrNoMasterKey) {
			t.Errorf("%s without a key: %v", process, err)
		}
		if _, err := os.Stat(filepath.Join(none, "master.key")); err == nil {
			t.Errorf("%s wrote a master key", process)
		}
		if err := start(none, "--master-key", key(2)); !errors.Is(err, vault.ErrMasterKey) || !strings.Contains(err.Error(), "COLOPHON_MASTER_KEY") {
			t.Errorf("%s with a wrong key: %v", process, err)
		}
		readable := filepath.Join(t.TempDir(), "readable")
		file := filepath.Join(readable, "master.key")
		if err := errors.Join(os.Mkdir(readable, 0o700), os.WriteFile(file, []byte(key(1)), 0o600), os.Chmod(file, 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := start(readable); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%s with a key that others can read: %v", process, err)
		}
		// A directory takes the place of the key file. The process must report it at once.
		if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := start(readable); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s with a directory as key: %v", process, err)
		}
	}
	if _, _, err := command(t, "", "user", "list", "--database-url", db.URL, "--data", t.TempDir(), "--master-key", key(1)); err != nil {
		t.Errorf("with the right key: %v", err)
	}
}

// prove gives the database a master key whose bytes all have the value fill.
func prove(t *testing.T, db *pgtest.DB, fill byte) {
	t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{fill}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Prove(t.Context(), db.App); err != nil {
		t.Fatal(err)
	}
}

func TestMasterKeyIsMadeForAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	data := filepath.Join(t.TempDir(), "data")
	list := func(data string) error {
		_, _, err := command(t, "", "user", "list", "--database-url", db.URL, "--data", data)
		return err
	}
	// The key file cannot be made, because its directory would be below a file. After this
	// error another key must still be possible.
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := list(filepath.Join(blocked, "data")); err == nil || !strings.Contains(err.Error(), blocked) {
		t.Errorf("a directory that cannot be made: %v", err)
	}
	for range 2 {
		if err := list(data); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(data, "master.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := list(t.TempDir()); !errors.Is(err, database.ErrNoMasterKey) {
		t.Errorf("a second machine without the key: %v", err)
	}
}

// TestMasterKeyIsReplacedWithoutAPause replaces the master key of a service with clients, and
// starts the service again with the new key alone.
func TestMasterKeyIsReplacedWithoutAPause(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	key := func(fill byte) string {
		return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, vault.MasterKeySize))
	}
	at := []string{"--database-url", db.URL, "--data", t.TempDir()}
	both := append([]string{"--master-key", key(1), "--second-master-key", key(2)}, at...)
	rotate := func(flags ...string) (string, error) {
		out, _, err := command(t, "", append([]string{"keys", "rotate", "--master"}, flags...)...)
		return out, err
	}
	if _, err := rotate(append([]string{"--master-key", key(1)}, at...)...); status(err) != 2 {
		t.Errorf("without a second key: %v", err)
	}
	s := serveWith(t, both, "up")
	c := newUser(t, s.url, "isaac")
	tokens := c.SignIn("isaac", password)
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200)
	done, asked := make(chan struct{}), make(chan int)
	go func() { // a client that asks all the time
		for n := 0; ; n++ {
			select {
			case <-done:
				asked <- n
				return
			default:
			}
			if a, err := c.Send(t.Context(), "GET", "/history", ""); err != nil || a.Status != 200 {
				t.Errorf("during the rotation: %d, %v", a.Status, err)
			}
		}
	}()
	if out, err := rotate(both...); err != nil || !strings.Contains(out, "has sealed all keys of the database") {
		t.Errorf("%q, %v", out, err)
	}
	close(done)
	if n := <-asked; n == 0 {
		t.Error("nothing was asked during the rotation")
	}
	if _, err := rotate(both...); err != nil {
		t.Errorf("once more: %v", err)
	}
	texts := func(c apitest.Client, want int) {
		t.Helper()
		var list []struct{}
		if c.Do("GET", "/history", "").Must(t, 200).Into(t, &list); len(list) != want {
			t.Errorf("%d texts, want %d", len(list), want)
		}
	}
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200)
	texts(c, 2)
	newUser(t, s.url, "gottfried")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, "", append([]string{"user", "list", "--master-key", key(1)}, at...)...); !errors.Is(err, vault.ErrMasterKey) {
		t.Errorf("the earlier key alone: %v", err)
	}
	s = serveWith(t, append([]string{"--master-key", key(2)}, at...), "up")
	c.URL = s.url
	var refreshed apitest.Tokens
	c.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh).Must(t, 200).Into(t, &refreshed)
	texts(c.As(refreshed.Access), 2)
	// The new key opens everything, the service's own events too.
	eventually(t, "log verify succeeds", func() bool {
		_, _, err := command(t, "", append([]string{"log", "verify", "--master-key", key(2)}, at...)...)
		return err == nil
	})
	texts(signIn(t, s.url, "gottfried"), 0)
}
