package jobs_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
	"colophon/jobs"
)

// TestGoneDisablesAWebhook answers 410. The webhook must be disabled, its other messages end,
// and the account's events say so.
func TestGoneDisablesAWebhook(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL)
	f.deliver()
	for range 2 {
		if _, err := f.queue.Cancel(t.Context(), f.submit(request), events.JobCancelled{By: "owner"}); err != nil {
			t.Fatal(err)
		}
	}
	r.next(500)
	r.next(410)
	f.untilDelivery(w, func(events.Delivery) bool {
		return !slices.ContainsFunc(f.deliveries(w), func(d events.Delivery) bool { return !ended(d) })
	})
	now, err := f.store.Webhook(t.Context(), f.owner, w.ID)
	if err != nil || now.DisabledFor != events.DisabledGone || now.DisabledAt.IsZero() {
		t.Errorf("%+v, %v", now, err)
	}
	if got, want := f.webhookEvents(), []string{"webhook.created", "webhook.disabled gone"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	failed := f.deliveries(w)
	if _, err := f.store.Resend(t.Context(), f.owner, w.ID, failed[0].ID); !errors.Is(err, events.ErrWebhookDisabled) {
		t.Errorf("sent again: %v", err)
	}
	f.until(f.submit(request), final)
	if all := f.deliveries(w); len(all) != 2 || all[0].State != events.DeliveryFailed || all[1].State != events.DeliveryFailed {
		t.Errorf("%+v", all)
	}
	// A test shows that the receiver is back, and its owner enables the webhook.
	if _, err := f.store.Ping(t.Context(), f.owner, w.ID); err != nil {
		t.Fatal(err)
	}
	if m := r.next(200); m.Type != "webhook.ping" || m.Data.Job != uuid.Nil || m.Data.Webhook != w.ID || !verifies(t, m, w.Keys[0]) {
		t.Errorf("%s", m.body)
	}
	if _, err := f.store.UpdateWebhook(t.Context(), f.owner, w.ID, events.WebhookChange{Enabled: new(true)}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Resend(t.Context(), f.owner, w.ID, failed[0].ID); err != nil {
		t.Fatal(err)
	}
	if m := r.next(200); m.id != failed[0].ID.String() {
		t.Errorf("%s", m.body)
	}
}

// TestDaysOfFailuresDisableAWebhook fails for three days of the database's clock. One day of
// failures ends a message, and three days disable the webhook.
func TestDaysOfFailuresDisableAWebhook(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	f.startClock(0)
	w := f.hook(r.URL)
	f.deliver()
	day := 0
	fails := func(disabled bool) {
		t.Helper()
		f.until(f.submit(request), final)
		r.next(503)
		f.untilDelivery(w, attempted(1))
		day++
		f.db.ShiftClock(t, time.Duration(day)*25*time.Hour)
		r.next(503)
		if d := f.untilDelivery(w, ended); d.State != events.DeliveryFailed || d.Attempts != 2 {
			t.Errorf("%+v", d)
		}
		now, err := f.store.Webhook(t.Context(), f.owner, w.ID)
		if err != nil || now.DisabledAt.IsZero() == disabled || now.FailingSince.IsZero() {
			t.Errorf("day %d: %+v, %v", day, now, err)
		}
	}
	fails(false)
	fails(false)
	fails(true)
	if got, want := f.webhookEvents(), []string{"webhook.created", "webhook.disabled failures"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestPingHasOneAttempt fails a test. It must not be sent again, and not count as a failure.
func TestPingHasOneAttempt(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL)
	f.deliver()
	if _, err := f.store.Ping(t.Context(), f.owner, w.ID); err != nil {
		t.Fatal(err)
	}
	r.next(500)
	if d := f.untilDelivery(w, ended); d.State != events.DeliveryFailed || d.Attempts != 1 || d.Type != events.WebhookPing {
		t.Errorf("%+v", d)
	}
	if now, err := f.store.Webhook(t.Context(), f.owner, w.ID); err != nil || !now.FailingSince.IsZero() || !now.DisabledAt.IsZero() {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestRotatedKeysSignForADay rotates the keys. Both must verify for a day of the database's
// clock, and afterwards the new one alone. A second rotation ends the first keys at once.
func TestRotatedKeysSignForADay(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	f.startClock(0)
	first := f.hook(r.URL)
	f.deliver()
	verified := func() (by [3]bool) {
		t.Helper()
		if _, err := f.store.Ping(t.Context(), f.owner, first.ID); err != nil {
			t.Fatal(err)
		}
		now, err := f.store.Webhook(t.Context(), f.owner, first.ID)
		if err != nil {
			t.Fatal(err)
		}
		m := r.next(200)
		by[0] = verifies(t, m, first.Keys[0])
		for i, k := range now.Keys {
			by[2-i] = verifies(t, m, k)
		}
		return by
	}
	rotate := func() {
		t.Helper()
		if _, err := f.store.RotateWebhook(t.Context(), f.owner, first.ID); err != nil {
			t.Fatal(err)
		}
	}
	rotate()
	if got := verified(); got != [3]bool{true, true, true} {
		t.Errorf("after a rotation: %v", got)
	}
	f.db.ShiftClock(t, 25*time.Hour)
	if got := verified(); got != [3]bool{false, false, true} {
		t.Errorf("after a day: %v", got)
	}
	rotate()
	if got := verified(); got != [3]bool{false, true, true} {
		t.Errorf("after two rotations: %v", got)
	}
}

// TestErasedOwnerHearsNothing erases and disables accounts while their messages wait. Nothing
// may be sent afterwards, and nothing of an erased owner's webhooks may be left.
func TestErasedOwnerHearsNothing(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	f.hook(r.URL)
	f.submit(request)
	if _, err := f.queue.Cancel(t.Context(), f.submit(request), events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	if err := f.store.Write(t.Context(), func(tx *events.Tx) error { return tx.CloseOwner(t.Context(), f.owner) }); err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.CreateWebhook(t.Context(), f.owner, r.URL, events.WebhookEvents()); !errors.Is(err, vault.ErrErased) {
		t.Errorf("a closed owner creates a webhook: %v", err)
	}
	if err := f.queue.Erase(t.Context(), f.owner); err != nil { // cancels the other job
		t.Fatal(err)
	}
	var left int
	if err := f.db.Owner.QueryRow(t.Context(), `select (select count(*) from webhooks) + (select count(*) from webhook_deliveries)`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows are left, %v", left, err)
	}
	f.owner = f.register()
	f.hook(r.URL)
	f.deliver()
	f.until(f.submit(request), final)
	if m := r.next(200); m.Data.State != events.Completed {
		t.Errorf("%s", m.body)
	}
	r.none()
}

// TestRetriesLastADay adds up the waits after failed attempts.
func TestRetriesLastADay(t *testing.T) {
	t.Parallel()
	for range 100 {
		total, failed := time.Duration(0), 1
		for ; total < 24*time.Hour; failed++ {
			wait := jobs.RetryAfter(failed, 0)
			if wait < 4*time.Second || wait > 5*time.Hour {
				t.Fatalf("wait %v after %d attempts", wait, failed)
			}
			total += wait
		}
		if failed < 10 || failed > 15 {
			t.Errorf("%d attempts in a day", failed)
		}
	}
	if got := jobs.RetryAfter(1, time.Hour); got != time.Hour {
		t.Errorf("the receiver asks for an hour: %v", got)
	}
	if got := jobs.RetryAfter(1, 24*time.Hour); got != 4*time.Hour {
		t.Errorf("the receiver asks for a day: %v", got)
	}
	if got := jobs.RetryAfter(1<<30, 0); got > 5*time.Hour {
		t.Errorf("after many attempts: %v", got)
	}
}

// TestClockSetBackDelaysNoMessage sets the database's clock back by an hour while a receiver has
// not answered. The attempt must not keep the message for an hour if its worker dies.
func TestClockSetBackDelaysNoMessage(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	f.startClock(0)
	w := f.hook(r.URL)
	f.deliver()
	f.until(f.submit(request), final)
	r.next(0)
	f.db.ShiftClock(t, -time.Hour)
	f.untilDelivery(w, func(d events.Delivery) bool { return d.DueAt.Sub(f.fromDatabase(databaseClock)) <= time.Minute })
}
