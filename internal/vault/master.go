package vault

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"colophon/internal/datadir"
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

// ReadMasterKey reads a master key in base64 from a file. The error is fs.ErrNotExist if
// the file does not exist. ReadMasterKey refuses a file that other accounts may read. A
// file of root may be readable by its group, as secrets of Kubernetes are.
func ReadMasterKey(path string) ([]byte, error) {
	// O_NONBLOCK is set, because opening a pipe would otherwise wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read the master key: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the master key: %w", err)
	}
	forbidden := fs.FileMode(0o077)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid == 0 && os.Geteuid() != 0 {
		forbidden = 0o037 // the owner is root, so this process may read the file as a member of the file's group
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read the master key: %s is not a regular file", path)
	case info.Mode().Perm()&forbidden != 0:
		return nil, fmt.Errorf("read the master key: other accounts may read or change %s (mode %04o): chmod 600 it, and if they may have read it, the key has leaked",
			path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(file, 4<<10))
	if err != nil {
		return nil, fmt.Errorf("read the master key: %w", err)
	}
	key, err := ParseMasterKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// CreateMasterKey writes a new random key in base64 to a file of mode 0600. If the file
// exists, CreateMasterKey leaves it unchanged and returns its key. So processes that
// create the same file concurrently return the same key, and created is true in one of
// them.
//
// In a directory of another account, the file belongs to that account. So a first start
// as root does not keep the directory's owner from later starts.
func CreateMasterKey(path string) (key []byte, created bool, err error) {
	key = make([]byte, MasterKeySize)
	_, _ = rand.Read(key) // never fails
	if err := datadir.Create(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n")); errors.Is(err, fs.ErrExist) {
		key, err := ReadMasterKey(path)
		return key, false, err
	} else if err != nil {
		return nil, false, fmt.Errorf("create the master key: %w", err)
	}
	return key, true, nil
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
