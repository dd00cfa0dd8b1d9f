package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/vault"
)

const (
	// AttemptsPerOwner is the number of attempts of one owner that are queued or under way at
	// a time, so that the slow receivers of one owner delay nobody else. It is the number of
	// River's priorities, because the turn of an attempt is its priority.
	AttemptsPerOwner = 4

	// queuedFor and sendingFor are the times after which an attempt that has not begun, or not
	// ended, gives way to another one. Its process may have died.
	queuedFor, sendingFor = time.Minute, 30 * time.Second

	// failuresFor is the time of failed attempts after which a webhook is disabled.
	failuresFor = 3 * 24 * time.Hour
)

// DueDelivery is a message whose next attempt is due.
type DueDelivery struct {
	ID    uuid.UUID
	Entry int64 // id of the queue entry of an attempt that has not ended in time, or 0
	Turn  int   // number of attempts of the owner that are queued or under way, this one included
}

// DueDeliveries returns up to limit messages that are due. The first attempts of all owners
// precede the second ones, and so on; within that, the message that is due for the longest time
// is first. A message is due after all earlier messages about the same job to the same webhook
// have ended. Only one transaction at a time gets messages. The caller queues each message and
// calls QueueDelivery in the same transaction.
func (tx *Tx) DueDeliveries(ctx context.Context, limit int) ([]DueDelivery, error) {
	var first bool
	if err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(hashtextextended('messages to webhooks', 0))`).Scan(&first); err != nil || !first {
		return nil, err
	}
	// The recursion finds the owners with waiting messages, with one look at the index for each.
	rows, _ := tx.Query(ctx, `
		with recursive owners (owner) as (
			(select owner from webhook_deliveries where state = 'waiting' order by owner limit 1)
			union all
			select (select d.owner from webhook_deliveries d where d.state = 'waiting' and d.owner > owners.owner order by d.owner limit 1)
			from owners where owners.owner is not null)
		select due.id, coalesce(due.entry, 0), (busy.attempts + due.nth)::integer from owners cross join lateral (
			select count(*) as attempts from webhook_deliveries b
			where b.owner = owners.owner and b.state = 'waiting' and b.entry is not null and b.due_at > clock_timestamp()) as busy
		cross join lateral (
			select *, row_number() over (order by due_at, number) as nth from (
				select id, entry, due_at, number from webhook_deliveries d
				where d.owner = owners.owner and state = 'waiting' and due_at <= clock_timestamp() and not exists (
					select from webhook_deliveries e where e.webhook = d.webhook and e.job = d.job and e.state = 'waiting' and e.number < d.number)
				order by due_at, number
				limit greatest(0, $2 - busy.attempts)) as few) as due
		where owners.owner is not null
		order by 3, due.due_at, due.number limit $1`, limit, AttemptsPerOwner)
	due, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DueDelivery])
	if err != nil {
		return nil, fmt.Errorf("find messages that are due: %w", err)
	}
	return due, nil
}

// QueueDelivery notes that an attempt at a message is queued, under the id of its queue entry.
func (tx *Tx) QueueDelivery(ctx context.Context, id uuid.UUID, entry int64) error {
	_, err := tx.Exec(ctx, `update webhook_deliveries set entry = $2, due_at = clock_timestamp() + $3::interval where id = $1 and state = 'waiting'`, id, entry, queuedFor)
	if err != nil {
		return fmt.Errorf("note that a message is queued: %w", err)
	}
	return nil
}

// Attempt is an attempt at a message that its caller makes.
type Attempt struct {
	Delivery
	URL   string
	Keys  []WebhookKey // keys that sign, the latest first
	Entry int64        // id of the queue entry
}

// Body returns the message. It has ids and the state of the job, and no text. A message about a
// response has the form of OpenAI's API.
func (a Attempt) Body() ([]byte, error) {
	if strings.HasPrefix(a.Type, responseEvents) {
		return json.Marshal(struct {
			ID        string            `json:"id"`
			Object    string            `json:"object"`
			CreatedAt int64             `json:"created_at"`
			Type      string            `json:"type"`
			Data      map[string]string `json:"data"`
		}{"evt_" + a.ID.String(), "event", a.HappenedAt.Unix(), a.Type, map[string]string{"id": ResponsePrefix + a.Job.String()}})
	}
	data := map[string]any{"webhook": a.Webhook}
	if a.Type != WebhookPing {
		data["job"], data["version"] = a.Job, a.Version
		data["state"] = finalState(a.Type)
	}
	return json.Marshal(struct {
		Type      string         `json:"type"`
		Timestamp string         `json:"timestamp"`
		Data      map[string]any `json:"data"`
	}{a.Type, a.HappenedAt.Format(timeFormat), data})
}

// finalState returns the state of a job after the event of the given type that ends it.
func finalState(kind string) State {
	switch kind {
	case JobCompleted{}.Type():
		return Completed
	case JobFailed{}.Type():
		return Failed
	}
	return Cancelled
}

// BeginAttempt returns the attempt at a message that is queued under the given entry. It
// returns ErrNotFound if another entry has taken its place, or the message has ended or is
// gone.
func (s *Store) BeginAttempt(ctx context.Context, id uuid.UUID, entry int64) (Attempt, error) {
	a, err := s.beginAttempt(ctx, id, entry)
	if errors.Is(err, vault.ErrUnreadable) {
		a, err = s.beginAttempt(ctx, id, entry) // the owner's key may have been replaced between the reads
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return a, ErrNotFound
	}
	if err != nil {
		return a, fmt.Errorf("begin an attempt at message %s: %w", id, err)
	}
	return a, nil
}

func (s *Store) beginAttempt(ctx context.Context, id uuid.UUID, entry int64) (Attempt, error) {
	// A message that was made while its webhook was being disabled ends here.
	_, err := s.pool.Exec(ctx, `
		update webhook_deliveries d set state = 'failed', due_at = null, give_up_at = null, entry = null, ended_at = clock_timestamp()
		from webhooks w where d.id = $1 and d.state = 'waiting' and w.id = d.webhook and w.disabled_at is not null and d.type <> $2`, id, WebhookPing)
	if err != nil {
		return Attempt{}, err
	}
	a, w := Attempt{Entry: entry}, sealedWebhook{}
	toDelivery, endDelivery := a.dest()
	toWebhook, endWebhook := w.dest()
	err = s.pool.QueryRow(ctx, `
		update webhook_deliveries d set due_at = clock_timestamp() + $3::interval
		from webhooks w where d.id = $1 and d.entry = $2 and d.state = 'waiting' and w.id = d.webhook
		returning `+deliveryColumns+`, `+webhookColumns, id, entry, sendingFor).
		Scan(append(toDelivery, toWebhook...)...)
	if err != nil {
		return a, err
	}
	endDelivery()
	endWebhook()
	opened, err := s.unseal(ctx, s.pool, w)
	if err != nil {
		return a, err
	}
	a.URL, a.Keys = opened.URL, opened.Keys
	if !opened.PreviousSign {
		a.Keys = a.Keys[:1]
	}
	return a, nil
}

// AttemptResult says how an attempt has ended.
type AttemptResult struct {
	Status int    // status of the answer, or 0 without one
	Reason string // why the attempt failed, or empty
	Took   time.Duration
	Gone   bool          // the receiver wants no further messages
	Again  time.Duration // wait before another attempt
	Anew   time.Duration // wait before another attempt if the message was sent again during this one
}

// EndAttempt records the result of an attempt. After a failure the message waits for another
// attempt, or ends when its time is over. EndAttempt disables the webhook if the receiver
// wants no further messages, or if a message ends without success after attempts have failed
// for three days. It returns ErrNotFound if another attempt has taken its place.
func (s *Store) EndAttempt(ctx context.Context, a Attempt, r AttemptResult) (disabled bool, err error) {
	err = s.Write(ctx, func(tx *Tx) error {
		disabled, err = tx.endAttempt(ctx, a, r)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("end an attempt at message %s: %w", a.ID, err)
	}
	return disabled && err == nil, err
}

func (tx *Tx) endAttempt(ctx context.Context, a Attempt, r AttemptResult) (disabled bool, err error) {
	var owner uuid.UUID
	var failing, used bool
	err = tx.QueryRow(ctx, `
		select owner, coalesce(failing_since <= clock_timestamp() - $2::interval, false), disabled_at is null from webhooks where id = $1 for no key update`,
		a.Webhook, failuresFor).Scan(&owner, &failing, &used)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, ErrNotFound
	}
	if err != nil {
		return false, err
	}
	var state DeliveryState
	err = tx.QueryRow(ctx, `
		with ending as (
			select *, case when $5 = '' then 'delivered' when $8 or clock_timestamp() + wait >= give_up_at then 'failed' else 'waiting' end as state from (
				select id, give_up_at, case attempts when $9 then $7::interval else $10::interval end as wait
				from webhook_deliveries where id = $1 and entry = $2 and state = 'waiting' for update) as attempted)
		update webhook_deliveries d set
			state = e.state, attempts = attempts + 1, attempted_at = clock_timestamp() - $6::interval,
			attempt_status = nullif($3, 0), attempt_reason = nullif($5, ''), attempt_ms = $4, entry = null,
			due_at = case when e.state = 'waiting' then clock_timestamp() + e.wait end,
			give_up_at = case when e.state = 'waiting' then d.give_up_at end,
			ended_at = case when e.state <> 'waiting' then clock_timestamp() end
		from ending e where d.id = e.id returning d.state`,
		a.ID, a.Entry, r.Status, r.Took.Milliseconds(), r.Reason, r.Took, r.Again, r.Gone, a.Attempts, r.Anew).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, ErrNotFound
	}
	if err != nil {
		return false, err
	}
	if r.Reason == "" {
		_, err = tx.Exec(ctx, `update webhooks set failing_since = null where id = $1 and failing_since is not null`, a.Webhook)
		return false, err
	}
	if a.Type != WebhookPing { // a test does not count
		if _, err := tx.Exec(ctx, `update webhooks set failing_since = clock_timestamp() where id = $1 and failing_since is null`, a.Webhook); err != nil {
			return false, err
		}
	}
	fact := WebhookDisabled{Webhook: a.Webhook, Reason: DisabledFailures}
	if r.Gone {
		fact.Reason = DisabledGone
	} else if !failing || state != DeliveryFailed || a.Type == WebhookPing {
		return false, nil
	}
	if !used {
		return false, nil
	}
	if _, err := tx.Exec(ctx, `update webhooks set disabled_at = clock_timestamp(), disabled_for = $2 where id = $1`, a.Webhook, fact.Reason); err != nil {
		return false, err
	}
	return true, tx.AppendAccount(ctx, owner, fact)
}

// DropAttempt makes a message due at once, after an attempt that was cut off before its end.
func (s *Store) DropAttempt(ctx context.Context, a Attempt) error {
	_, err := s.pool.Exec(ctx, `update webhook_deliveries set due_at = clock_timestamp(), entry = null where id = $1 and entry = $2 and state = 'waiting'`, a.ID, a.Entry)
	if err != nil {
		return fmt.Errorf("drop an attempt at message %s: %w", a.ID, err)
	}
	return nil
}

// QueueMending adds a statement to the batch that corrects the times of attempts that lie too far
// in the future because the database's clock was set back. Otherwise a dead worker's message
// would wait for as long as the clock was set back.
func QueueMending(batch *pgx.Batch) {
	batch.Queue(`
		update webhook_deliveries set due_at = clock_timestamp() + $1::interval
		where state = 'waiting' and entry is not null and due_at > clock_timestamp() + $1::interval`, queuedFor)
}

// DeliveryLag returns how long the message that is due for the longest time has waited since
// then; 0 if none is due.
func DeliveryLag(ctx context.Context, pool *pgxpool.Pool) (lag time.Duration, err error) {
	err = pool.QueryRow(ctx, `
		select coalesce(greatest(clock_timestamp() - min(due_at), '0'), '0') from webhook_deliveries where state = 'waiting'`).Scan(&lag)
	if err != nil {
		return 0, fmt.Errorf("read the age of the oldest message: %w", err)
	}
	return lag, nil
}
