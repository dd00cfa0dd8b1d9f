package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// box is the plaintext of an event's ciphertext.
type box struct {
	Members map[string]json.RawMessage `json:"members"`
	Seed    []byte                     `json:"seed"`
}

// textLength is the length of the text in the first plaintext.
const textLength = 64

// seedCells are a seed in base64, as a JSON string of the first plaintext.
func seedCells(other *byteSet) []cell {
	return slices.Concat(first(`"`, other), repeat(42, cell{base64Letters, other}), repeat(1, cell{base64Last, other}), first(`="`, other))
}

// layPadded lays two boxes over each other. The first has a text of letters, and the second
// the text "other text". Most of each box is inside a string of the other one, which is no
// member of a box: encoding/json ignores it.
func layPadded(f *forger) bool {
	none, noise := &byteSet{}, jsonNoise
	lay := func(padding cell, tokens ...[]cell) bool {
		return !slices.ContainsFunc(tokens, func(token []cell) bool { return !f.put(padding, token...) })
	}
	members := func(text []cell, write func(string, *byteSet) []cell) (tokens [][]cell) {
		for _, name := range []string{`"members"`, `:`, `{`, `"text"`, `:`} {
			tokens = append(tokens, write(name, noise))
		}
		tokens = append(tokens, text)
		for _, name := range []string{`,`, `"tokens"`, `:`, `[1,2]`, `}`, `,`, `"seed"`, `:`} {
			tokens = append(tokens, write(name, noise))
		}
		return tokens
	}
	// The first box begins with a name. The second one begins later, and ends with a text.
	if !lay(cell{none, none}, first(`{"`, jsonSpace)) {
		return false
	}
	space := cell{noise, jsonSpace}
	ok := lay(space, second(`{`, noise)) && lay(space, members(second(`"other text"`, noise), second)...) &&
		lay(space, swap(seedCells(noise)), second(`,`, noise), second(`"x"`, noise), second(`:`, noise), second(`"`, noise))
	// The name of the first box ends, and its members follow.
	space = cell{jsonSpace, noise}
	text := slices.Concat(first(`"`, noise), repeat(textLength, cell{jsonLetters, noise}), first(`"`, noise))
	ok = ok && lay(cell{noise, noise}, first(`"`, noise)) && lay(space, first(`:`, noise), first(`0`, noise), first(`,`, noise)) &&
		lay(space, members(text, first)...) &&
		lay(space, seedCells(noise), first(`,`, noise), first(`"x"`, noise), first(`:`, noise), first(`"`, noise))
	// Both are inside a text. The second box ends before the first.
	if !ok || !lay(cell{noise, noise}, slices.Concat(second(`"}`, noise), first(`"}`, jsonSpace))) {
		return false
	}
	at := slices.IndexFunc(f.cells, func(c cell) bool { return c[0] == jsonLetters })
	f.free = [2]int{at, at + textLength}
	return true
}

// layExact lays a box as the service writes it over any bytes.
func layExact(f *forger) bool {
	const begin = `{"members":{"text":"`
	f.free = [2]int{len(begin), len(begin) + textLength}
	return f.put(cell{&byteSet{}, &byteSet{}}, slices.Concat(first(begin, anyByte), repeat(textLength, cell{jsonLetters, anyByte}),
		first(`","tokens":[1,2]},"seed":`, anyByte), seedCells(anyByte), first(`}`, anyByte))...)
}

// TestCiphertextOfTwoKeysShowsOneText stores an event whose ciphertext opens under two keys.
// The service, or an owner with its help, can make such an event. Under the first key,
// everything must be right. Under the second key, the event must be refused by a reader and
// by a check of the log. No receipt may show what the second key opens.
func TestCiphertextOfTwoKeysShowsOneText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		lay    func(*forger) bool
		reason string // of the damage under the second key
	}{
		{"two boxes", layPadded, "sealed members differ from their commitments"},
		{"a box as it is written, and noise", layExact, "not decodable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := newTwoKeys(t)
			sealed := forge(t, k.keys, k.aad(), c.lay)
			boxes := k.open(t, sealed)
			if c.reason == "not decodable" {
				if again, err := json.Marshal(boxes[0]); err != nil || !bytes.Equal(again, k.plain(t, 0, sealed, k.aad())) {
					t.Errorf("the first key opens another spelling than %s: %v", again, err)
				}
			} else if string(boxes[1].Members["text"]) != `"other text"` {
				t.Errorf("the second key opens %s", boxes[1].Members)
			}
			k.store(t, sealed, boxes[0])

			// Everything is right under the first key.
			var want string
			if err := json.Unmarshal(boxes[0].Members["text"], &want); err != nil || len(want) != textLength {
				t.Fatalf("%q, %v", want, err)
			}
			job, err := k.newStore(t).Job(t.Context(), k.job)
			if err != nil || job.Text != want {
				t.Fatalf("under the first key: %q, %v, want %q", job.Text, err, want)
			}
			k.finish(t, job)
			r := k.receipt(t)
			k.verifies(t, "the receipt", r, 0, want)
			k.logVerifies(t, 0, "Proven: ")

			// A receipt with the values of the second key is refuted.
			for i, b := range boxes {
				forged := *r
				forged.Openings = map[int]map[string]receipt.Opening{forgedVersion: {"text": {Blinding: receipt.Blinding(b.Seed, "text"), Value: []byte(`"other text"`)}}}
				k.verifies(t, fmt.Sprintf("a receipt of the other text, blinded by seed %d", i), &forged, 1, "refuted: ")
			}

			k.exchange(t)
			where := fmt.Sprintf("%s@%d: %s", events.JobStream(k.job), forgedVersion, c.reason)
			k.logVerifies(t, 1, where)
			_, err = k.newStore(t).Job(t.Context(), k.job)
			if d, ok := errors.AsType[*events.Damage](err); !ok || d.Error() != where {
				t.Errorf("under the second key: %v, want %s", err, where)
			}
			if e, err := k.newStore(t).Evidence(t.Context(), k.job, []string{"text"}); !errors.Is(err, events.ErrDamaged) {
				t.Errorf("evidence under the second key: %v, %v", e, err)
			}
			t.Attr("found", c.reason)
		})
	}
}

