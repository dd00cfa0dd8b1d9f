package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/internal/pg/pgtest"
	"colophon/internal/witness"
	"colophon/migrations"
)

// testWitness is a witness with a server.
type testWitness struct {
	*httptest.Server
	cosigner receipt.Cosigner
	down     atomic.Bool
	asked    atomic.Int32
}

// witness starts a witness of the log.
func (s *signed) witness(name string) *testWitness {
	s.t.Helper()
	w := &testWitness{cosigner: receipt.NewCosigner(name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte(name[:1]), 32)), time.Now)}
	served, err := witness.Open(w.cosigner, s.verifiers(), filepath.Join(s.t.TempDir(), "state"))
	must(s.t, err)
	s.t.Cleanup(func() { served.Close() })
	handler := served.Handler(slog.New(slog.DiscardHandler))
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		if w.down.Load() {
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(rw, r)
	}))
	s.t.Cleanup(w.Close)
	return w
}

// policyOf returns a policy that wants the cosignatures of all witnesses.
func policyOf(t *testing.T, witnesses ...*testWitness) *receipt.Policy {
	t.Helper()
	text, group := "", "group everybody all"
	for i, w := range witnesses {
		text += fmt.Sprintf("witness w%d %s %s\n", i, w.cosigner, w.URL)
		group += fmt.Sprintf(" w%d", i)
	}
	p, err := receipt.ParsePolicy(text + group + "\nquorum everybody\n")
	must(t, err)
	return p
}

// cosigned returns how many witnesses of the policy have cosigned the latest checkpoint.
func (s *signed) cosigned(p *receipt.Policy) int {
	s.t.Helper()
	return len(p.Cosigned(s.checkpoint()))
}

// TestWitnessesCosign signs with two witnesses, one of which is down for a while. A
// checkpoint is published without it, and again when it is back.
func TestWitnessesCosign(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	a, b := s.witness("a.example"), s.witness("b.example")
	policy := policyOf(t, a, b)
	s.grow(300)
	must(t, s.sign(ledger.NewWitnesses(policy)))
	if n := s.cosigned(policy); n != 2 {
		t.Errorf("%d witnesses have cosigned the first checkpoint", n)
	}
	s.grow(300)
	b.down.Store(true)
	witnesses := ledger.NewWitnesses(policy)
	must(t, s.sign(witnesses))
	if c := s.checkpoint(); c.Size != 600 || len(policy.Cosigned(c)) != 1 {
		t.Errorf("with one witness down: %+v", c)
	}
	// The witness that failed is not asked again at once.
	asked := b.asked.Load()
	must(t, s.sign(witnesses))
	if n := b.asked.Load(); n != asked {
		t.Errorf("the failed witness was asked %d times more", n-asked)
	}
	b.down.Store(false)
	must(t, s.sign(ledger.NewWitnesses(policy)))
	if c := s.checkpoint(); c.Size != 600 || len(policy.Cosigned(c)) != 2 {
		t.Errorf("with the witness back: %+v", c)
	}
	var rows int
	must(t, os.Remove(s.state)) // a signer without a state asks all witnesses again
	must(t, s.sign(ledger.NewWitnesses(policy)), s.App.QueryRow(t.Context(), `select count(*) from log_checkpoints`).Scan(&rows))
	if rows != 3 {
		t.Errorf("%d checkpoints are published, want 3", rows)
	}
}

// TestWitnessesAreBelievedWithoutAState loses events and the state of the signer. What a
// witness has seen must stop the signer.
func TestWitnessesAreBelievedWithoutAState(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	w := s.witness("w.example")
	policy := policyOf(t, w)
	s.grow(5)
	must(t, s.sign(ledger.NewWitnesses(policy)))
	s.grow(5)
	must(t, s.sign(ledger.NewWitnesses(policy)))
	// The restored database ends after the last checkpoint, or with it.
	for _, left := range []int64{7, 5} {
		s.lose(left)
		must(t, os.RemoveAll(s.state))
		witnesses := ledger.NewWitnesses(policy)
		for range 3 { // a process tries again and again
			if err := s.sign(witnesses); !errors.Is(err, ledger.ErrForked) || !strings.Contains(err.Error(), "w.example") {
				t.Errorf("a log of %d events: %v", left, err)
			}
		}
		s.grow(6) // the log is long enough now, and has other events
		if err := s.sign(witnesses); !errors.Is(err, ledger.ErrForked) || !strings.Contains(err.Error(), "w.example") {
			t.Errorf("a log of other events: %v", err)
		}
	}
	if c := s.checkpoint(); c.Size != 5 {
		t.Errorf("a checkpoint of %d events was published", c.Size)
	}
	// A backup may be older than the first checkpoint.
	s.Damage(t, `delete from log_checkpoints`)
	if err := s.sign(ledger.NewWitnesses(policy)); !errors.Is(err, ledger.ErrForked) {
		t.Errorf("without a checkpoint: %v", err)
	}
}

