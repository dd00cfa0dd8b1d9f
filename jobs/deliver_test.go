package jobs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/migrations"
)

// TestEndedJobIsAnnounced completes a job. Its message must verify and have no text, and the
// queue entry must have the message's id alone.
func TestEndedJobIsAnnounced(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL + "/hook?token=secret")
	f.deliver()
	j := f.until(f.submit(request), final)
	m := r.next(204)
	if !verifies(t, m, w.Keys[0]) {
		t.Errorf("not verified: %v", m.header)
	}
	stamp, err := time.Parse(time.RFC3339Nano, m.timestamp(t))
	if err != nil || !stamp.Equal(j.FinishedAt) {
		t.Errorf("%v, %v, want %v", stamp, err, j.FinishedAt)
	}
	want := fmt.Sprintf(`{"type":"job.completed","timestamp":%q,"data":{"job":%q,"state":"completed","version":%d,"webhook":%q}}`,
		m.timestamp(t), j.ID, j.Version, w.ID)
	if m.body != want {
		t.Errorf("%s, want %s", m.body, want)
	}
	d := f.untilDelivery(w, ended)
	if d.State != events.DeliveryDelivered || d.ID.String() != m.id || d.Attempts != 1 || d.Status != 204 || d.Reason != "" || d.Job != j.ID || d.AttemptedAt.IsZero() || d.EndedAt.IsZero() {
		t.Errorf("%+v", d)
	}
	var args string
	if err := f.db.Owner.QueryRow(t.Context(), `select args::text from `+migrations.RiverJobs+` where kind = 'deliver'`).Scan(&args); err != nil || args != `{"delivery": "`+m.id+`"}` {
		t.Errorf("%s, %v", args, err)
	}
}

func (m message) timestamp(t testing.TB) string {
	t.Helper()
	var stamp struct{ Timestamp string }
	if err := json.Unmarshal([]byte(m.body), &stamp); err != nil {
		t.Fatal(err)
	}
	return stamp.Timestamp
}

