package events

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"colophon/internal/vault"
)

// schema is the version of the stored form that encode writes. decode reads this version
// and every earlier version.
const schema = 1

var (
	// ErrCorrupt occurs when stored bytes cannot be decoded. Either the bytes are
	// damaged, or a later version of the program wrote them.
	ErrCorrupt = errors.New("the stored event is damaged")

	// errNewer occurs when a well-formed event has a schema or a type that this build
	// does not know. It wraps ErrCorrupt.
	errNewer = fmt.Errorf("%w or newer than this build", ErrCorrupt)
)

// stored is the payload of an event as JSON. The JSON is canonical. It is compact, and
// the members of every object are in alphabetical order.
type stored struct {
	At      string          `json:"at"`
	Fact    json.RawMessage `json:"fact"`
	Owner   uuid.UUID       `json:"owner"`
	Schema  int             `json:"schema"`
	Stream  Stream          `json:"stream"`
	Type    string          `json:"type"`
	Version int             `json:"version"`
}

// timeFormat is RFC 3339 in UTC with exactly six decimals, which is the resolution of
// Postgres.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// encode returns the payload of the event e. It seals secret members with the owner's
// key.
func encode(e Event, key *vault.Key) ([]byte, error) {
	fact, err := encodeFact(e, key)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", e.Fact.Type(), err)
	}
	return json.Marshal(stored{
		At:      e.At.UTC().Format(timeFormat),
		Fact:    fact,
		Owner:   e.Owner,
		Schema:  schema,
		Stream:  e.Stream,
		Type:    e.Fact.Type(),
		Version: e.Version,
	})
}

// encodeFact returns the fact as JSON. It encrypts the fact's secret members together
// into one member named "sealed".
func encodeFact(e Event, key *vault.Key) (json.RawMessage, error) {
	members, err := toMembers(e.Fact)
	if err != nil {
		return nil, err
	}
	secret := map[string]json.RawMessage{}
	for _, name := range e.Fact.sealed() {
		if value, ok := members[name]; ok {
			secret[name] = value
			delete(members, name)
		}
	}
	if len(secret) > 0 {
		plain, err := json.Marshal(secret)
		if err != nil {
			return nil, err
		}
		sealed, err := json.Marshal(key.Seal(plain, aad(e.Stream, e.Version)))
		if err != nil {
			return nil, err
		}
		members["sealed"] = sealed
	}
	return json.Marshal(members) // json.Marshal sorts the members of a map
}

// toMembers returns the members of the JSON object that represents v. It sorts the
// members of nested objects, so their JSON is canonical.
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
		if value[0] != '{' {
			continue
		}
		nested, err := toMembers(value)
		if err != nil {
			return nil, err
		}
		if members[name], err = json.Marshal(nested); err != nil {
			return nil, err
		}
	}
	return members, nil
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
	return s, at, nil
}

// decode reverses encode. If key is nil, the sealed members of the fact stay zero, and
// an event that has such members is marked as erased.
func decode(payload []byte, key *vault.Key) (Event, error) {
	s, at, err := readEnvelope(payload)
	if err != nil {
		return Event{}, err
	}
	e := Event{Stream: s.Stream, Version: s.Version, Owner: s.Owner, At: at}
	raw, erased, err := openFact(s, key)
	if err != nil {
		return e, fmt.Errorf("open %s: %w", aad(s.Stream, s.Version), err)
	}
	e.Erased = erased
	if e.Fact, err = decodeFact(s.Type, raw); err != nil {
		return e, fmt.Errorf("decode %s: %w", aad(s.Stream, s.Version), err)
	}
	return e, nil
}

// openFact decrypts the member "sealed" and adds the decrypted members to the fact. If
// key is nil, openFact cannot decrypt the member. It then returns the fact unchanged
// and reports it as erased.
func openFact(s stored, key *vault.Key) (fact json.RawMessage, erased bool, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(s.Fact, &members); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	box, ok := members["sealed"]
	if !ok {
		return s.Fact, false, nil
	}
	if key == nil {
		return s.Fact, true, nil
	}
	var encoded string
	if err := json.Unmarshal(box, &encoded); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	sealed, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	plain, err := key.Open(sealed, aad(s.Stream, s.Version))
	if err != nil {
		return nil, false, err
	}
	delete(members, "sealed")
	if err := json.Unmarshal(plain, &members); err != nil { // adds the decrypted members to the map
		return nil, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
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
