package monitor

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"colophon/events/receipt"
)

// ErrSignature occurs when a signature in the name of a trusted key is not valid.
var ErrSignature = errors.New("a signature of the log is not valid")

// OpenCheckpoint reads a signed checkpoint and verifies the signatures of the trusted keys. At
// least one of them must have signed it, and all of their signatures must be valid. Without
// trusted keys, OpenCheckpoint verifies no signature.
func OpenCheckpoint(signed string, trusted receipt.Keys) (c receipt.SignedCheckpoint, err error) {
	if len(trusted) == 0 {
		text, _, err := receipt.CutSignatures(signed)
		if err == nil {
			c.Checkpoint, err = receipt.ParseCheckpoint(text)
		}
		return c, err
	}
	// A key may be in a file and in a policy. Two keys of one id would be ambiguous.
	var keys receipt.Keys
	for _, key := range trusted {
		if !slices.ContainsFunc(keys, func(other receipt.Key) bool { return other.String() == key.String() }) {
			keys = append(keys, key)
		}
	}
	c, err = receipt.OpenCheckpoint(signed, keys...)
	if _, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		err = errors.New("no key that you trust has signed it")
	}
	if _, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
		err = fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return c, err
}