// forgedVersion is the version of the event whose ciphertext is forged.
const forgedVersion = 3

// twoKeys is a log with a job of an owner whose data key is keys[0].
type twoKeys struct {
	db     *pgtest.DB
	master []byte
	owner  uuid.UUID
	job    uuid.UUID
	keys   [2][]byte
	data   string // data directory
}

func newTwoKeys(t *testing.T) *twoKeys {
	t.Helper()
	k := &twoKeys{db: pgtest.New(t, migrations.Up), master: make([]byte, vault.MasterKeySize), owner: uuid.Must(uuid.NewV7()), job: uuid.Must(uuid.NewV7()), data: t.TempDir()}
	_, _ = rand.Read(k.master)
	v := k.vault(t)
	store := k.newStore(t)
	err := errors.Join(v.Prove(t.Context(), k.db.App), ledger.NewKeys(k.db.App, v).Ensure(t.Context(), "log.example/test"),
		store.Write(t.Context(), func(tx *events.Tx) error {
			return tx.AppendAccount(t.Context(), k.owner, events.AccountRegistered{Username: "somebody"})
		}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.AppendJob(t.Context(), events.Job{ID: k.job, Owner: k.owner}, events.JobAccepted{Prompt: "a prompt", Model: "m"},
		events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32"}, events.JobAdvanced{Tokens: []int{1, 2}, Text: "a text"})
	if err != nil {
		t.Fatal(err)
	}
	var wrapped []byte
	if err := k.db.Owner.QueryRow(t.Context(), `select wrapped from owner_keys where owner = $1`, k.owner).Scan(&wrapped); err != nil {
		t.Fatal(err)
	}
	if k.keys[0], err = sealing(t, k.master).Open(nil, nil, wrapped, k.owner[:]); err != nil {
		t.Fatal(err)
	}
	k.keys[1] = make([]byte, len(k.keys[0]))
	_, _ = rand.Read(k.keys[1])
	return k
}

// sealing returns AES-256-GCM as the service uses it.
func sealing(t *testing.T, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

func (k *twoKeys) vault(t *testing.T) *vault.Vault {
	t.Helper()
	v, err := vault.New(k.master)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newStore returns a store whose vault has no key in memory.
func (k *twoKeys) newStore(t *testing.T) *events.Store {
	t.Helper()
	return events.NewStore(k.db.App, k.vault(t), slog.New(slog.DiscardHandler))
}

// aad returns the associated data of the forged event.
func (k *twoKeys) aad() string { return fmt.Sprintf("event job/%s@%d", k.job, forgedVersion) }

// plain opens a ciphertext with one of the keys.
func (k *twoKeys) plain(t *testing.T, key int, sealed []byte, aad string) []byte {
	t.Helper()
	plain, err := sealing(t, k.keys[key]).Open(nil, nil, sealed, []byte(aad))
	if err != nil {
		t.Fatalf("key %d does not open the ciphertext: %v", key, err)
	}
	return plain
}

// open opens the forged ciphertext with both keys. A plaintext that is no box is empty.
func (k *twoKeys) open(t *testing.T, sealed []byte) (boxes [2]box) {
	t.Helper()
	for key := range boxes {
		if err := json.Unmarshal(k.plain(t, key, sealed, k.aad()), &boxes[key]); err != nil && key == 0 {
			t.Fatalf("the first plaintext is no box: %v", err)
		}
	}
	return boxes
}

// store replaces the ciphertext of the event and the commitments of its payload, before the
// event is in the log.
func (k *twoKeys) store(t *testing.T, sealed []byte, b box) {
	t.Helper()
	stream := events.JobStream(k.job)
	var raw []byte
	if err := k.db.Owner.QueryRow(t.Context(), `select payload from events where stream = $1 and version = $2`, stream, forgedVersion).Scan(&raw); err != nil {
		t.Fatal(err)
	}
	commit := map[string]string{}
	for name, value := range b.Members {
		c := receipt.Commit(receipt.Member{Stream: string(stream), Version: forgedVersion, Type: "job.advanced", Name: name}, receipt.Blinding(b.Seed, name), value)
		commit[name] = hex.EncodeToString(c[:])
	}
	var payload map[string]json.RawMessage
	err := json.Unmarshal(raw, &payload)
	if err == nil {
		payload["commit"], err = json.Marshal(commit)
	}
	if err == nil {
		raw, err = json.Marshal(payload)
	}
	if err != nil {
		t.Fatal(err)
	}
	k.db.Damage(t, `update events set payload = $3, sealed = $4 where stream = $1 and version = $2`, stream, forgedVersion, raw, sealed)
}

// finish ends the job, and signs the log.
func (k *twoKeys) finish(t *testing.T, job events.Job) {
	t.Helper()
	if _, err := k.newStore(t).AppendJob(t.Context(), job, events.JobCompleted{FinishReason: "stop"}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if p, err := ledger.NewSequencer(k.db.App, log).Pass(t.Context()); err != nil || p.Size != 5 {
		t.Fatalf("%+v, %v", p, err)
	}
	guard, err := ledger.OpenGuard(filepath.Join(k.data, "log-state"))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(ledger.NewSigner(k.db.App, ledger.NewKeys(k.db.App, k.vault(t)), nil, log).Sign(t.Context(), guard), guard.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// receipt returns the receipt of the job, which shows its text.
func (k *twoKeys) receipt(t *testing.T) *receipt.Receipt {
	t.Helper()
	e, err := k.newStore(t).Evidence(t.Context(), k.job, []string{"text"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ledger.NewLog(k.db.App).Prove(t.Context(), string(events.JobStream(k.job)), []int{len(e.Payloads)})
	if err != nil {
		t.Fatal(err)
	}
	return &receipt.Receipt{
		Format: receipt.Format, Job: k.job.String(), Events: e.Payloads, Openings: e.Openings,
		Proofs: p.Inclusions, Checkpoint: p.Checkpoint, LogKeys: p.Keys,
	}
}

// verifies runs `colophon verify` on a receipt.
func (k *twoKeys) verifies(t *testing.T, what string, r *receipt.Receipt, want int, says string) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(k.data, "log.key")
	if err := os.WriteFile(key, []byte(strings.Join(r.LogKeys, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.ends(t, what, want, says, string(text), "verify", "-", "--key", key)
}

// logVerifies runs `colophon log verify`.
func (k *twoKeys) logVerifies(t *testing.T, want int, says string) {
	t.Helper()
	k.ends(t, "the log", want, says, "", "log", "verify", "--data", k.data, "--database-url", k.db.URL, "--master-key", base64.StdEncoding.EncodeToString(k.master))
}

// ends runs a command, which must end with a status and say something.
func (k *twoKeys) ends(t *testing.T, what string, want int, says, stdin string, args ...string) {
	t.Helper()
	out, _, err := command(t, stdin, args...)
	got := 0
	if err != nil {
		got, out = status(err), err.Error()
	}
	if got != want || !strings.Contains(out, says) {
		t.Errorf("%s: status %d, %q, want %d, %q", what, got, out, want, says)
	}
}

// exchange makes the second key the owner's. All other ciphertexts of the owner are sealed
// again under it, as by a rotation of the owner's key.
func (k *twoKeys) exchange(t *testing.T) {
	t.Helper()
	type event struct {
		Stream  string
		Version int
		Sealed  []byte
	}
	rows, _ := k.db.Owner.Query(t.Context(), `select stream, version, sealed from events where owner = $1 and sealed is not null`, k.owner)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	if err != nil || len(all) != 3 {
		t.Fatalf("%d ciphertexts, %v", len(all), err)
	}
	next := sealing(t, k.keys[1])
	for _, e := range all {
		if aad := fmt.Sprintf("event %s@%d", e.Stream, e.Version); aad != k.aad() {
			k.db.Damage(t, `update events set sealed = $3 where stream = $1 and version = $2`,
				e.Stream, e.Version, next.Seal(nil, nil, k.plain(t, 0, e.Sealed, aad), []byte(aad)))
		}
	}
	k.db.Damage(t, `update owner_keys set wrapped = $2 where owner = $1`, k.owner, sealing(t, k.master).Seal(nil, nil, k.keys[1], k.owner[:]))
}
