// Package receipt defines what the events of a job prove to others: commitments, checkpoints
// and receipts. [Verify] checks a receipt offline. docs/receipts.md specifies the formats.
//
// A stored event does not contain its secret members. It contains one commitment to each of
// them. [Commit] computes the commitment from the member's value and a blinding value. An
// owner shows a member by its value and its blinding value, and everybody can compare them
// with the stored event. Without the blinding value, a reader cannot even test a guess of
// the value.
//
// The package knows no database, and imports only the standard library and golang.org/x/mod.
// All functions are pure and safe for concurrent use. They read untrusted bytes: no input makes
// them panic, or run for longer than its length explains.
package receipt

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
)

// commitTag begins every hashed commitment. It keeps the hashes apart from all other
// hashes of the service.
const commitTag = "colophon/commit/1"

// SeedSize is the length in bytes of the seed from which the blinding values of an event
// are derived.
const SeedSize = 32

// Member identifies a secret member of a stored event.
type Member struct {
	Stream  string
	Version int    // position of the event in the stream, from 1
	Type    string // type of the event, such as "job.accepted"
	Name    string // such as "prompt"
}

// Commit returns the commitment to a member's value. The value is canonical JSON, and
// blinding is the result of [Blinding].
//
// The commitment is the SHA-256 of the tag "colophon/commit/1", followed by the stream,
// the version in decimal, the type, the member's name, the blinding value and the value.
// Each of these six parts is preceded by its length in bytes, as a big-endian unsigned
// integer of 64 bits.
func Commit(m Member, blinding, value []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(commitTag))
	for _, part := range [][]byte{[]byte(m.Stream), strconv.AppendInt(nil, int64(m.Version), 10), []byte(m.Type), []byte(m.Name), blinding, value} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Blinding returns the blinding value of a member: the HMAC-SHA256 of the member's name
// under the event's seed. A blinding value says nothing about the blinding values of the
// event's other members.
func Blinding(seed []byte, member string) []byte {
	h := hmac.New(sha256.New, seed)
	h.Write([]byte(member))
	return h.Sum(nil)
}
