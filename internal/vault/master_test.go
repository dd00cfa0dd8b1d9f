package vault

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestMasterKeyIsParsedStrictly(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{7}, MasterKeySize)
	text := base64.StdEncoding.EncodeToString(key)
	for _, good := range []string{text, " " + text + "\r\n"} {
		if got, err := ParseMasterKey(good); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%q: %x, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "short", text[1:], text + text, string(key)} {
		if _, err := ParseMasterKey(bad); err == nil || strings.Contains(err.Error(), text[1:]) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestMasterKeyFileIsCreatedOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "master.key")
	if _, err := ReadMasterKey(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	keys := make([][]byte, 20)
	var makers atomic.Int32
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, created, err := CreateMasterKey(path)
			if err != nil {
				t.Error(err)
			}
			if keys[i] = key; created {
				makers.Add(1)
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		if len(key) != MasterKeySize || !bytes.Equal(key, keys[0]) {
			t.Fatalf("keys %x", keys)
		}
	}
	if n := makers.Load(); n != 1 {
		t.Errorf("%d callers created the file", n)
	}
	if key, err := ReadMasterKey(path); err != nil || !bytes.Equal(key, keys[0]) {
		t.Errorf("read %x, %v", key, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("files in the directory: %v, %v; want only the key", entries, err)
	}
}

func TestUnsafeMasterKeyFileIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	text := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, MasterKeySize))
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{text, 0o600, ""},
		{text, 0o400, ""},
		{text, 0o640, "chmod 600"},
		{text, 0o604, "chmod 600"},
		{text, 0o622, "chmod 600"},
		{"short\n", 0o600, path},
	} {
		os.Remove(path)
		if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		_, err := ReadMasterKey(path)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.text)) {
			t.Errorf("%q of mode %o: %v, want %s", c.text, c.mode, err, c.want)
		}
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, not := range []string{t.TempDir(), pipe} {
		if _, err := ReadMasterKey(not); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", not, err)
		}
	}
}

// A first start as root must not keep the directory's owner from the key.
func TestMasterKeyBelongsToTheDirectorysOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can create files for another account")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "master.key")
	if _, _, err := CreateMasterKey(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 65534 || info.Mode().Perm() != 0o600 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestRandomKeysAreNotGuessable(t *testing.T) {
	t.Parallel()
	for range 10_000 {
		key := make([]byte, MasterKeySize)
		_, _ = rand.Read(key)
		if IsGuessable(key) {
			t.Fatalf("%x counts as guessable", key)
		}
	}
}