// TestEveryEndMakesAMessage ends jobs in every way, also with the store alone, as a process
// of another release does. A failed attempt that is not final must make no message.
func TestEveryEndMakesAMessage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.hook("https://example.com/")
	other := f.hook("https://example.com/", "job.failed")
	disabled := f.hook("https://example.com/")
	if _, err := f.store.UpdateWebhook(t.Context(), f.owner, disabled.ID, events.WebhookChange{Enabled: new(false)}); err != nil {
		t.Fatal(err)
	}
	want := map[uuid.UUID]string{}
	end := func(kind string, facts ...events.Fact) {
		t.Helper()
		j, err := f.store.AppendJob(t.Context(), f.submit(request), facts...)
		if err != nil {
			t.Fatal(err)
		}
		if kind != "" {
			want[j.ID] = kind
		}
	}
	started := events.JobStarted{Attempt: 1, Worker: "w", Weights: "sha256:00/f32", Kernel: "k"}
	end("job.completed", started, events.JobCompleted{FinishReason: "stop"})
	end("job.failed", started, events.JobFailed{Attempt: 1, Reason: "r", Final: true})
	end("", started, events.JobFailed{Attempt: 1, Reason: `"final":true`})
	end("job.cancelled", events.JobCancelled{By: "owner"})
	for _, finish := range []func(events.Job) (events.Job, error){
		func(j events.Job) (events.Job, error) {
			return f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"})
		},
		func(j events.Job) (events.Job, error) { return f.queue.EraseJob(t.Context(), j) },
	} {
		j, err := finish(f.submit(request))
		if err != nil {
			t.Fatal(err)
		}
		want[j.ID] = "job.cancelled"
	}
	// A transaction that is rolled back makes nothing, and a stranger's job neither.
	j := f.submit(request)
	rolledBack := errors.New("rolled back")
	err := f.store.Write(t.Context(), func(tx *events.Tx) error {
		if _, err := tx.AppendJob(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
			return err
		}
		return rolledBack
	})
	if !errors.Is(err, rolledBack) {
		t.Fatal(err)
	}
	stranger, err := f.queue.Submit(t.Context(), f.register(), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.queue.Cancel(t.Context(), stranger, events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	got := map[uuid.UUID]string{}
	for _, d := range f.deliveries(w) {
		got[d.Job] = d.Type
	}
	if !maps.Equal(got, want) {
		t.Errorf("messages %v, want %v", got, want)
	}
	if all := f.deliveries(other); len(all) != 1 || all[0].Type != "job.failed" {
		t.Errorf("%+v", all)
	}
	if all := f.deliveries(disabled); len(all) != 0 {
		t.Errorf("a disabled webhook hears of %+v", all)
	}
}

// TestFailedMessagesAreSentAgain answers with errors. The same message must arrive again with
// the same id, and its job must not wait for it.
func TestFailedMessagesAreSentAgain(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL)
	f.deliver()
	j := f.until(f.submit(request), final)
	first := ""
	for i := range 3 {
		m := r.next(500)
		if first == "" {
			first = m.body
		}
		d := f.untilDelivery(w, attempted(i+1))
		if wait := d.DueAt.Sub(d.AttemptedAt); wait < time.Hour || wait > time.Hour+time.Minute {
			t.Errorf("the wait after attempt %d is %v, and the receiver has asked for an hour", i+1, wait)
		}
		if d.State != events.DeliveryWaiting || d.Status != 500 || d.Reason != "status" || m.id != d.ID.String() || m.body != first {
			t.Errorf("%+v, %s", d, m.body)
		}
		f.hurry()
	}
	r.next(200)
	if d := f.untilDelivery(w, ended); d.State != events.DeliveryDelivered || d.Attempts != 4 || d.Job != j.ID {
		t.Errorf("%+v", d)
	}
	now, err := f.store.Webhook(t.Context(), f.owner, w.ID)
	if err != nil || !now.FailingSince.IsZero() {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestMessagesOfAJobKeepTheirOrder has two messages about one job. The second one must wait
// until the first has ended, while another job's goes on.
func TestMessagesOfAJobKeepTheirOrder(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL)
	j := f.submit(request)
	if _, err := f.queue.Cancel(t.Context(), j, events.JobCancelled{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	// No job has two such events yet, so the second message is made here.
	if _, err := f.db.Owner.Exec(t.Context(), `
		insert into webhook_deliveries (id, webhook, owner, type, job, version, happened_at, due_at, give_up_at)
		select gen_random_uuid(), webhook, owner, 'job.completed', job, version + 1, happened_at, due_at, give_up_at from webhook_deliveries`); err != nil {
		t.Fatal(err)
	}
	f.deliver()
	m := r.next(500)
	if m.Type != "job.cancelled" {
		t.Errorf("first %s", m.body)
	}
	other := f.until(f.submit(request), final)
	if m := r.next(200); m.Data.Job != other.ID {
		t.Errorf("%s, want the other job's message", m.body)
	}
	f.hurry()
	if m := r.next(200); m.Data.Job != j.ID || m.Type != "job.cancelled" {
		t.Errorf("%s, want the first message again", m.body)
	}
	if m := r.next(200); m.Data.Job != j.ID || m.Type != "job.completed" {
		t.Errorf("%s, want the second message", m.body)
	}
	f.untilDelivery(w, ended)
}

// TestSlowReceiversDelayNobodyElse has two owners whose receivers do not answer, with more
// messages than there are slots. Only so many of an owner's messages may be under way, and
// another owner's must be sent.
//
// security: ASVS 2.4.1, API4:2023
func TestSlowReceiversDelayNobodyElse(t *testing.T) {
	t.Parallel()
	f, quick := newFixture(t), newReceiver(t)
	const slots, messages = 16, 10
	slow := []*receiver{newReceiver(t), newReceiver(t)}
	owners := []uuid.UUID{f.owner, f.register()}
	hooks := make([][]events.Webhook, len(owners))
	for i, r := range slow {
		f.owner = owners[i]
		hooks[i] = []events.Webhook{f.hook(r.URL), f.hook(r.URL)}
		for range messages / 2 {
			if _, err := f.queue.Cancel(t.Context(), f.submit(request), events.JobCancelled{By: "owner"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.owner = f.register()
	f.hook(quick.URL)
	f.deliverSlots(slots)
	open := make([][]message, len(slow))
	for i, r := range slow {
		for range events.AttemptsPerOwner {
			open[i] = append(open[i], r.next(0))
		}
	}
	for range 3 {
		f.until(f.submit(request), final) // jobs have slots of their own
		quick.next(200)
	}
	for i, r := range slow {
		r.none()
		for _, m := range open[i] {
			select {
			case <-m.ended:
				t.Error("the third owner's messages have waited for the end of a slow attempt")
			default:
			}
			m.answer <- 200
		}
		for range messages - events.AttemptsPerOwner {
			r.next(200)
		}
		f.owner = owners[i]
		for _, w := range hooks[i] {
			f.untilDelivery(w, ended)
		}
	}
}

// TestResentMessageBeginsAnew sends messages again: one that has failed often and waits, one
// that was delivered, and one whose attempt is under way. Each must be sent at once, and wait
// after a failure as after the first one.
func TestResentMessageBeginsAnew(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	r.asks = "30"
	w := f.hook(r.URL)
	f.deliver()
	f.until(f.submit(request), final)
	id := uuid.UUID{}
	for n := range 4 {
		r.next(500)
		id = f.untilDelivery(w, attempted(n+1)).ID
		if n < 3 {
			f.hurry()
		}
	}
	resend := func() events.Delivery {
		t.Helper()
		d, err := f.store.Resend(t.Context(), f.owner, w.ID, id)
		if err != nil || d.State != events.DeliveryWaiting || d.Attempts != 0 {
			t.Fatalf("%+v, %v", d, err)
		}
		return d
	}
	failsOnce := func(what string) {
		t.Helper()
		d := f.untilDelivery(w, attempted(1))
		if wait := d.DueAt.Sub(d.AttemptedAt); d.Attempts != 1 || wait > time.Minute {
			t.Errorf("%s: %v until the next attempt, after %d", what, wait, d.Attempts)
		}
	}
	first := resend()
	r.next(500)
	failsOnce("a waiting message")
	f.setAttempts(w, 9)
	f.hurry()
	m := r.next(0)
	resend()
	m.answer <- 500
	failsOnce("a message under way")
	resend()
	r.next(200)
	f.untilDelivery(w, ended)
	if again := resend(); again.ID != first.ID || again.AttemptedAt.IsZero() {
		t.Errorf("%+v", again)
	}
	r.next(500)
	failsOnce("a delivered message")
}

// TestStoppedWorkerPutsMessagesBack stops a worker while a receiver has not answered. Another
// worker must send the message at once.
func TestStoppedWorkerPutsMessagesBack(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL)
	stop := f.deliver()
	f.until(f.submit(request), final)
	first := r.next(0)
	stop()
	if d := f.untilDelivery(w, func(events.Delivery) bool { return true }); d.State != events.DeliveryWaiting || d.Attempts != 0 {
		t.Errorf("%+v", d)
	}
	f.deliver()
	if m := r.next(200); m.id != first.id || m.body != first.body {
		t.Errorf("%s, want %s again", m.body, first.body)
	}
	f.untilDelivery(w, ended)
}

// TestFrozenAttemptIsReplaced lets the time of an attempt pass while its receiver has not
// answered, as when its worker has died. The message must be sent again, and the result of the
// first attempt must change nothing.
func TestFrozenAttemptIsReplaced(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), newReceiver(t)
	w := f.hook(r.URL)
	f.deliver()
	f.until(f.submit(request), final)
	first := r.next(0)
	f.hurry()
	second := r.next(0)
	first.answer <- 500
	second.answer <- 200
	if d := f.untilDelivery(w, ended); first.id != second.id || d.State != events.DeliveryDelivered || d.Attempts != 1 {
		t.Errorf("%s and %s: %+v", first.id, second.id, d)
	}
	var open int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from `+migrations.RiverJobs+` where kind = 'deliver' and state = 'available'`).Scan(&open); err != nil || open != 0 {
		t.Errorf("%d entries are open, %v", open, err)
	}
}
