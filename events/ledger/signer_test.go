package ledger_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

const origin = "log.example/test"

// signed is a database whose log is signed.
type signed struct {
	*pgtest.DB
	t     *testing.T
	keys  *ledger.Keys
	state string // file of the guard
}

func newSigned(t *testing.T, db *pgtest.DB) *signed {
	t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	must(t, err)
	s := &signed{db, t, ledger.NewKeys(db.App, v), filepath.Join(t.TempDir(), "log-state")}
	must(t, s.keys.Ensure(t.Context(), origin))
	return s
}

// grow adds events to the log.
func (s *signed) grow(events int) {
	s.t.Helper()
	const most = 5000 // a statement has 10 s, on a busy machine too
	for ; events > 0; events -= most {
		_, err := s.App.Exec(s.t.Context(), `insert into events (stream, version, owner, type, at, schema, payload)
			select 'account/' || gen_random_uuid(), 1, $1, 'test', now(), 2, convert_to(gen_random_uuid()::text, 'UTF8') from generate_series(1, $2)`, uuid.Nil, min(events, most))
		must(s.t, err)
	}
	for p := (ledger.Pass{Added: 1}); p.Added > 0; {
		var err error
		p, err = newSequencer(s.DB).Pass(s.t.Context())
		must(s.t, err)
	}
}

// sign runs a new signer once. witnesses may be nil.
func (s *signed) sign(witnesses *ledger.Witnesses) error {
	s.t.Helper()
	guard, err := ledger.OpenGuard(s.state)
	must(s.t, err)
	defer guard.Close()
	return ledger.NewSigner(s.App, s.keys, witnesses, slog.New(slog.DiscardHandler)).Sign(s.t.Context(), guard)
}

// checkpoint returns the latest checkpoint, which must have valid signatures of all keys.
func (s *signed) checkpoint() receipt.SignedCheckpoint {
	s.t.Helper()
	text, err := ledger.NewLog(s.App).Checkpoint(s.t.Context())
	must(s.t, err)
	keys := s.verifiers()
	c, err := receipt.OpenCheckpoint(text, keys...)
	must(s.t, err)
	if len(c.ByLog) != len(keys) {
		s.t.Errorf("%d keys have signed, want %d", len(c.ByLog), len(keys))
	}
	return c
}

func (s *signed) verifiers() (keys receipt.Keys) {
	s.t.Helper()
	vkeys, err := ledger.NewLog(s.App).Keys(s.t.Context())
	must(s.t, err)
	for _, vkey := range vkeys {
		key, err := receipt.ParseKey(vkey)
		must(s.t, err)
		keys = append(keys, key)
	}
	return keys
}

// mustSign signs, and expects a checkpoint of the given size.
func (s *signed) mustSign(size int64) receipt.SignedCheckpoint {
	s.t.Helper()
	must(s.t, s.sign(nil))
	c := s.checkpoint()
	if c.Size != size {
		s.t.Fatalf("the checkpoint has the size %d, want %d", c.Size, size)
	}
	return c
}

// mustBeForked expects that a signer refuses, and publishes nothing.
func (s *signed) mustBeForked(why string) {
	s.t.Helper()
	before, err := ledger.NewLog(s.App).Checkpoint(s.t.Context())
	if !errors.Is(err, ledger.ErrNoCheckpoint) {
		must(s.t, err)
	}
	if err := s.sign(nil); !errors.Is(err, ledger.ErrForked) || !strings.Contains(err.Error(), why) {
		s.t.Errorf("%v, want ErrForked: %s", err, why)
	}
	if after, _ := ledger.NewLog(s.App).Checkpoint(s.t.Context()); after != before {
		s.t.Error("a checkpoint was published")
	}
}

// lose removes the events of the log from an index on, and the checkpoints that contain
// them, as a restore of an old backup does.
func (s *signed) lose(from int64) {
	s.t.Helper()
	for _, sql := range []string{
		`delete from events where position in (select position from log_entries where idx >= $1)`,
		`delete from log_entries where idx >= $1`,
		`delete from log_checkpoints where size > $1`,
	} {
		s.Damage(s.t, sql, from)
	}
	s.Damage(s.t, `delete from log_nodes where n >= $1 / 256`, from)
	s.Damage(s.t, `update log_state set low = 0`)
}

