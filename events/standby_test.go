package events_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// TestReplayWaitsForTheStandby freezes the synchronous standby. The caller of an append
// gives up, so the primary commits the job without the standby. A repeated request must
// not return the job before the standby has it.
func TestReplayWaitsForTheStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.NewServer(t)
	owner, err := pg.Connect(t.Context(), primary.URL(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	if err := migrations.Up(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	app, err := pg.Connect(t.Context(), primary.URL(), pgtest.AppRole)
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Store: events.NewStore(app, v, slog.New(slog.DiscardHandler)), vault: v, owner: uuid.Must(uuid.NewV7())}
	f.register(t, f.owner)
	standby := primary.Standby()
	primary.WaitForStandby()

	thaw := standby.Freeze()
	k := idempotencyKey()
	// The caller gives up when the commit of fn waits for the standby.
	late := func(fn func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- fn(ctx) }()
		for waiting := false; !waiting; {
			if len(ended) > 0 {
				t.Fatalf("the commit did not wait for the standby: %v", <-ended)
			}
			if err := owner.QueryRow(t.Context(), `select exists (select from pg_stat_activity where wait_event = 'SyncRep')`).Scan(&waiting); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
	}
	late(func(ctx context.Context) error { _, err := f.open(ctx, k); return err })
	for seen := 0; seen == 0; { // the server commits when it learns that the caller has left
		if err := owner.QueryRow(t.Context(), `select count(*) from idempotency_keys`).Scan(&seen); err != nil {
			t.Fatal(err)
		}
	}
	late(func(ctx context.Context) error { _, err := f.Opened(ctx, k); return err })
	thaw()
	if _, err := f.Opened(t.Context(), k); err != nil {
		t.Error(err)
	}
}
