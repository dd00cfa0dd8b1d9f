package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/vault"
	"colophon/model"
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

// everyFact returns facts of all types. The index of a fact determines the version of
// its event in the golden file, so new facts must be added at the end.
func everyFact() []Fact {
	id := uuid.MustParse("01a205f5-d43a-7c96-8cd4-e7302cce0925")
	return []Fact{
		JobAccepted{
			Prompt: "Hwæt <we> &c. \u2028 😀", Stop: []string{"\n\n", "end"}, PromptTokens: 9, Model: "gpt2", Policy: "seed/1",
			Params: model.Params{MaxTokens: 41, Temperature: 0.7, TopK: 40, TopP: 0.95, Seed: 1<<53 - 1},
		},
		JobStarted{Attempt: 2, Worker: "w1", FromToken: 3, Weights: "sha256:00/f32", Kernel: "portable/1"},
		JobAdvanced{Tokens: []int{0, 50256, 17}, Text: "a\x00\n\"é"},
		JobCompleted{FinishReason: "stop", Usage: Usage{9, 3, 12}, Timings: Timings{1, 2, 3}},
		JobFailed{Attempt: 3, Reason: "the model could not be run", Final: true},
		JobCancelled{By: "owner", Reason: "no longer wanted"},
		AccountRegistered{Username: "Ångström"},
		AccountSignedIn{Session: id},
		AccountSignInFailed{},
		AccountTokenReuseDetected{Session: id},
		AccountSignedOut{Session: id},

		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1},
			Deadline: time.Date(2026, 11, 23, 1, 12, 3, 400_000, time.UTC),
		},
		AccountKeyRotated{Key: "an id", From: time.Date(2026, 11, 23, 1, 12, 3, 400_000, time.UTC), Leaked: true},
		AccountSignedOutEverywhere{},
		AccountPasswordChanged{Session: id},
		AccountRoleChanged{Role: "admin", By: "command"},
		AccountDisabled{By: id.String()},
		AccountEnabled{By: id.String()},
		AccountErased{},
		JobStarted{Attempt: 1, Worker: "w1", Weights: "sha256:00/f32", Kernel: "portable/1", Policy: "seed/8db963d8593545e5"},
		AccountPasswordChanged{By: "command"},
		AccountSignedOutEverywhere{By: "command"},
		AccountErased{By: "command"},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1},
			Weights: "sha256:00",
		},
		JobReassigned{Weights: "sha256:01", By: "command"},
	}
}

// sample returns the event of the golden file that holds the fact f, the i-th fact of
// everyFact.
func sample(i int, f Fact) Event {
	stream := JobStream(goldenOwner)
	if strings.HasPrefix(f.Type(), "account.") {
		stream = AccountStream(goldenOwner)
	}
	return Event{
		Stream: stream, Version: i + 1, Owner: goldenOwner,
		At: time.Date(2026, 11, 23, 1, 2, 3, 400_000, time.UTC), Fact: f,
	}
}

// form returns the fact's name in the golden file. The name contains the fact's type,
// and it names the members that a later release added to the type.
func form(f Fact) string {
	if a, ok := f.(JobAccepted); ok && !a.Deadline.IsZero() {
		return f.Type() + " with a deadline"
	}
	if a, ok := f.(JobAccepted); ok && a.Weights != "" {
		return f.Type() + " for weights"
	}
	if s, ok := f.(JobStarted); ok && s.Policy != "" {
		return f.Type() + " with a policy"
	}
	switch f {
	case AccountPasswordChanged{By: "command"}, AccountSignedOutEverywhere{By: "command"}, AccountErased{By: "command"}:
		return f.Type() + " by command"
	}
	return f.Type()
}

// golden is the content of the golden file. Every release must be able to decode its
// events.
type golden struct {
	WrappedKey []byte            `json:"wrapped_key"`
	Payloads   map[string]string `json:"payloads"` // payloads by the name that form returns
}

const goldenFile = "testdata/stored.schema1.json"

