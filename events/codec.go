package events

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"colophon/events/receipt"
	"colophon/internal/vault"
)

// schema is the version of the stored form that encode writes. decode reads this version
// and every earlier version.
const schema = 2

var (
	// ErrCorrupt occurs when stored bytes cannot be decoded. Either the bytes are
	// damaged, or a later version of the program wrote them.
	ErrCorrupt = errors.New("the stored event is damaged")

	// errNewer occurs when a well-formed event has a schema or a type that this build
	// does not know. It wraps ErrCorrupt.
	errNewer = fmt.Errorf("%w or newer than this build", ErrCorrupt)

	// errUncommitted occurs when the sealed members of an event are not the members that
	// its payload commits to.
	errUncommitted = errors.New("the sealed members differ from their commitments")

	// errEmptied occurs when the ciphertext of secret members was emptied although the
	// owner has a key and the job was not erased.
	errEmptied = errors.New("the ciphertext is missing")

	// errNotEmptied occurs when an event of an erased job has a ciphertext.
	errNotEmptied = errors.New("the ciphertext of an erased job is still there")

	// errMisplaced occurs when the columns of a row and its payload differ.
	errMisplaced = errors.New("the columns and the payload differ")

	// errUnchained occurs when a payload does not have the hash of the event before it.
	errUnchained = errors.New("the payload does not have the hash of the previous event")
)

// Hash is the SHA-256 of an event's payload. The zero Hash means that there is no event.
type Hash [sha256.Size]byte

// stored is the payload of an event as JSON. The JSON is canonical. It is compact, the
// members of every object are in alphabetical order, and texts are escaped as
// encoding/json escapes them.
//
// The secret members of the fact are not in the payload. The payload has a commitment to
// each of them (package receipt), so its hash covers them. Their values are in the row's
// column sealed, which an erasure empties without a change of the payload.
type stored struct {
	At      string            `json:"at"`
	Commit  map[string]string `json:"commit,omitempty"` // commitments in hexadecimal, by member
	Fact    json.RawMessage   `json:"fact"`
	Owner   uuid.UUID         `json:"owner,omitzero"` // schema 1 only; schema 2 commits to the owner of a job
	Prev    string            `json:"prev,omitempty"` // hash of the previous event's payload in hexadecimal; empty in version 1 and in schema 1
	Schema  int               `json:"schema"`
	Stream  Stream            `json:"stream"`
	Type    string            `json:"type"`
	Version int               `json:"version"`
}

// sealed is the plaintext of the column sealed as JSON.
type sealed struct {
	Members map[string]json.RawMessage `json:"members"`
	Seed    []byte                     `json:"seed"` // the blinding values of the commitments are derived from it
}

// memberOwner is the name of the sealed member that names the owner of a job. The first
// event of the job has this member.
const memberOwner = "owner"

// timeFormat is RFC 3339 in UTC with exactly six decimals, which is the resolution of
// Postgres.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// encode returns the row of the event e. The parameter prev is the hash of the stream's
// previous event, or zero for the first event. Secret members are sealed with the owner's
// key. If the event has no secret members, the key may be nil. Two rows of the same event
// differ, because each has a seed of its own.
func encode(e Event, prev Hash, key *vault.Key) (storedEvent, error) {
	r := storedEvent{Stream: e.Stream, Version: e.Version, Owner: e.Owner, Type: e.Fact.Type(), Schema: schema}
	s := stored{
		At:      e.At.UTC().Format(timeFormat),
		Schema:  schema,
		Stream:  e.Stream,
		Type:    r.Type,
		Version: e.Version,
	}
	if e.Version > 1 {
		if prev == (Hash{}) {
			return r, fmt.Errorf("encode %s: the hash of the event before version %d is missing", r.Type, e.Version)
		}
		s.Prev = hex.EncodeToString(prev[:])
	}
	members, secret, err := split(e)
	if err == nil && len(secret) > 0 {
		s.Commit, r.Sealed, err = r.seal(secret, key)
	}
	if err == nil {
		s.Fact, err = json.Marshal(members) // json.Marshal sorts the members of a map
	}
	if err == nil && !receipt.Canonical(s.Fact) {
		err = errors.New("a text is not valid UTF-8") // decode would refuse the event for ever
	}
	if err == nil {
		r.Payload, err = json.Marshal(s)
	}
	if err != nil {
		return r, fmt.Errorf("encode %s: %w", r.Type, err)
	}
	return r, nil
}

