package events_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

func idempotencyKey() events.IdempotencyKey {
	return events.IdempotencyKey{Scope: "test-user POST /jobs", Key: "k1", Payload: []byte(`{"prompt":"a secret"}`)}
}

// open opens the stream of a new job with the key k.
func (f *fixture) open(ctx context.Context, k events.IdempotencyKey) (events.Stream, error) {
	j := f.newJob()
	err := f.Write(ctx, func(tx *events.Tx) error {
		if err := tx.Claim(ctx, k, f.owner, events.JobStream(j.ID)); err != nil {
			return err
		}
		_, err := tx.AppendJob(ctx, j, completedFacts()[0])
		return err
	})
	return events.JobStream(j.ID), err
}

func TestIdempotencyKeyOpensOneStream(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), idempotencyKey()
	f.SetClaimWait(time.Minute)
	if _, err := f.Opened(t.Context(), k); !errors.Is(err, events.ErrNotFound) {
		t.Fatalf("Opened before any claim: %v, want ErrNotFound", err)
	}
	const requests = 20
	var mu sync.Mutex
	var wg sync.WaitGroup
	var opened []events.Stream
	for range requests {
		wg.Go(func() {
			stream, err := f.open(t.Context(), k)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				opened = append(opened, stream)
			case !errors.Is(err, events.ErrClaimed):
				t.Errorf("concurrent claim: %v, want ErrClaimed", err)
			}
		})
	}
	wg.Wait()
	if len(opened) != 1 {
		t.Fatalf("%d streams opened, want 1", len(opened))
	}
	if again, err := f.Opened(t.Context(), k); err != nil || again != opened[0] {
		t.Errorf("opened %s, %v, want %s", again, err, opened[0])
	}
	var streams int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from events where type = 'job.accepted'`).Scan(&streams); err != nil || streams != 1 {
		t.Errorf("%d streams in the log, want 1, %v", streams, err)
	}
	other := k
	other.Payload = []byte(`{}`)
	if _, err := f.Opened(t.Context(), other); !errors.Is(err, events.ErrKeyReused) {
		t.Errorf("another payload: %v, want ErrKeyReused", err)
	}
	for name, change := range map[string]func(*events.IdempotencyKey){
		"another scope":                  func(k *events.IdempotencyKey) { k.Scope = "other-user POST /jobs" },
		"another key":                    func(k *events.IdempotencyKey) { k.Key = "k2" },
		"another split of scope and key": func(k *events.IdempotencyKey) { k.Scope, k.Key = k.Scope+"k", "1" },
	} {
		other := k
		change(&other)
		if _, err := f.Opened(t.Context(), other); !errors.Is(err, events.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
}

// TestClaimWaitsForAnUncommittedClaim claims a key while another transaction has an
// uncommitted claim of the key. The result of the second claim must depend on the end of
// the first transaction.
func TestClaimWaitsForAnUncommittedClaim(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, c := range map[string]struct {
		end  error // error that rolls back the first transaction, or nil for a commit
		late bool  // true if the first transaction ends only after the second claim has returned
		want error // result of the second claim
	}{
		"first commits":        {nil, false, events.ErrClaimed},
		"first is rolled back": {context.Canceled, false, nil},
		"first stays open":     {nil, true, events.ErrInFlight},
	} {
		t.Run(name, func(t *testing.T) {
			k := idempotencyKey()
			k.Key = name
			f := *f
			f.Store = events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler))
			f.SetClaimWait(time.Minute)
			if c.late {
				f.SetClaimWait(20 * time.Millisecond)
			}
			claimed, end := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				err := f.Write(t.Context(), func(tx *events.Tx) error {
					if err := tx.Claim(t.Context(), k, f.owner, events.JobStream(uuid.New())); err != nil {
						return err
					}
					close(claimed)
					<-end
					return c.end
				})
				if !errors.Is(err, c.end) {
					t.Errorf("first transaction: %v, want %v", err, c.end)
				}
			})
			<-claimed
			waited := make(chan error)
			go func() {
				_, err := f.open(t.Context(), k)
				waited <- err
			}()
			if !c.late {
				f.awaitLockWait(t)
				close(end)
			}
			if err := <-waited; !errors.Is(err, c.want) {
				t.Errorf("second claim: %v, want %v", err, c.want)
			}
			if c.late {
				close(end)
			}
			wg.Wait()
		})
	}
}

// awaitLockWait returns as soon as a connection to the test's database waits for a
// lock.
func (f *fixture) awaitLockWait(t *testing.T) {
	t.Helper()
	for poll := time.NewTicker(5 * time.Millisecond); ; {
		var n int
		err := f.db.Owner.QueryRow(t.Context(), `
			select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return
		}
		select {
		case <-poll.C:
		case <-t.Context().Done():
			t.Fatal("no connection waits")
		}
	}
}

func TestIdempotencyKeyIsRemovedAfterADay(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), idempotencyKey()
	if _, err := f.open(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if err := f.ForgetIdempotencyKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Opened(t.Context(), k); err != nil {
		t.Fatalf("Opened on the same day: %v", err)
	}
	var row string
	if err := f.db.Owner.QueryRow(t.Context(), `select row_to_json(r)::text from idempotency_keys r`).Scan(&row); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{k.Key + `"`, "secret", "test-user"} {
		if strings.Contains(row, secret) {
			t.Errorf("%q in the clear in %s", secret, row)
		}
	}
	if _, err := f.db.Owner.Exec(t.Context(), `update idempotency_keys set created_at = created_at - interval '25 hours'`); err != nil {
		t.Fatal(err)
	}
	if err := f.ForgetIdempotencyKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(t.Context(), k); err != nil {
		t.Errorf("claim on the next day: %v", err)
	}
}

func TestIdempotencyKeyOfAnErasedOwnerIsReused(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), idempotencyKey()
	if _, err := f.open(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if err := f.vault.Erase(t.Context(), f.db.App, f.owner); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Opened(t.Context(), k); !errors.Is(err, events.ErrKeyReused) {
		t.Errorf("Opened after the erasure: %v, want ErrKeyReused", err)
	}
}