// TestWrongAnswersOfWitnessesAreLeftOut lets a witness answer in ways that no verifier
// accepts. The checkpoints must be published without it, and stay readable.
func TestWrongAnswersOfWitnessesAreLeftOut(t *testing.T) {
	t.Parallel()
	s := newSigned(t, pgtest.New(t, migrations.Up))
	honest := s.witness("w.example")
	cosign := func(text string) string {
		signed, err := note.Sign(&note.Note{Text: text}, honest.cosigner)
		must(t, err)
		return strings.TrimPrefix(string(signed), text+"\n")
	}
	for name, answer := range map[string]func(text string) string{
		"loose base64": func(text string) string {
			line := cosign(text)
			i := strings.LastIndex(line, "==")
			return line[:i-1] + string(line[i-1]+1) + line[i:]
		},
		"another text": func(text string) string { return "x\n\n" + cosign(text+"\nx\n") },
		"another key":  func(text string) string { return strings.Replace(cosign(text), "w.example", "v.example", 1) },
		"nothing":      func(string) string { return "" },
		"a text":       func(string) string { return "hello\n" },
		"too much":     func(string) string { return strings.Repeat("x", 1<<20) },
	} {
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, signed, _ := strings.Cut(string(body), "\n\n")
			text, _, _ := receipt.CutSignatures(signed)
			_, _ = io.WriteString(rw, answer(text))
		}))
		defer server.Close()
		wrong := &testWitness{Server: server, cosigner: honest.cosigner}
		for range 2 {
			s.grow(1)
			if err := s.sign(ledger.NewWitnesses(policyOf(t, wrong))); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			s.checkpoint() // must be readable
		}
	}
}

// TestLossyFailoverStopsTheSigner promotes a standby that lacks the last signed events, and
// one that has them all.
func TestLossyFailoverStopsTheSigner(t *testing.T) {
	t.Parallel()
	primary, db := newServer(t)
	s := newSigned(t, db)
	s.grow(5)
	s.mustSign(5)
	complete, lossy := primary.Standby(), primary.Standby()
	lossy.Stop()
	s.grow(5)
	s.mustSign(10)
	primary.WaitForStandby()
	primary.Kill()
	state, err := os.ReadFile(s.state)
	must(t, err)
	lossy.Start()
	for _, c := range []struct {
		server *pgtest.Server
		size   int
	}{{lossy, 5}, {complete, 10}} {
		must(t, os.WriteFile(s.state, state, 0o600))
		c.server.Promote()
		promoted := newSigned(t, &pgtest.DB{URL: c.server.URL(), App: connect(t, c.server.URL())})
		promoted.state = s.state
		var size int
		must(t, promoted.App.QueryRow(t.Context(), `select count(*) from log_entries`).Scan(&size))
		if size != c.size {
			t.Fatalf("the standby has %d events, want %d", size, c.size)
		}
		if c.size < 10 {
			promoted.mustBeForked("10 events were signed")
			promoted.grow(7)
			promoted.mustBeForked("first 10 events")
			continue
		}
		promoted.grow(1)
		promoted.mustSign(11)
	}
}

// TestSignerWaitsForTheStandby freezes the synchronous standby while entries are visible that
// the standby lacks, as after a sequencer whose commit was interrupted. Nobody may learn of
// their tree before the standby has them.
func TestSignerWaitsForTheStandby(t *testing.T) {
	t.Parallel()
	primary, db := newServer(t)
	s := newSigned(t, db)
	w := s.witness("w.example")
	policy := policyOf(t, w)
	standby := primary.Standby()
	primary.WaitForStandby()
	s.grow(3)
	must(t, s.sign(ledger.NewWitnesses(policy)))
	thaw := standby.Freeze()
	tx, err := db.Owner.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `set local synchronous_commit = local`)
	must(t, err, insert(t.Context(), tx, newStream(), 1))
	_, err = tx.Exec(t.Context(), `insert into log_entries (idx, position, owner, hash) select 3, position, owner, sha256(payload) from events order by position desc limit 1`)
	must(t, err, tx.Commit(t.Context()))
	asked := w.asked.Load()
	ended := make(chan error, 1)
	go func() { ended <- s.sign(ledger.NewWitnesses(policy)) }()
	eventually(t, "the signer waits for the standby", func() (waiting bool) {
		if len(ended) > 0 {
			t.Fatalf("the signer did not wait: %v", <-ended)
		}
		must(t, db.Owner.QueryRow(t.Context(), `select exists (select from pg_stat_activity where wait_event = 'SyncRep')`).Scan(&waiting))
		return waiting
	})
	state, err := ledger.ReadState(s.state)
	must(t, err)
	if n := w.asked.Load(); n != asked || state.Size != 3 {
		t.Errorf("the witness was asked %d times, and the file has a log of %d events", n-asked, state.Size)
	}
	thaw()
	must(t, <-ended)
	if c := s.checkpoint(); c.Size != 4 || len(policy.Cosigned(c)) != 1 {
		t.Errorf("%+v", c)
	}
}