// TestLostEventsStopTheSigner loses signed events. The signer must refuse the shorter log,
// and the log that has grown again with other events. A new name must say what it continues.
func TestLostEventsStopTheSigner(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(300)
	last := s.mustSign(300)
	s.lose(290)
	s.mustBeForked("300 events were signed")
	s.grow(100)
	s.mustBeForked("first 300 events")

	guard, err := ledger.OpenGuard(s.state)
	must(t, err)
	kept, ok := guard.Last()
	must(t, guard.Close())
	if !ok || kept.Text() != last.Text() {
		t.Errorf("the file has %+v, want %+v", kept, last.Checkpoint)
	}
	if _, err := s.keys.Begin(t.Context(), origin, &kept); !errors.Is(err, ledger.ErrOriginTaken) {
		t.Errorf("the old name again: %v", err)
	}
	if _, err := s.keys.Begin(t.Context(), "two words", &kept); !errors.Is(err, ledger.ErrOrigin) {
		t.Errorf("a name with a space: %v", err)
	}
	vkey, err := s.keys.Begin(t.Context(), origin+"/2", &kept)
	must(t, err)
	c := s.mustSign(390)
	if p, ok := c.Previous(); !ok || p.Text() != last.Text() || !strings.HasPrefix(vkey, origin+"/2+") {
		t.Errorf("%+v, want a checkpoint of the key %s that continues %+v", c, vkey, last.Checkpoint)
	}
	s.grow(10)
	s.mustSign(400)
	s.lose(395)
	s.mustBeForked("400 events were signed")
}

// TestChangedEventStopsTheSigner changes an event below the last checkpoint, and all of its
// hashes.
func TestChangedEventStopsTheSigner(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(10)
	s.mustSign(10)
	s.Damage(t, `update log_entries set hash = sha256('other') where idx = 3`)
	s.mustBeForked("first 10 events")
	s.grow(1)
	s.mustBeForked("first 10 events")
}

// TestNewNameMustContinueEverythingThatWasSigned gives the log names that continue less than the
// file knows, and an empty log.
func TestNewNameMustContinueEverythingThatWasSigned(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(3)
	older := s.mustSign(3)
	s.grow(3)
	last := s.mustSign(6)
	s.lose(0)
	_, err := s.keys.Begin(t.Context(), origin+"/2", &older.Checkpoint)
	must(t, err)
	s.mustBeForked("was signed before with 6 events")
	_, err = s.keys.Begin(t.Context(), origin+"/3", &last.Checkpoint)
	must(t, err, s.sign(nil)) // there is nothing to sign yet
	s.grow(1)
	s.mustSign(1)
	if p, err := ledger.NewLog(s.App).LastPublished(t.Context()); err != nil || p.Origin != origin+"/3" {
		t.Errorf("last published: %+v, %v", p, err)
	}
}

