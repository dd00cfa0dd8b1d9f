package vault

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ParseMasterKey decodes a master key from base64. White space around the base64 text is
// ignored.
func ParseMasterKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != MasterKeySize {
		return nil, fmt.Errorf("a master key is %d bytes in base64: `openssl rand -base64 %[1]d` makes one", MasterKeySize)
	}
	return key, nil
}

// MasterKeyFile reads a master key in base64 from a file. If the file does not exist,
// MasterKeyFile creates it with a random key and mode 0600. Processes that create the
// same file concurrently return the same key.
func MasterKeyFile(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeMasterKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the master key: %w", err)
	}
	key, err := ParseMasterKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// makeMasterKey writes a new key to the file, unless another process writes a key first.
// It returns the content of the file.
func makeMasterKey(path string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	key := make([]byte, MasterKeySize)
	_, _ = rand.Read(key) // rand.Read never returns an error
	text := []byte(base64.StdEncoding.EncodeToString(key) + "\n")
	draft, err := os.CreateTemp(filepath.Dir(path), ".master.key-*") // CreateTemp creates the file with mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(draft.Name())
	_, err = draft.Write(text)
	if err := errors.Join(err, draft.Sync(), draft.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(draft.Name(), path); errors.Is(err, fs.ErrExist) {
		return os.ReadFile(path)
	} else if err != nil {
		return nil, err
	}
	return text, nil
}

// IsGuessable reports whether a master key is obviously not random. Such a key has few
// different bytes, is a sequence, or is text. For a random key, the result is
// practically always false.
func IsGuessable(key []byte) bool {
	different, steps, text := map[byte]bool{}, map[byte]bool{}, true
	for i, b := range key {
		different[b] = true
		text = text && b >= ' ' && b < 0x7f
		if i > 0 {
			steps[b-key[i-1]] = true
		}
	}
	return len(different) < len(key)/2 || len(steps) < len(key)/2 || text
}