// split returns the members of the event's fact that are stored in the clear, and those
// that are sealed.
func split(e Event) (clear, secret map[string]json.RawMessage, err error) {
	if clear, err = toMembers(e.Fact); err != nil {
		return nil, nil, err
	}
	secret = map[string]json.RawMessage{}
	for _, name := range e.Fact.sealed() {
		if value, ok := clear[name]; ok {
			secret[name] = value
			delete(clear, name)
		}
	}
	if _, ok := e.Fact.(JobAccepted); ok {
		secret[memberOwner], err = json.Marshal(e.Owner)
	}
	return clear, secret, err
}

// seal returns the commitments to the secret members, and the members' ciphertext.
func (r storedEvent) seal(secret map[string]json.RawMessage, key *vault.Key) (commit map[string]string, box []byte, err error) {
	seed := make([]byte, receipt.SeedSize)
	_, _ = rand.Read(seed) // rand.Read never returns an error
	plain, err := json.Marshal(sealed{secret, seed})
	if err != nil {
		return nil, nil, err
	}
	commit = make(map[string]string, len(secret))
	for name, value := range secret {
		commit[name] = r.commitment(name, seed, value)
	}
	return commit, key.Seal(plain, aad(r.Stream, r.Version)), nil
}

// commitment returns the commitment to a member of the event, in hexadecimal.
func (r storedEvent) commitment(name string, seed, value []byte) string {
	c := receipt.Commit(receipt.Member{Stream: string(r.Stream), Version: r.Version, Type: r.Type, Name: name}, receipt.Blinding(seed, name), value)
	return hex.EncodeToString(c[:])
}

// toMembers returns the members of the JSON object that represents v. It sorts the
// members of nested objects, also of those in arrays, so their JSON is canonical.
func toMembers(v any) (map[string]json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	for name, value := range members {
		if members[name], err = sorted(value); err != nil {
			return nil, err
		}
	}
	return members, nil
}

// sorted returns a JSON value in which the members of all objects are sorted.
func sorted(value json.RawMessage) (json.RawMessage, error) {
	switch {
	case value[0] == '{':
		members, err := toMembers(value)
		if err != nil {
			return nil, err
		}
		return json.Marshal(members)
	case value[0] == '[' && bytes.ContainsRune(value, '{'):
		var list []json.RawMessage
		err := json.Unmarshal(value, &list)
		for i := 0; i < len(list) && err == nil; i++ {
			list[i], err = sorted(list[i])
		}
		if err != nil {
			return nil, err
		}
		return json.Marshal(list)
	}
	return value, nil
}

// aad returns the associated data that binds a ciphertext to its event.
func aad(s Stream, version int) string { return fmt.Sprintf("event %s@%d", s, version) }

