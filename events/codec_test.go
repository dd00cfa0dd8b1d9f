package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/events/receipt"
	"colophon/internal/vault"
)

var update = flag.Bool("update", false, "add missing facts to the golden file")

// The golden file was written with this owner and this master key.
var (
	goldenOwner  = uuid.MustParse("01a205f5-d3cb-7edf-b4b0-4999c136b1eb")
	goldenMaster = bytes.Repeat([]byte{0x42}, vault.MasterKeySize)
)

// wrappedKey is a fake of the table owner_keys that holds only the wrapped key of the
// golden file.
type wrappedKey struct{ wrapped []byte }

func (w *wrappedKey) Exec(_ context.Context, _ string, args ...any) (pgconn.CommandTag, error) {
	w.wrapped = args[1].([]byte) // the second argument of the insert statement is the wrapped key
	return pgconn.CommandTag{}, nil
}

func (w *wrappedKey) QueryRow(context.Context, string, ...any) pgx.Row { return w }

func (w *wrappedKey) Scan(dest ...any) error {
	*dest[0].(*[]byte) = w.wrapped
	return nil
}

// golden is the content of the golden file of a schema. Every release must be able to
// decode its events.
type golden struct {
	WrappedKey []byte            `json:"wrapped_key"`
	Payloads   map[string]string `json:"payloads"`         // payloads by the name that form returns
	Sealed     map[string][]byte `json:"sealed,omitempty"` // ciphertext beside the payload, by the same name
	schema     int
}

const goldenFile = "testdata/stored.schema%d.json"

// readGolden reads the golden file of a schema, and the key of its owner. With the flag
// update, a missing file of the schema that encode writes is empty and has a new key.
func readGolden(t testing.TB, of int) (golden, *vault.Key) {
	t.Helper()
	g := golden{schema: of}
	raw, err := os.ReadFile(fmt.Sprintf(goldenFile, of))
	if err == nil {
		err = json.Unmarshal(raw, &g)
	}
	v, err2 := vault.New(goldenMaster)
	row := &wrappedKey{g.WrappedKey}
	if errors.Is(err, os.ErrNotExist) && *update && of == schema {
		g.Payloads, g.Sealed = map[string]string{}, map[string][]byte{}
		err = v.Create(t.Context(), row, goldenOwner)
		g.WrappedKey = row.wrapped
	}
	key, err3 := v.Key(t.Context(), row, goldenOwner)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	return g, key
}

// stored returns the row of the golden file that holds the event.
func (g golden) stored(e Event) storedEvent {
	name := form(e.Fact)
	return storedEvent{Stream: e.Stream, Version: e.Version, Owner: e.Owner, Type: e.Fact.Type(), Schema: g.schema, Payload: []byte(g.Payloads[name]), Sealed: g.Sealed[name]}
}

