package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var update = flag.Bool("update", false, "write the files in testdata")

const (
	testJob    = "01a22858-9ffc-794b-bed8-7caa28eaed71"
	testOrigin = "log.example/test"
)

// testEvent is an event of a test: its type, its members in the clear and its secret ones.
type testEvent struct {
	kind          string
	clear, secret map[string]any
}

// life is a job that was interrupted once.
func life() []testEvent {
	const weights = "sha256:835111db9d18e435e9bd87ce1389bbdd016310a885f149fbd3b0f2cb852a49e7/f16"
	return []testEvent{
		{"job.accepted", map[string]any{"model": "opticks", "policy": "seed/7ba22e116eccc2a3", "prompt_tokens": 5},
			map[string]any{"prompt": "In a very dark <Chamber>", "params": map[string]any{"max_tokens": 4, "seed": 1704}, "owner": "01a22d65-88bc-7e70-b980-92733a3023fe"}},
		{"job.started", map[string]any{"attempt": 1, "from_token": 0, "kernel": "avx2-fma/1", "weights": weights, "worker": "w1"}, nil},
		{"job.advanced", map[string]any{}, map[string]any{"text": ", I plac", "tokens": []int{11, 305}}},
		{"job.started", map[string]any{"attempt": 2, "from_token": 2, "kernel": "avx2-fma/1", "weights": weights, "worker": "w2"}, nil},
		{"job.advanced", map[string]any{}, map[string]any{"text": "ed “a Prism”\n", "tokens": []int{840, 259}}},
		{"job.completed", map[string]any{"finish_reason": "length", "usage": map[string]any{"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}}, nil},
	}
}

// ledger is a log of a test.
type ledger struct {
	t      *testing.T
	hashes []tlog.Hash
	size   int64
}

func (l *ledger) ReadHashes(indexes []int64) (hashes []tlog.Hash, err error) {
	for _, i := range indexes {
		hashes = append(hashes, l.hashes[i])
	}
	return hashes, nil
}

// add adds an entry and returns its index.
func (l *ledger) add(payload []byte) int64 {
	l.t.Helper()
	entry := sha256.Sum256(payload)
	more, err := tlog.StoredHashes(l.size, entry[:], l)
	if err != nil {
		l.t.Fatal(err)
	}
	l.hashes = append(l.hashes, more...)
	l.size++
	return l.size - 1
}

// sign returns the signed checkpoint of the log.
func (l *ledger) sign(signers ...note.Signer) string {
	l.t.Helper()
	root, err := tlog.TreeHash(l.size, l)
	if err != nil {
		l.t.Fatal(err)
	}
	return sign(l.t, Checkpoint{Origin: testOrigin, Size: l.size, Root: root}.Text(), signers...)
}

// fixedKey returns a log's key that is the same in each run.
func fixedKey(t *testing.T, name string, fill byte) (note.Signer, string) {
	t.Helper()
	seed := bytes.Repeat([]byte{fill}, ed25519.SeedSize)
	public, _ := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner("PRIVATE+KEY+" + strings.Join(strings.Split(vkey, "+")[:2], "+") + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, seed...)))
	if err != nil {
		t.Fatal(err)
	}
	return signer, vkey
}

// made is a receipt of a test with everything from which it was made.
type made struct {
	*Receipt
	ledger   *ledger
	signer   note.Signer
	keys     Keys
	openings map[int]map[string]Opening // of all members
}

// newReceipt makes a receipt of a stream. The members that disclose names are opened.
func newReceipt(t *testing.T, stream []testEvent, disclose ...string) *made {
	t.Helper()
	signer, vkey := fixedKey(t, testOrigin, 1)
	keys, err := ParseKeys(vkey)
	if err != nil {
		t.Fatal(err)
	}
	m := &made{&Receipt{Format: Format, Job: testJob, Openings: map[int]map[string]Opening{}, Proofs: map[int]Inclusion{}, LogKeys: []string{vkey}}, &ledger{t: t}, signer, keys, map[int]map[string]Opening{}}
	var index int64
	for i, e := range stream {
		m.ledger.add(fmt.Appendf(nil, "an event of another stream, before event %d", i+1))
		payload := m.payload(t, e, i+1)
		index = m.ledger.add(payload)
		m.Events = append(m.Events, payload)
	}
	m.ledger.add([]byte("an event after the last one"))
	m.show(disclose...)
	m.prove(len(stream), index)
	m.Checkpoint = m.ledger.sign(signer)
	return m
}

// payload returns the payload of an event that follows the events of the receipt.
func (m *made) payload(t *testing.T, e testEvent, version int) []byte {
	t.Helper()
	s := Event{At: fmt.Sprintf("2026-11-29T17:27:23.%06dZ", version*1000), Schema: 2, Stream: "job/" + m.Job, Type: e.kind, Version: version}
	if version > 1 {
		hash := sha256.Sum256(m.Events[version-2])
		s.Prev = hex.EncodeToString(hash[:])
	}
	var err error
	if s.Fact, err = json.Marshal(e.clear); err != nil {
		t.Fatal(err)
	}
	seed := bytes.Repeat([]byte{byte(version)}, SeedSize)
	for name, v := range e.secret {
		value, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if s.Commit == nil {
			s.Commit, m.openings[version] = map[string]string{}, map[string]Opening{}
		}
		o := Opening{Blinding(seed, name), value}
		c := Commit(Member{s.Stream, version, s.Type, name}, o.Blinding, o.Value)
		s.Commit[name], m.openings[version][name] = hex.EncodeToString(c[:]), o
	}
	payload, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// show opens members of all events, by name.
func (m *made) show(names ...string) {
	m.Openings = map[int]map[string]Opening{}
	for version, members := range m.openings {
		for name, o := range members {
			if slices.Contains(names, name) {
				if m.Openings[version] == nil {
					m.Openings[version] = map[string]Opening{}
				}
				m.Openings[version][name] = o
			}
		}
	}
}

// prove adds the proof of an event.
func (m *made) prove(version int, index int64) {
	m.ledger.t.Helper()
	hashes, err := tlog.ProveRecord(m.ledger.size, index, m.ledger)
	if err != nil {
		m.ledger.t.Fatal(err)
	}
	m.Proofs[version] = Inclusion{index, hashes}
}

func (m *made) json(t *testing.T) []byte {
	t.Helper()
	text, err := json.Marshal(m.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestGoldenReceipt compares a receipt with the file that verifiers in other languages are
// tested with.
func TestGoldenReceipt(t *testing.T) {
	t.Parallel()
	m := newReceipt(t, life(), "prompt", "text")
	text, err := json.MarshalIndent(m.Receipt, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{"testdata/receipt.json": string(text) + "\n", "testdata/log.key": m.LogKeys[0] + "\n"} {
		if *update {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if stored, err := os.ReadFile(path); err != nil || string(stored) != content {
			t.Errorf("%s differs, %v: run the test with -update if that is intended", path, err)
		}
	}
	r, err := Verify(text, m.keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	prompt, okPrompt := r.Prompt()
	generated, okText := r.Text()
	if prompt != "In a very dark <Chamber>" || generated != ", I placed “a Prism”\n" || !okPrompt || !okText {
		t.Errorf("%q %q", prompt, generated)
	}
	if last, ok := r.Ended(); !ok || last.Type != "job.completed" || r.Log != testOrigin || r.Size != 13 || r.Index != 11 || len(r.Events) != 6 {
		t.Errorf("%+v", r)
	}
	proof := m.TlogProof()
	if !strings.HasPrefix(proof, "c2sp.org/tlog-proof@v1\nindex 11\n") || !strings.HasSuffix(proof, "\n\n"+m.Checkpoint) {
		t.Errorf("%q", proof)
	}
}

// verdict names the result of a verification.
func verdict(err error) string {
	switch {
	case err == nil:
		return "proven"
	case errors.Is(err, ErrRefuted):
		return "refuted"
	case errors.Is(err, ErrCannotTell):
		return "cannot tell"
	}
	return "another error"
}