// readEnvelope reads the parts of a payload that need no key.
func readEnvelope(payload []byte) (stored, time.Time, error) {
	var s stored
	if err := json.Unmarshal(payload, &s); err != nil {
		return s, time.Time{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	at, err := time.Parse(timeFormat, s.At)
	if err != nil {
		return s, at, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if s.Schema < 1 {
		return s, at, fmt.Errorf("%w: %s@%d has schema %d", ErrCorrupt, s.Stream, s.Version, s.Schema)
	}
	if s.Schema > schema {
		return s, at, fmt.Errorf("%w: %s@%d has schema %d, this build knows up to %d", errNewer, s.Stream, s.Version, s.Schema, schema)
	}
	if s.Version < 1 || s.Schema > 1 && (at.Format(timeFormat) != s.At || !s.canonical(payload)) {
		return s, at, fmt.Errorf("%w: %s@%d is not in its canonical form", ErrCorrupt, s.Stream, s.Version)
	}
	return s, at, nil
}

// canonical reports whether the payload is the only way in which s is written. Another
// payload could say one thing to this program and another thing to a verifier, for example
// if it has two members of the same name.
func (s stored) canonical(payload []byte) bool {
	again, err := json.Marshal(s)
	return err == nil && bytes.Equal(again, payload) && receipt.Canonical(s.Fact)
}

// openMembers decrypts the column sealed and compares its members with their commitments.
// A ciphertext can be made to open under two keys, but only to one set of committed
// members.
func (r storedEvent) openMembers(s stored, key *vault.Key) (sealed, error) {
	var box sealed
	plain, err := key.Open(r.Sealed, aad(r.Stream, r.Version))
	if err != nil {
		return box, err
	}
	if err := json.Unmarshal(plain, &box); err != nil {
		return box, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(box.Members) != len(s.Commit) {
		return box, errUncommitted
	}
	for name, value := range box.Members {
		if r.commitment(name, box.Seed, value) != s.Commit[name] {
			return box, errUncommitted
		}
	}
	return box, nil
}

// openFact returns the fact with its secret members. If key is nil, it returns the fact
// without them and reports it as erased.
func (r storedEvent) openFact(s stored, key *vault.Key) (fact json.RawMessage, erased bool, err error) {
	switch {
	case r.Erased && r.Sealed != nil:
		return nil, false, errNotEmptied
	case len(s.Commit) == 0 && r.Sealed != nil:
		return nil, false, errUncommitted
	case len(s.Commit) == 0:
		return s.Fact, false, nil
	case key == nil:
		return s.Fact, true, nil
	case r.Sealed == nil:
		return nil, false, errEmptied
	}
	box, err := r.openMembers(s, key)
	if err != nil {
		return nil, false, err
	}
	secret := box.Members
	if owner, ok := secret[memberOwner]; ok {
		var id uuid.UUID
		if err := json.Unmarshal(owner, &id); err != nil {
			return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if id != r.Owner {
			return nil, false, errMisplaced
		}
		delete(secret, memberOwner)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(s.Fact, &members); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if members == nil {
		members = map[string]json.RawMessage{}
	}
	for name, value := range secret {
		if _, ok := members[name]; ok {
			return nil, false, fmt.Errorf("%w: the member %s is both sealed and in the clear", ErrCorrupt, name)
		}
		members[name] = value
	}
	fact, err = json.Marshal(members)
	return fact, false, err
}

func decodeFact(kind string, raw json.RawMessage) (Fact, error) {
	switch kind {
	case JobAccepted{}.Type():
		return as[JobAccepted](raw)
	case JobReassigned{}.Type():
		return as[JobReassigned](raw)
	case JobStarted{}.Type():
		return as[JobStarted](raw)
	case JobAdvanced{}.Type():
		return as[JobAdvanced](raw)
	case JobCompleted{}.Type():
		return as[JobCompleted](raw)
	case JobFailed{}.Type():
		return as[JobFailed](raw)
	case JobCancelled{}.Type():
		return as[JobCancelled](raw)
	case JobErased{}.Type():
		return as[JobErased](raw)
	case AccountRegistered{}.Type():
		return as[AccountRegistered](raw)
	case AccountSignedIn{}.Type():
		return as[AccountSignedIn](raw)
	case AccountSignInFailed{}.Type():
		return as[AccountSignInFailed](raw)
	case AccountSignedOut{}.Type():
		return as[AccountSignedOut](raw)
	case AccountTokenReuseDetected{}.Type():
		return as[AccountTokenReuseDetected](raw)
	case AccountKeyRotated{}.Type():
		return as[AccountKeyRotated](raw)
	case AccountSignedOutEverywhere{}.Type():
		return as[AccountSignedOutEverywhere](raw)
	case AccountPasswordChanged{}.Type():
		return as[AccountPasswordChanged](raw)
	case AccountRoleChanged{}.Type():
		return as[AccountRoleChanged](raw)
	case AccountDisabled{}.Type():
		return as[AccountDisabled](raw)
	case AccountEnabled{}.Type():
		return as[AccountEnabled](raw)
	case AccountErased{}.Type():
		return as[AccountErased](raw)
	case KeyCreated{}.Type():
		return as[KeyCreated](raw)
	case KeyRevoked{}.Type():
		return as[KeyRevoked](raw)
	case PolicyRefused{}.Type():
		return as[PolicyRefused](raw)
	case WebhookCreated{}.Type():
		return as[WebhookCreated](raw)
	case WebhookUpdated{}.Type():
		return as[WebhookUpdated](raw)
	case WebhookSecretRotated{}.Type():
		return as[WebhookSecretRotated](raw)
	case WebhookDisabled{}.Type():
		return as[WebhookDisabled](raw)
	case WebhookDeleted{}.Type():
		return as[WebhookDeleted](raw)
	}
	return nil, fmt.Errorf("%w: unknown type %q", errNewer, kind)
}

func as[F Fact](raw json.RawMessage) (Fact, error) {
	var f F
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return f, nil
}
