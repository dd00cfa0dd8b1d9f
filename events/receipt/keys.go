package receipt

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key is the public key of a log. It verifies signatures of the log's checkpoints.
type Key struct {
	note.Verifier // its name is the log's origin
	text          string
}

// Keys are public keys of logs.
type Keys []Key

// ErrKeys occurs when a text has no key of a log.
var ErrKeys = errors.New("not keys of a log: want lines with NAME+HASH+KEY, as /log/key answers them")

// ParseKeys reads keys in the form NAME+HASH+KEY, one in a line. Empty lines are ignored.
// Every error is an [ErrKeys].
func ParseKeys(text string) (keys Keys, err error) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, err := ParseKey(line)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, ErrKeys
	}
	return keys, nil
}

// ParseKey reads a key in the form NAME+HASH+KEY. It accepts only one spelling of each key.
// Every error is an [ErrKeys].
func ParseKey(text string) (Key, error) {
	verifier, err := note.NewVerifier(text)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	fields := strings.SplitN(text, "+", 3)
	raw, err := base64.StdEncoding.DecodeString(fields[2])
	if err != nil || base64.StdEncoding.EncodeToString(raw) != fields[2] || fields[1] != fmt.Sprintf("%08x", verifier.KeyHash()) {
		return Key{}, fmt.Errorf("%w: it is not in its usual spelling", ErrKeys)
	}
	return Key{verifier, text}, nil
}

// String returns the key in the form NAME+HASH+KEY.
func (k Key) String() string { return k.text }

// contains reports whether the keys contain a key. It compares whole keys: two keys may have
// the same hash.
func (k Keys) contains(key Key) bool {
	return slices.ContainsFunc(k, func(other Key) bool { return other.text == key.text })
}