// TestEveryStoredFormIsReadable decodes events in the form in which each release wrote
// them. Each event must decode to its fact. New entries may be added to the golden file of
// the newest schema, but an entry must never be changed.
func TestEveryStoredFormIsReadable(t *testing.T) {
	for of := 1; of <= schema; of++ {
		g, key := readGolden(t, of)
		for i, fact := range everyFact() {
			if of < firstSchema(fact) {
				continue
			}
			want := sample(i, fact)
			if _, ok := g.Payloads[form(fact)]; !ok && *update && of == schema {
				made, err := encode(want, goldenPrev(want.Version), key)
				if err != nil {
					t.Fatal(err)
				}
				g.Payloads[form(fact)] = string(made.Payload)
				if made.Sealed != nil {
					g.Sealed[form(fact)] = made.Sealed
				}
			}
			r := g.stored(want)
			want.Hash = r.hash()
			got, err := r.decode(nil, key)
			if err != nil || !cmp.Equal(got, want) {
				t.Errorf("schema %d: %s: %v\n%s", of, form(fact), err, cmp.Diff(want, got))
			}
			// An event without sealed members must always be encoded as the same bytes.
			if again, err := encode(got, goldenPrev(got.Version), key); of == schema && len(fact.sealed()) == 0 && (err != nil || !cmp.Equal(again, r)) {
				t.Errorf("%s is encoded as\n%s, want\n%s, %v", fact.Type(), again.Payload, r.Payload, err)
			}
		}
		if !*update || of < schema {
			continue
		}
		raw, err := json.MarshalIndent(g, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fmt.Sprintf(goldenFile, of), append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStoredBytesAreCanonical encodes every fact. The payload must be canonical and must
// not contain a secret member. The secret members must be canonical too, because verifiers of
// receipts refute values in any other form.
func TestStoredBytesAreCanonical(t *testing.T) {
	_, key := readGolden(t, schema)
	for i, fact := range everyFact() {
		r, err := encode(sample(i, fact), goldenPrev(i+1), key)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := readEnvelope(r.Payload); err != nil || !receipt.Canonical(r.Payload) {
			t.Errorf("stored bytes are not canonical:\n%s", r.Payload)
		}
		var s stored
		var members map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(r.Payload, &s), json.Unmarshal(s.Fact, &members)); err != nil {
			t.Fatal(err)
		}
		if r.Sealed != nil {
			box, err := r.openMembers(s, key)
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range box.Members {
				if !receipt.Canonical(value) {
					t.Errorf("the member %s of %s is not canonical: %s", name, form(fact), value)
				}
			}
		}
		for _, name := range fact.sealed() {
			if _, ok := members[name]; ok {
				t.Errorf("%s has the member %s in the clear:\n%s", fact.Type(), name, r.Payload)
			}
		}
		if len(s.Commit) > 0 != (r.Sealed != nil) {
			t.Errorf("%s has %d commitments and %d bytes of ciphertext", fact.Type(), len(s.Commit), len(r.Sealed))
		}
	}
}

// TestOnlyCanonicalBytesAreRead changes the spelling of a payload, but not its meaning. A
// row with such a payload must be refused.
func TestOnlyCanonicalBytesAreRead(t *testing.T) {
	e := sample(0, JobReassigned{Weights: "sha256:01", By: "<b>"})
	r, err := encode(e, Hash{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.decode(nil, nil); err != nil {
		t.Fatal(err)
	}
	payload := string(r.Payload)
	for name, change := range map[string]string{
		"space":            strings.Replace(payload, `":`, `": `, 1),
		"newline":          payload + "\n",
		"second value":     payload + "{}",
		"short hour":       strings.Replace(payload, "T01:", "T1:", 1),
		"decimal comma":    strings.Replace(payload, "03.0004", "03,0004", 1),
		"repeated member":  strings.Replace(payload, `{"at"`, `{"at":"2026","at"`, 1),
		"unescaped":        strings.Replace(payload, `\u003c`, "<", 1),
		"escaped":          strings.Replace(payload, `"sha256`, `"\u0073ha256`, 1),
		"case in the fact": strings.Replace(payload, `"weights"`, `"wEights"`, 1),
		"long s":           strings.Replace(payload, `"weights"`, "\"weight\u017f\"", 1),
		"order":            strings.Replace(payload, `"by":"\u003cb\u003e","weights":"sha256:01"`, `"weights":"sha256:01","by":"\u003cb\u003e"`, 1),
		"case of a member": strings.Replace(payload, `"at"`, `"At"`, 1),
		"invalid UTF-8":    strings.Replace(payload, "sha256:01", "sha256:\xff", 1),
	} {
		if change == payload {
			t.Fatalf("%s: the payload is unchanged: %s", name, payload)
		}
		changed := r
		changed.Payload = []byte(change)
		if e, err := changed.decode(nil, nil); err == nil {
			t.Errorf("%s: decoded %+v", name, e)
		}
	}
}

// TestDecodeRefusesMovedOrDamagedEvents changes the row of an event in each of several
// ways. No changed row may be decoded.
func TestDecodeRefusesMovedOrDamagedEvents(t *testing.T) {
	for of := 1; of <= schema; of++ {
		g, key := readGolden(t, of)
		e := sample(0, everyFact()[0])
		other := sample(11, everyFact()[11]) // another event of the same type
		r := g.stored(e)
		bytesOf := func(from, to string) func(*storedEvent) {
			return func(r *storedEvent) { r.Payload = bytes.Replace(r.Payload, []byte(from), []byte(to), 1) }
		}
		changes := map[string]func(*storedEvent){
			"another version":           bytesOf(`"version":1`, `"version":2`),
			"another version in a row":  func(r *storedEvent) { r.Version = 2 },
			"another stream":            bytesOf("job/01a2", "job/01a3"),
			"another stream in a row":   func(r *storedEvent) { r.Stream = JobStream(uuid.Max) },
			"another owner":             func(r *storedEvent) { r.Owner = uuid.Max },
			"a later schema":            bytesOf(fmt.Sprintf(`"schema":%d`, of), `"schema":3`),
			"an earlier schema":         bytesOf(fmt.Sprintf(`"schema":%d`, of), fmt.Sprintf(`"schema":%d`, of-1)),
			"an unknown type":           bytesOf("job.accepted", "job.excepted"),
			"first half only":           func(r *storedEvent) { r.Payload = r.Payload[:len(r.Payload)/2] },
			"empty":                     func(r *storedEvent) { r.Payload = nil },
			"another payload":           func(r *storedEvent) { r.Payload = g.stored(other).Payload },
			"a hash of no event before": bytesOf(`,"schema"`, `,"prev":"00","schema"`),
		}
		if of == 1 {
			changes["another ciphertext"] = bytesOf(`"sealed":"`, `"sealed":"AAAA`)
			changes["invalid base64"] = bytesOf(`"sealed":"`, `"sealed":"!`)
			changes["a ciphertext beside the payload"] = func(r *storedEvent) { r.Sealed = []byte{0} }
		} else {
			changes["an altered ciphertext"] = func(r *storedEvent) { r.Sealed[20] ^= 1 }
			changes["a short ciphertext"] = func(r *storedEvent) { r.Sealed = r.Sealed[:3] }
			changes["an empty ciphertext"] = func(r *storedEvent) { r.Sealed = []byte{} }
			changes["another ciphertext"] = func(r *storedEvent) { r.Sealed = g.stored(other).Sealed }
			changes["another commitment"] = bytesOf(`"prompt":"`, `"prompt":"0`)
			changes["no commitment to the owner"] = bytesOf(`"owner":"`, `"owned":"`)
			changes["an owner in the clear"] = bytesOf(`,"schema"`, `,"owner":"`+goldenOwner.String()+`","schema"`)
			changes["a member in the clear"] = bytesOf(`"prompt_tokens"`, `"prompt":"p","prompt_tokens"`)
		}
		for name, change := range changes {
			changed := r
			changed.Payload, changed.Sealed = bytes.Clone(r.Payload), bytes.Clone(r.Sealed)
			change(&changed)
			if cmp.Equal(r, changed) {
				t.Fatalf("schema %d: %s: the row is unchanged", of, name)
			}
			if got, err := changed.decode(nil, key); err == nil {
				t.Errorf("schema %d: %s: decoded %+v", of, name, got)
			}
		}
	}
}

// FuzzDecode decodes altered rows. A row that can be decoded must be encoded again to a row
// with the same event.
func FuzzDecode(f *testing.F) {
	_, key := readGolden(f, schema)
	for of := 1; of <= schema; of++ {
		g, _ := readGolden(f, of)
		for name, payload := range g.Payloads {
			f.Add([]byte(payload), g.Sealed[name])
		}
	}
	f.Fuzz(func(t *testing.T, payload, sealed []byte) {
		var s stored
		if json.Unmarshal(payload, &s) != nil {
			return
		}
		if len(sealed) == 0 {
			sealed = nil // as in the database, where the column of an event without secrets is null
		}
		r := storedEvent{Stream: s.Stream, Version: s.Version, Owner: s.Owner, Type: s.Type, Schema: s.Schema, Payload: payload, Sealed: sealed}
		if s.Schema > 1 {
			r.Owner = s.Stream.ID()
		}
		e, err := r.decode(nil, key)
		if err != nil || strings.HasPrefix(string(e.Stream), "account/") && e.Owner != e.Stream.ID() { // only schema 1 has such an owner
			return
		}
		again, err := encode(e, goldenPrev(e.Version), key)
		if err != nil {
			t.Fatalf("encode the event decoded from %s: %v", payload, err)
		}
		back, err := again.decode(nil, key)
		e.Hash, e.Erased = again.hash(), false
		if err != nil || !cmp.Equal(e, back) {
			t.Fatalf("%v\n%s", err, cmp.Diff(e, back))
		}
	})
}
