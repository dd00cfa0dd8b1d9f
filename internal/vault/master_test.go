package vault

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	keys := make([][]byte, 20)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := MasterKeyFile(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for _, key := range keys {
		if len(key) != MasterKeySize || !bytes.Equal(key, keys[0]) {
			t.Fatalf("keys %x", keys)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("files in the directory: %v, %v; want only the key", entries, err)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := MasterKeyFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file without a key: %v", err)
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