func readGolden(t testing.TB) (golden, *vault.Key) {
	t.Helper()
	var g golden
	raw, err := os.ReadFile(goldenFile)
	if err == nil {
		err = json.Unmarshal(raw, &g)
	}
	v, err2 := vault.New(goldenMaster)
	row := &wrappedKey{g.WrappedKey}
	if errors.Is(err, os.ErrNotExist) && *update {
		g.Payloads = map[string]string{}
		err = v.Create(t.Context(), row, goldenOwner)
		g.WrappedKey = row.wrapped
	}
	key, err3 := v.Key(t.Context(), row, goldenOwner)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	return g, key
}

// TestEveryStoredFormIsReadable decodes events in the form in which each release wrote
// them. Each event must decode to its fact. New entries may be added to the golden file,
// but an entry must never be changed.
func TestEveryStoredFormIsReadable(t *testing.T) {
	g, key := readGolden(t)
	for i, fact := range everyFact() {
		want := sample(i, fact)
		payload, ok := g.Payloads[form(fact)]
		if !ok && *update {
			made, err := encode(want, key)
			if err != nil {
				t.Fatal(err)
			}
			payload = string(made)
			g.Payloads[form(fact)] = payload
		}
		got, err := decode([]byte(payload), key)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v\n%s", form(fact), err, cmp.Diff(want, got))
		}
		// An event without sealed members must always be encoded as the same bytes.
		if again, err := encode(got, key); len(fact.sealed()) == 0 && (err != nil || string(again) != payload) {
			t.Errorf("%s is encoded as\n%s, want\n%s, %v", fact.Type(), again, payload, err)
		}
	}
	if *update {
		raw, err := json.MarshalIndent(g, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenFile, append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStoredBytesAreCanonical(t *testing.T) {
	_, key := readGolden(t)
	for i, fact := range everyFact() {
		payload, err := encode(sample(i, fact), key)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(payload, &v); err != nil {
			t.Fatal(err)
		}
		// json.Marshal sorts map keys and adds no whitespace, so its output is canonical.
		canonical, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		// Facts with sealed members are not compared, because a float64 cannot hold
		// every seed.
		if len(fact.sealed()) == 0 && !bytes.Equal(payload, canonical) {
			t.Errorf("stored bytes are not canonical:\n%s, want\n%s", payload, canonical)
		}
	}
}

func TestDecodeRefusesMovedOrDamagedEvents(t *testing.T) {
	_, key := readGolden(t)
	e := sample(0, everyFact()[0])
	payload, err := encode(e, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() []byte{
		"another version": func() []byte { return bytes.Replace(payload, []byte(`"version":1`), []byte(`"version":2`), 1) },
		"another stream": func() []byte {
			return bytes.Replace(payload, []byte("job/01a2"), []byte("job/01a3"), 1)
		},
		"another ciphertext": func() []byte { return bytes.Replace(payload, []byte(`"sealed":"`), []byte(`"sealed":"AAAA`), 1) },
		"invalid base64":     func() []byte { return bytes.Replace(payload, []byte(`"sealed":"`), []byte(`"sealed":"!`), 1) },
		"a later schema":     func() []byte { return bytes.Replace(payload, []byte(`"schema":1`), []byte(`"schema":2`), 1) },
		"an unknown type":    func() []byte { return bytes.Replace(payload, []byte("job.accepted"), []byte("job.excepted"), 1) },
		"first half only":    func() []byte { return payload[:len(payload)/2] },
		"empty":              func() []byte { return nil },
	} {
		changed := change()
		if bytes.Equal(changed, payload) {
			t.Fatalf("%s: the payload is unchanged: %s", name, payload)
		}
		if got, err := decode(changed, key); !errors.Is(err, ErrCorrupt) && !errors.Is(err, vault.ErrUnreadable) {
			t.Errorf("%s: decoded %+v, %v, want ErrCorrupt or ErrUnreadable", name, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	g, key := readGolden(f)
	for _, payload := range g.Payloads {
		f.Add([]byte(payload))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := decode(payload, key)
		if err != nil {
			return
		}
		again, err := encode(e, key)
		if err != nil {
			t.Fatalf("encode the event decoded from %s: %v", payload, err)
		}
		back, err := decode(again, key)
		if err != nil || !cmp.Equal(e, back) {
			t.Fatalf("%v\n%s", err, cmp.Diff(e, back))
		}
	})
}
