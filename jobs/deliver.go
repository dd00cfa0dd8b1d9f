package jobs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"colophon/events"
	"colophon/internal/periodic"
	"colophon/internal/webhook"
	"colophon/migrations"
)

// Messages to webhooks are rows that the database makes in the transaction that ends a job
// (migration 30), whatever program appends the event. A worker that delivers looks for messages
// that are due and queues an attempt at each. The row decides, and not the queue entry: an
// attempt whose worker has died gives way to another one after half a minute. So every message
// is sent at least once, and messages about one job to one webhook are sent in order. The
// priority of an attempt is the number of attempts of its owner at a time, so an owner's first
// one goes before another's second.

// deliverQueue is the name of the queue of attempts. Jobs are in River's default queue, so that
// slow receivers hold up no job.
const deliverQueue = "webhooks"

const (
	// dueEvery is the interval of the search for messages that are due.
	dueEvery = 250 * time.Millisecond

	dueBatch = 100 // maximum number of attempts that one search queues

	// firstRetry is the wait after the first failed attempt. Each wait is retryGrowth times as
	// long as the one before it, up to maxRetry: 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, and then
	// every four hours, until a day is over.
	firstRetry, retryGrowth, maxRetry = 5 * time.Second, 4, 4 * time.Hour
)

// newAttempt is the announcement of a new queue entry of an attempt.
var newAttempt = events.Announcement{Channel: newEntry.Channel, Payload: `{"queue":"` + deliverQueue + `"}`}

// deliverArgs is the content of a queue entry.
type deliverArgs struct {
	Delivery uuid.UUID `json:"delivery"`
}

func (deliverArgs) Kind() string { return "deliver" }

// Deliver makes the worker send messages to webhooks, up to slots at a time, apart from its
// jobs. It calls observe after each attempt with the reason of its failure, or with an empty
// text. Call Deliver before Start.
func (w *Worker) Deliver(sender *webhook.Sender, slots int, observe func(reason string, took time.Duration)) error {
	river.AddWorker(w.kinds, &deliver{Worker: w, sender: sender, observe: observe})
	if err := w.river.Queues().Add(deliverQueue, river.QueueConfig{MaxWorkers: slots}); err != nil {
		return fmt.Errorf("add the queue of webhooks: %w", err)
	}
	w.delivers = true
	return nil
}

// runQueueDue queues attempts that are due until ctx is done.
func (w *Worker) runQueueDue(ctx context.Context) {
	periodic.Run(ctx, dueEvery, w.log, "messages to webhooks not queued, retrying", w.queueDue)
}

// queueDue queues an attempt at each message that is due. The entry of an attempt that has not
// ended in time is closed.
func (w *Worker) queueDue(ctx context.Context) error {
	for full := true; full; {
		err := w.store.Write(ctx, func(tx *events.Tx) error {
			due, err := tx.DueDeliveries(ctx, dueBatch)
			full = len(due) == dueBatch
			if err != nil || len(due) == 0 {
				return err
			}
			for _, d := range due {
				if d.Entry != 0 {
					_, err := tx.Exec(ctx, `
						update `+migrations.RiverJobs+` set state = 'cancelled', finalized_at = clock_timestamp()
						where id = $1 and state in ('available', 'scheduled', 'retryable', 'running')`, d.Entry)
					if err != nil {
						return err
					}
				}
				inserted, err := w.insert.InsertTx(ctx, tx.Tx, deliverArgs{d.ID}, &river.InsertOpts{Queue: deliverQueue, MaxAttempts: 1, Priority: d.Turn})
				if err != nil {
					return err
				}
				if err := tx.QueueDelivery(ctx, d.ID, inserted.Job.ID); err != nil {
					return err
				}
			}
			tx.Announce(newAttempt)
			return nil
		})
		if err != nil {
			return fmt.Errorf("queue messages to webhooks: %w", err)
		}
	}
	return nil
}

// deliver implements river.Worker.
type deliver struct {
	river.WorkerDefaults[deliverArgs]
	*Worker
	sender  *webhook.Sender
	observe func(reason string, took time.Duration)
}

// Timeout removes River's limit, because the sender has one. It also turns off River's rescue:
// queueDue closes the entries of dead workers.
func (d *deliver) Timeout(*river.Job[deliverArgs]) time.Duration { return -1 }

// Work makes one attempt at a message. It returns no error, because the message's row has the
// result. Log records have no URLs and no keys.
func (d *deliver) Work(ctx context.Context, rj *river.Job[deliverArgs]) error {
	log := d.log.With("delivery", rj.Args.Delivery)
	a, err := d.store.BeginAttempt(ctx, rj.Args.Delivery, rj.ID)
	if errors.Is(err, events.ErrNotFound) {
		return nil
	}
	if err != nil {
		// The message becomes due again by itself.
		log.WarnContext(ctx, "message to a webhook not read, left to another attempt", "err", err)
		return nil
	}
	body, err := a.Body()
	if err != nil {
		return err
	}
	keys := make([]webhook.Key, len(a.Keys))
	for i, k := range a.Keys {
		keys[i] = webhook.Key(k)
	}
	sent, err := d.sender.Send(ctx, a.URL, webhook.Message{ID: a.ID.String(), Body: body}, d.store.Clock().Now(), keys)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err != nil {
		// The worker is stopping. The receiver may or may not have the message.
		if err := d.store.DropAttempt(ending, a); err != nil {
			log.WarnContext(ctx, "message to a webhook not put back, left to another attempt", "err", err)
		}
		return nil
	}
	if d.observe != nil {
		d.observe(string(sent.Reason), sent.Took)
	}
	disabled, err := d.store.EndAttempt(ending, a, events.AttemptResult{
		Status: sent.Status, Reason: string(sent.Reason), Took: sent.Took, Gone: sent.Reason == webhook.Gone, Again: retryAfter(a.Attempts+1, sent.RetryAfter), Anew: retryAfter(1, sent.RetryAfter),
	})
	switch {
	case err != nil && !errors.Is(err, events.ErrNotFound):
		log.WarnContext(ctx, "result of a message to a webhook not recorded, to be sent again", "err", err)
	case disabled:
		log.InfoContext(ctx, "webhook disabled", "webhook", a.Webhook, "reason", sent.Reason)
	}
	return nil
}

// retryAfter returns the wait after the given number of failed attempts. It is not shorter than
// the receiver asks for, up to maxRetry. Jitter changes it by up to a fifth, so that messages
// that have failed together are not sent again together.
func retryAfter(failed int, asked time.Duration) time.Duration {
	wait := firstRetry
	for i := 1; i < failed && wait < maxRetry; i++ {
		wait *= retryGrowth
	}
	wait = min(wait, maxRetry)
	wait += rand.N(2*wait/5) - wait/5
	return max(wait, min(asked, maxRetry))
}
