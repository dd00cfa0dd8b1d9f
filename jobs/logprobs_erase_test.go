package jobs_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"colophon/events"
	"colophon/jobs"
)

// TestCopyOfATextAgesWithTheText computes the log probabilities of a text that is nearly old
// enough to be erased, and those of that copy. Both copies must be erased when the text is.
func TestCopyOfATextAgesWithTheText(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.startClock(0)
	e := newEngine()
	stop := f.work(e)
	past := f.until(f.submit(request), final)
	f.startClock(29 * 24 * time.Hour)
	first := f.logprobsOf(past, 1)
	second := f.logprobsOf(first, 2)
	fresh := f.until(f.submit(request), final)
	f.awaitIdle(e)
	stop()
	queued, err := f.queue.SubmitLogprobs(t.Context(), second, 0, jobs.Request{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range []events.Job{first, second, queued} {
		if !j.TextAt.Equal(past.FinishedAt) {
			t.Errorf("text of %v, want %v", j.TextAt, past.FinishedAt)
		}
	}
	const month = 30 * 24 * time.Hour
	quiet := slog.New(slog.DiscardHandler)
	erased := func(want bool, all ...events.Job) {
		t.Helper()
		if err := jobs.EraseOld(t.Context(), f.store, month, quiet); err != nil {
			t.Fatal(err)
		}
		for _, j := range all {
			if now, err := f.store.Job(t.Context(), j.ID); err != nil || now.ErasedAt.IsZero() == want {
				t.Errorf("%s: %+v, %v", j.ID, now, err)
			}
		}
	}
	erased(false, past, first, second)
	f.startClock(31 * 24 * time.Hour)
	erased(true, past, first, second)
	erased(false, fresh, queued)
	f.work(e)
	if now := f.until(queued, final); now.State == events.Completed {
		t.Errorf("%+v", now)
	}
	erased(true, queued)
	erased(false, fresh)
	if r, err := f.store.RebuildHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
		t.Errorf("%d rows wrong, first %v, %v", r.Wrong, r.First, err)
	}
}

// TestErasureDuringTheSubmitLeavesNoCopy erases a job while the log probabilities of its text
// are requested. If the erasure is first, no job may be accepted; otherwise it must wait.
func TestErasureDuringTheSubmitLeavesNoCopy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.work(newEngine())
	past := f.until(f.submit(request), final)
	wait := func() {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			var waiting bool
			err := f.db.Owner.QueryRow(t.Context(), `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&waiting)
			if err != nil || time.Now().After(end) {
				t.Fatal("nobody waits for the lock", err)
			}
			if waiting {
				return
			}
		}
	}
	errUndone := errors.New("undone")
	for _, c := range []struct {
		undo, want error
	}{{errUndone, nil}, {nil, jobs.ErrNoRepeatableText}} {
		submitted := make(chan error, 1)
		err := f.store.Write(t.Context(), func(tx *events.Tx) error {
			if _, err := tx.AppendJob(t.Context(), past, events.JobErased{By: "owner", CompletionTokens: past.Generated()}); err != nil {
				return err
			}
			go func() {
				_, err := f.queue.SubmitLogprobs(context.WithoutCancel(t.Context()), past, 1, jobs.Request{})
				submitted <- err
			}()
			wait()
			return c.undo
		})
		if !errors.Is(err, c.undo) {
			t.Fatal(err)
		}
		if err := <-submitted; !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
	var copies int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from history where text_at is not null`).Scan(&copies); err != nil || copies != 1 {
		t.Errorf("%d copies, %v, want the one before the erasure", copies, err)
	}

	past = f.until(f.submit(request), final)
	erased := make(chan error, 1)
	err := f.store.Write(t.Context(), func(tx *events.Tx) error {
		if held, err := tx.HoldText(t.Context(), past.ID); err != nil || !held {
			return errors.Join(err, errUndone)
		}
		go func() {
			_, err := f.queue.EraseJob(context.WithoutCancel(t.Context()), past)
			erased <- err
		}()
		wait()
		_, err := tx.AppendJob(t.Context(), events.Job{ID: f.store.NewID(), Owner: f.owner}, events.JobAccepted{Prompt: "p", PromptTokens: 1, Model: "m", Policy: "p"})
		return err
	})
	if err := errors.Join(err, <-erased); err != nil {
		t.Fatal(err)
	}
	err = f.store.Write(t.Context(), func(tx *events.Tx) error {
		if held, err := tx.HoldText(t.Context(), past.ID); err != nil || held {
			t.Errorf("an erased text is held: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
