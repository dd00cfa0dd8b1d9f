package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"testing"
)

// TestSealedMembersMustBeThoseOfTheCommitments changes the plaintext of an event. A ciphertext
// of AES-GCM can be made to open under two keys, and two readers would then read two texts. The
// commitments refuse every text but one. A test in cmd/colophon makes such a ciphertext.
func TestSealedMembersMustBeThoseOfTheCommitments(t *testing.T) {
	_, key := readGolden(t, schema)
	fact := JobAdvanced{Tokens: []int{1, 2}, Text: "one text"}
	r, err := encode(sample(1, fact), goldenPrev(2), key)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := key.Open(r.Sealed, aad(r.Stream, r.Version))
	if err != nil {
		t.Fatal(err)
	}
	var box sealed
	if err := json.Unmarshal(plain, &box); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*sealed){
		"another text":   func(s *sealed) { s.Members["text"] = json.RawMessage(`"other text"`) },
		"no text":        func(s *sealed) { delete(s.Members, "text") },
		"another member": func(s *sealed) { s.Members["prompt"] = json.RawMessage(`"p"`) },
		"swapped name": func(s *sealed) {
			s.Members["test"] = s.Members["text"]
			delete(s.Members, "text")
		},
		"another seed": func(s *sealed) { s.Seed[0] ^= 1 },
		"no seed":      func(s *sealed) { s.Seed = nil },
	} {
		other := sealed{Members: maps.Clone(box.Members), Seed: bytes.Clone(box.Seed)}
		change(&other)
		plain, err := json.Marshal(other)
		if err != nil {
			t.Fatal(err)
		}
		changed := r
		changed.Sealed = key.Seal(plain, aad(r.Stream, r.Version))
		_, err = changed.decode(nil, key)
		if d, ok := errors.AsType[*Damage](err); !ok || d.Reason != uncommitted {
			t.Errorf("%s: %v, want damage: %s", name, err, uncommitted)
		}
	}
}

// TestEventsNameTheHashOfTheEventBefore decodes an event after another event than the one
// that it was written after.
func TestEventsNameTheHashOfTheEventBefore(t *testing.T) {
	_, key := readGolden(t, schema)
	write := func(version int, prev Hash) *storedEvent {
		e := sample(version-1, JobFailed{Attempt: version, Reason: "r"})
		r, err := encode(e, prev, key)
		if err != nil {
			t.Fatal(err)
		}
		return &r
	}
	altered := func(r *storedEvent, from, to string) *storedEvent {
		other := *r
		other.Payload = bytes.Replace(r.Payload, []byte(from), []byte(to), 1)
		if bytes.Equal(other.Payload, r.Payload) {
			t.Fatalf("the payload is unchanged: %s", r.Payload)
		}
		return &other
	}
	first := write(1, Hash{})
	second := write(2, first.hash())
	hash := fmt.Sprintf(`,"prev":"%x"`, first.hash())
	old := altered(first, `"schema":2`, `"owner":"`+goldenOwner.String()+`","schema":1`)
	old.Schema = 1
	third := altered(altered(second, hash, `,"owner":"`+goldenOwner.String()+`"`), `"schema":2`, `"schema":1`)
	third.Schema = 1
	for name, k := range map[string]struct {
		event, previous *storedEvent
		ok              bool
	}{
		"first":                      {first, nil, true},
		"second":                     {second, first, true},
		"second, first not read":     {second, nil, true},
		"another first":              {second, altered(first, `"reason":"r"`, `"reason":"s"`), false},
		"first of schema 1":          {old, nil, true},
		"second after schema 1":      {write(2, old.hash()), old, true},
		"another first of schema 1":  {second, old, false},
		"schema 1 after schema 1":    {third, old, true},
		"schema 1 after schema 2":    {third, first, false},
		"no hash":                    {altered(second, hash, ""), first, false},
		"no hash, first not read":    {altered(second, hash, ""), nil, false},
		"half a hash":                {altered(second, hash, hash[:len(hash)-33]+`"`), nil, false},
		"first with a hash":          {altered(first, `,"schema"`, hash+`,"schema"`), nil, false},
		"schema 1 with a hash":       {altered(third, `,"schema"`, hash+`,"schema"`), old, false},
		"first with an event before": {first, second, false},
	} {
		_, err := k.event.decode(k.previous, key)
		if d, ok := errors.AsType[*Damage](err); (err == nil) != k.ok || err != nil && (!ok || d.Reason != unchained) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
