package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// TestEveryByteOfAReceiptCounts changes each character of a receipt in several ways. No
// change may leave the receipt proven, except one of white space.
func TestEveryByteOfAReceiptCounts(t *testing.T) {
	t.Parallel()
	m := newReceipt(t, life(), "prompt", "text", "params", "owner", "tokens")
	text := m.json(t)
	for i := range text {
		for _, to := range []byte{text[i] ^ 1, text[i] ^ 0x20, 'A'} {
			if to == text[i] {
				continue
			}
			changed := bytes.Clone(text)
			changed[i] = to
			if _, err := Verify(changed, m.keys, nil); err == nil {
				t.Fatalf("byte %d of %d: %q instead of %q is proven: …%s…", i, len(text), to, text[i], text[max(0, i-40):min(len(text), i+40)])
			} else if verdict(err) == "another error" {
				t.Fatal(err)
			}
		}
		if _, err := Verify(slices.Concat(text[:i], text[i+1:]), m.keys, nil); err == nil {
			t.Fatalf("without byte %d the receipt is proven", i)
		}
	}
}

// TestReceiptsAreRefused changes the parts of receipts as a forger would.
func TestReceiptsAreRefused(t *testing.T) {
	t.Parallel()
	stranger, strangerKey := fixedKey(t, testOrigin, 2)
	_, otherKey := fixedKey(t, "other.example", 3)
	for name, c := range map[string]struct {
		change func(*made)
		want   string
	}{
		"nothing changed":       {func(*made) {}, "proven"},
		"nothing is shown":      {func(m *made) { m.show() }, "proven"},
		"only the text":         {func(m *made) { m.show("text") }, "proven"},
		"everything":            {func(m *made) { m.show("prompt", "text", "params", "owner", "tokens") }, "proven"},
		"a part of the text":    {func(m *made) { delete(m.Openings, 5) }, "cannot tell"},
		"an event is left out":  {func(m *made) { m.Events = slices.Delete(m.Events, 2, 3) }, "refuted"},
		"the first is left out": {func(m *made) { m.Events = m.Events[1:] }, "refuted"},
		"the last is left out":  {func(m *made) { m.Events = m.Events[:5] }, "refuted"},
		"it ends early": {func(m *made) {
			m.Events, m.Proofs = m.Events[:5], map[int]Inclusion{}
			m.prove(5, 9)
		}, "cannot tell"},
		"two events swapped":   {func(m *made) { m.Events[2], m.Events[4] = m.Events[4], m.Events[2] }, "refuted"},
		"an event is repeated": {func(m *made) { m.Events = slices.Insert(m.Events, 3, m.Events[2]) }, "refuted"},
		"no events":            {func(m *made) { m.Events = nil }, "refuted"},
		"another job":          {func(m *made) { m.Job = "01a22858-9ffc-794b-bed8-7caa28eaed72" }, "refuted"},
		"an event is spelled differently": {func(m *made) {
			m.Events[5] = bytes.Replace(m.Events[5], []byte(`{"at"`), []byte(`{ "at"`), 1)
		}, "refuted"},
		"openings of two members swapped": {func(m *made) {
			m.Openings[3]["tokens"], m.Openings[3]["text"] = m.openings[3]["text"], m.openings[3]["tokens"]
		}, "refuted"},
		"openings of two events swapped":           {func(m *made) { m.Openings[3], m.Openings[5] = m.Openings[5], m.Openings[3] }, "refuted"},
		"an opening of a member that is not there": {func(m *made) { m.Openings[6] = map[string]Opening{"text": m.openings[5]["text"]} }, "refuted"},
		"an opening of an event that is not there": {func(m *made) { m.Openings[7] = m.openings[5] }, "refuted"},
		"no opening of an event":                   {func(m *made) { m.Openings[2] = map[string]Opening{} }, "refuted"},
		"another value": {func(m *made) {
			o := m.openings[1]["prompt"]
			m.Openings[1]["prompt"] = Opening{o.Blinding, []byte(`"another prompt"`)}
		}, "refuted"},
		"another spelling of the value": {func(m *made) {
			o := m.openings[3]["text"]
			m.Openings[3]["text"] = Opening{o.Blinding, append([]byte(" "), o.Value...)}
		}, "refuted"},
		"no proof":                     {func(m *made) { m.Proofs = map[int]Inclusion{} }, "refuted"},
		"a proof of another event":     {func(m *made) { m.prove(6, 9) }, "refuted"},
		"a proof of an event too many": {func(m *made) { m.Proofs[7] = m.Proofs[6] }, "refuted"},
		"a wrong proof too many":       {func(m *made) { m.Proofs[5] = m.Proofs[6] }, "refuted"},
		"a proof too many":             {func(m *made) { m.prove(5, 9) }, "proven"},
		"the checkpoint of a stranger": {func(m *made) {
			m.Checkpoint, m.LogKeys = m.ledger.sign(stranger), []string{strangerKey}
		}, "cannot tell"},
		"the key of a stranger":   {func(m *made) { m.LogKeys = append(m.LogKeys, strangerKey) }, "refuted"},
		"the key of another log":  {func(m *made) { m.LogKeys = append(m.LogKeys, otherKey) }, "refuted"},
		"no key":                  {func(m *made) { m.LogKeys = []string{} }, "refuted"},
		"a key twice":             {func(m *made) { m.LogKeys = append(m.LogKeys, m.LogKeys[0]) }, "refuted"},
		"a key with a line break": {func(m *made) { m.LogKeys[0] += "\n" }, "refuted"},
		"a signature twice":       {func(m *made) { m.Checkpoint += m.Checkpoint[strings.Index(m.Checkpoint, "— "):] }, "refuted"},
		"a log without end": {func(m *made) {
			m.Checkpoint = sign(m.ledger.t, strings.Replace(m.text(), "\n13\n", "\n9223372036854775807\n", 1), m.signer)
		}, "refuted"},
		"an event of a later schema": {func(m *made) {
			m.Events[5] = bytes.Replace(m.Events[5], []byte(`"schema":2`), []byte(`"schema":3`), 1)
		}, "cannot tell"},
		"an event of a schema in another spelling": {func(m *made) {
			m.Events[5] = bytes.Replace(m.Events[5], []byte(`"schema":2`), []byte(`"Schema":3`), 1)
		}, "refuted"},
		"not a key":                      {func(m *made) { m.LogKeys = []string{"key"} }, "refuted"},
		"a signature of a stranger more": {func(m *made) { m.Checkpoint = m.ledger.sign(m.signer, stranger) }, "cannot tell"},
		"no signature":                   {func(m *made) { m.Checkpoint, _, _ = CutSignatures(m.Checkpoint) }, "refuted"},
		"a smaller log":                  {func(m *made) { m.ledger.size = 12; m.Checkpoint = m.ledger.sign(m.signer) }, "refuted"},
		"an unknown format":              {func(m *made) { m.Format = "colophon-receipt/2" }, "cannot tell"},
	} {
		m := newReceipt(t, life(), "prompt", "text", "tokens")
		c.change(m)
		if _, err := Verify(m.json(t), m.keys, nil); verdict(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// text returns the text of the checkpoint, without its signatures.
func (m *made) text() string {
	text, _, err := CutSignatures(m.Checkpoint)
	if err != nil {
		m.ledger.t.Fatal(err)
	}
	return text
}

// blind is a key with the name and the hash of another one. It verifies nothing. A forger can
// find such a key with 2^32 tries.
type blind struct{ note.Verifier }

func (blind) Verify([]byte, []byte) bool { return false }

// TestKeyWithTheHashOfATrustedOneProvesNothing verifies a receipt with a trusted key whose name
// and hash are those of the key in the receipt.
func TestKeyWithTheHashOfATrustedOneProvesNothing(t *testing.T) {
	t.Parallel()
	m := newReceipt(t, life(), "text")
	trusted := Keys{{blind{m.keys[0].Verifier}, "another key of the same hash"}}
	if _, err := Verify(m.json(t), trusted, nil); verdict(err) != "refuted" {
		t.Errorf("with a key in the receipt: %v", err)
	}
	m.LogKeys = []string{}
	if _, err := Verify(m.json(t), trusted, nil); verdict(err) != "refuted" {
		t.Errorf("without a key in the receipt: %v", err)
	}
}

// TestSpellingsOfAReceipt writes a receipt in other ways.
func TestSpellingsOfAReceipt(t *testing.T) {
	t.Parallel()
	m := newReceipt(t, life(), "text")
	text := string(m.json(t))
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	sorted, err := json.MarshalIndent(v, " ", "\t")
	if err != nil {
		t.Fatal(err)
	}
	for spelling, want := range map[string]string{
		text:                       "proven",
		string(sorted) + "\n":      "proven",
		" \r\n" + text:             "proven",
		text + "{}":                "cannot tell",
		"":                         "cannot tell",
		"null":                     "cannot tell",
		strings.Repeat("[", 1<<20): "cannot tell",
		"[]":                       "cannot tell",
		"{}":                       "cannot tell",
		`{"format":"` + Format + `","format":"` + Format + `"}`:         "cannot tell",
		strings.Replace(text, `{"format"`, `{"more":1,"format"`, 1):     "cannot tell",
		strings.Replace(text, `{"format"`, `{"FORMAT"`, 1):              "cannot tell",
		strings.Replace(text, `{"format"`, `{"job":"x","format"`, 1):    "cannot tell",
		strings.Replace(text, `"index":11`, `"index":11.0`, 1):          "cannot tell",
		strings.Replace(text, `"index":11`, `"index":11,"index":11`, 1): "cannot tell",
		strings.Replace(text, `"proofs":{"6"`, `"proofs":{"06"`, 1):     "cannot tell",
		strings.Replace(text, `"events":["`, `"events":["\n`, 1):        "cannot tell",
	} {
		if _, err := Verify([]byte(spelling), m.keys, nil); verdict(err) != want {
			t.Errorf("%.60q: %v, want %s", spelling, err, want)
		}
	}
}

// TestTrustDecides verifies a receipt with several keys and policies.
func TestTrustDecides(t *testing.T) {
	t.Parallel()
	at := time.Unix(1800000000, 0).UTC()
	witness := NewCosigner("w.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32)), func() time.Time { return at })
	other := NewCosigner("o.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{6}, 32)), func() time.Time { return at })
	newer, newerKey := fixedKey(t, testOrigin, 4)
	policy := func(text string) *Policy {
		t.Helper()
		p, err := ParsePolicy(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	w := "witness w " + witness.String() + "\n"
	both := w + "witness o " + other.String() + "\ngroup all2 all w o\n"
	m := newReceipt(t, life(), "text")
	vkey := m.LogKeys[0]
	plain, cosigned := m.Checkpoint, m.ledger.sign(m.signer, witness)
	rotating := m.ledger.sign(newer, m.signer)
	broken := cosigned[:len(cosigned)-6] + "AAAA=\n"
	for name, c := range map[string]struct {
		checkpoint string
		keys       []string // of the receipt
		trusted    Keys
		policy     *Policy
		want       string
	}{
		"the log's key":                      {plain, []string{vkey}, m.keys, nil, "proven"},
		"no trusted key":                     {plain, []string{vkey}, nil, nil, "cannot tell"},
		"no key at all":                      {plain, nil, nil, nil, "cannot tell"},
		"the key in a policy":                {plain, []string{vkey}, nil, policy("log " + vkey + "\nquorum none"), "proven"},
		"a witness wanted, none there":       {plain, []string{vkey}, m.keys, policy(w + "quorum w"), "cannot tell"},
		"a witness wanted and there":         {cosigned, []string{vkey}, m.keys, policy(w + "quorum w"), "proven"},
		"two wanted, one there":              {cosigned, []string{vkey}, m.keys, policy(both + "quorum all2"), "cannot tell"},
		"a witness there, and unknown":       {cosigned, []string{vkey}, m.keys, nil, "cannot tell"},
		"a cosignature that is broken":       {broken, []string{vkey}, m.keys, policy(w + "quorum w"), "refuted"},
		"two keys, both in the receipt":      {rotating, []string{newerKey, vkey}, m.keys, nil, "proven"},
		"two keys, the new one is not known": {rotating, []string{vkey}, m.keys, nil, "cannot tell"},
		"a key that has signed is left out":  {rotating, []string{newerKey}, m.keys, nil, "refuted"},
	} {
		m.Checkpoint, m.LogKeys = c.checkpoint, c.keys
		if m.LogKeys == nil {
			m.LogKeys = []string{}
		}
		r, err := Verify(m.json(t), c.trusted, c.policy)
		if verdict(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if name == "a witness wanted and there" && (len(r.Cosigned) != 1 || r.Cosigned[0] != Cosignature{"w.example", at}) {
			t.Errorf("cosigned by %+v", r.Cosigned)
		}
	}
}

// TestJobsOfEarlyReleases verifies a job whose first events are of schema 1. They commit to
// no text, and each needs a proof of its own until an event of schema 2 follows.
func TestJobsOfEarlyReleases(t *testing.T) {
	t.Parallel()
	m := newReceipt(t, life(), "text")
	m.ledger, m.Events, m.Openings, m.Proofs = &ledger{t: t}, nil, nil, map[int]Inclusion{}
	indexes := map[int]int64{}
	for i, e := range life() {
		version := i + 1
		payload := m.payload(t, e, version)
		if version <= 3 {
			payload = fmt.Appendf(nil, `{"at":"2026-11-23T01:02:03.000400Z","fact":{"sealed":"AAAA"},"owner":"01a22d65-88bc-7e70-b980-92733a3023fe","schema":1,"stream":"job/%s","type":"%s","version":%d}`, m.Job, e.kind, version)
		}
		m.Events = append(m.Events, payload)
		indexes[version] = m.ledger.add(payload)
	}
	for _, version := range []int{1, 2, 6} {
		m.prove(version, indexes[version])
	}
	m.Checkpoint = m.ledger.sign(m.signer)
	if r, err := Verify(m.json(t), m.keys, nil); verdict(err) != "cannot tell" || !strings.Contains(err.Error(), "early release") || len(r.Events) != 6 {
		t.Errorf("%v, want that it cannot be told", err)
	}
	for version := range maps.Clone(m.Proofs) {
		proof := m.Proofs[version]
		delete(m.Proofs, version)
		if _, err := Verify(m.json(t), m.keys, nil); verdict(err) != "refuted" {
			t.Errorf("without the proof of event %d: %v", version, err)
		}
		m.Proofs[version] = proof
	}
}

func FuzzVerify(f *testing.F) {
	text, err := os.ReadFile("testdata/receipt.json")
	if err != nil {
		f.Fatal(err)
	}
	vkey, err := os.ReadFile("testdata/log.key")
	if err != nil {
		f.Fatal(err)
	}
	keys, err := ParseKeys(string(vkey))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	original, err := Parse(text)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := Verify(text, keys, nil)
		if verdict(err) == "another error" {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		// A proven receipt shows the events of the original, and at most its openings.
		for i, e := range report.Events {
			if want, _ := ParseEvent(original.Events[i]); e.Version != want.Version || e.At != want.At {
				t.Errorf("event %d was replaced", i+1)
			}
		}
	})
}