// TestKeyThatTheMasterKeyHasNotSealedIsNoKey inserts a retired key of a stranger, and a
// checkpoint that it has signed, as the database's owner can.
func TestKeyThatTheMasterKeyHasNotSealedIsNoKey(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(3)
	last := s.mustSign(3)
	private, vkey, err := note.GenerateKey(rand.Reader, origin)
	must(t, err)
	signer, err := note.NewSigner(private)
	must(t, err)
	public, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	must(t, err)
	_, err = s.App.Exec(t.Context(), `insert into log_keys (public, origin, wrapped, master_key_id, retired_at) values ($1, $2, '', '', now())`, public[1:], origin)
	must(t, err)
	s.mustSign(3)
	forged, err := note.Sign(&note.Note{Text: last.Text()}, signer)
	must(t, err)
	_, err = s.App.Exec(t.Context(), `insert into log_checkpoints (origin, size, note) values ($1, 3, $2)`, origin, string(forged))
	must(t, err)
	s.mustBeForked("not the log's")
	if c, err := s.keys.Latest(t.Context(), nil); !errors.Is(err, ledger.ErrForked) {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestOtherNameStopsTheSigner gives the log a name that does not say what it continues.
func TestOtherNameStopsTheSigner(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(3)
	s.mustSign(3)
	_, err := s.keys.Begin(t.Context(), "other.example/log", nil)
	must(t, err)
	s.mustBeForked(origin + " was signed before")
	if err := s.keys.Ensure(t.Context(), origin); !errors.Is(err, ledger.ErrOtherOrigin) {
		t.Errorf("the old name: %v", err)
	}
	must(t, s.keys.Ensure(t.Context(), ""))
}

// TestSignerNeedsAReadableState starts signers with a damaged state, with the state of
// another process, and without a state.
func TestSignerNeedsAReadableState(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(3)
	s.mustSign(3)
	held, err := ledger.OpenGuard(s.state)
	must(t, err)
	if _, err := ledger.OpenGuard(s.state); !errors.Is(err, ledger.ErrHeld) {
		t.Errorf("a second guard of the file: %v", err)
	}
	must(t, held.Close(), os.WriteFile(s.state, []byte("damaged"), 0o600))
	if _, err := ledger.OpenGuard(s.state); !errors.Is(err, receipt.ErrCheckpoint) {
		t.Errorf("a damaged file: %v", err)
	}
	must(t, os.Remove(s.state))
	s.grow(1)
	s.mustSign(4) // adopts the checkpoint of the database
	s.lose(2)
	s.mustBeForked("4 events were signed")
}

// TestForgedCheckpointStopsTheSigner inserts checkpoints as a client of the database with
// the service's rights.
func TestForgedCheckpointStopsTheSigner(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(3)
	s.mustSign(3)
	forge := func(size int64) error {
		_, err := s.App.Exec(t.Context(), `insert into log_checkpoints (origin, size, note) values ($1, $2, 'forged')`, origin, size)
		return err
	}
	if err := forge(4); err == nil {
		t.Error("the database has taken a checkpoint that is larger than the log")
	}
	for _, sql := range []string{`update log_checkpoints set size = 1`, `delete from log_checkpoints`, `update log_origins set name = 'x'`, `delete from log_keys`, `update log_keys set wrapped = ''`} {
		if _, err := s.App.Exec(t.Context(), sql); err == nil {
			t.Errorf("the service may: %s", sql)
		}
	}
	s.grow(1)
	must(t, forge(4))
	s.mustBeForked("not the log's")
	// The operator removes the row, as the runbook says, and the signer goes on.
	_, err := s.Owner.Exec(t.Context(), `alter table log_checkpoints disable trigger append_only; delete from log_checkpoints where note = 'forged';
		alter table log_checkpoints enable trigger append_only`)
	must(t, err)
	s.mustSign(4)
}

// TestBothKeysSignDuringARotation rotates the key of a log that does not grow.
func TestBothKeysSignDuringARotation(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	s.grow(3)
	s.mustSign(3)
	old := s.verifiers()[0]
	vkey, retire, err := s.keys.Rotate(t.Context(), time.Hour)
	must(t, err)
	if d := time.Until(retire); d < 59*time.Minute || d > 61*time.Minute {
		t.Errorf("the old key retires in %v, want an hour", d)
	}
	if c := s.mustSign(3); len(c.ByLog) != 2 {
		t.Errorf("%d keys have signed", len(c.ByLog))
	}
	signed, err := ledger.NewLog(s.App).Checkpoint(t.Context())
	must(t, err)
	if _, err := receipt.OpenCheckpoint(signed, old); err != nil {
		t.Errorf("a client with the old key: %v", err)
	}
	s.Damage(t, `update log_keys set retired_at = now() where retired_at is not null`)
	s.grow(1)
	if c := s.mustSign(4); len(c.ByLog) != 1 || fmt.Sprintf("%08x", c.ByLog[0].Hash) != strings.Split(vkey, "+")[1] {
		t.Errorf("signed by %+v, want %s", c.ByLog, vkey)
	}
}

// TestSignersOfOneFileTakeTurns runs a signer, and another one with the same file. The second
// one must sign when the first one has ended.
func TestSignersOfOneFileTakeTurns(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	run := func() (signer *ledger.Signer, stop func()) {
		signer = ledger.NewSigner(s.App, s.keys, nil, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); signer.Run(ctx, s.state) }()
		return signer, func() { cancel(); <-ended }
	}
	log := ledger.NewLog(s.App)
	mustBeSigned := func(size int) {
		t.Helper()
		s.grow(1)
		eventually(t, fmt.Sprintf("a checkpoint has %d events", size), func() bool {
			_, err := log.Tile(t.Context(), 0, 0, size)
			return err == nil
		})
	}
	first, stopFirst := run()
	mustBeSigned(1)
	second, stopSecond := run()
	eventually(t, "the second signer waits", func() bool { return errors.Is(second.Err(), ledger.ErrHeld) })
	mustBeSigned(2)
	must(t, first.Err())
	stopFirst()
	mustBeSigned(3)
	s.lose(1)
	eventually(t, "the second signer refuses", func() bool { return errors.Is(second.Err(), ledger.ErrForked) })
	stopSecond()
}

func entry(payload []byte) [32]byte { return sha256.Sum256(payload) }
