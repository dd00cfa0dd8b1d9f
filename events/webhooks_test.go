package events_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
)

// TestWebhooksAreBounded creates webhooks at once, beyond the largest number of an account.
//
// security: ASVS 2.4.1
func TestWebhooksAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const tries = events.MaxWebhooks + 6
	var created, refused atomic.Int32
	var wg sync.WaitGroup
	for range tries {
		wg.Go(func() {
			switch _, err := f.CreateWebhook(context.Background(), f.owner, "https://example.com/", events.WebhookEvents()); {
			case err == nil:
				created.Add(1)
			case errors.Is(err, events.ErrTooManyWebhooks):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := f.Webhooks(t.Context(), f.owner)
	if err != nil || created.Load() != events.MaxWebhooks || refused.Load() != tries-events.MaxWebhooks || len(all) != events.MaxWebhooks {
		t.Errorf("%d created, %d refused, %d in the list, %v", created.Load(), refused.Load(), len(all), err)
	}
}

// TestOldMessagesAreForgotten has messages of a week ago, and more than a webhook may have.
func TestOldMessagesAreForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w, err := f.CreateWebhook(t.Context(), f.owner, "https://example.com/", events.WebhookEvents())
	if err != nil {
		t.Fatal(err)
	}
	var ids []uuid.UUID
	for range 6 {
		d, err := f.Ping(t.Context(), f.owner, w.ID)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.ID)
	}
	for i, sql := range []string{
		`update webhook_deliveries set state = 'failed', due_at = null, give_up_at = null, ended_at = clock_timestamp() - interval '8 days' where id = $1`,
		`update webhook_deliveries set state = 'failed', due_at = null, give_up_at = null, ended_at = clock_timestamp() - interval '6 days' where id = $1`,
		`update webhook_deliveries set give_up_at = clock_timestamp() - interval '8 days' where id = $1`,
	} {
		if _, err := f.db.Owner.Exec(t.Context(), sql, ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (all []uuid.UUID) {
		t.Helper()
		found, err := f.Deliveries(t.Context(), f.owner, w.ID, "", uuid.Nil, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range slices.Backward(found) {
			all = append(all, d.ID)
		}
		return all
	}
	if err := f.ForgetDeliveries(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := left(), []uuid.UUID{ids[1], ids[3], ids[4], ids[5]}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := f.ForgetDeliveriesBeyond(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if got := left(); !slices.Equal(got, ids[4:]) {
		t.Errorf("%v, want %v", got, ids[4:])
	}
}

// TestOwnersTakeTurns has messages of several owners that are due. The first attempts of all
// owners must precede the second ones, whatever their ids are, and none has more than
// AttemptsPerOwner at a time.
func TestOwnersTakeTurns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	names := map[uuid.UUID]string{}
	message := func(name string, owner uuid.UUID, n int) {
		t.Helper()
		w, err := f.CreateWebhook(t.Context(), owner, "https://example.com/", events.WebhookEvents())
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			d, err := f.Ping(t.Context(), owner, w.ID)
			if err != nil {
				t.Fatal(err)
			}
			names[d.ID] = name
		}
	}
	owners := map[string]uuid.UUID{"busy": f.owner, "first": {0: 1}, "last": uuid.Max}
	for _, name := range []string{"first", "last"} {
		f.register(t, owners[name])
	}
	message("busy", owners["busy"], 10)
	due := func(limit int) (turns []string) {
		t.Helper()
		err := f.Write(t.Context(), func(tx *events.Tx) error {
			found, err := tx.DueDeliveries(t.Context(), limit)
			for i, d := range found {
				turns = append(turns, fmt.Sprint(names[d.ID], " ", d.Turn))
				if err == nil {
					err = tx.QueueDelivery(t.Context(), d.ID, int64(i+1))
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return turns
	}
	if got, want := due(2), []string{"busy 1", "busy 2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	message("last", owners["last"], 3)
	message("first", owners["first"], 2)
	if got, want := due(3), []string{"last 1", "first 1", "last 2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := due(100), []string{"first 2", "busy 3", "last 3", "busy 4"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := due(100); len(got) != 0 {
		t.Errorf("%v are due beyond the limit of their owner", got)
	}
}
