package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/errcode"
	"colophon/internal/pg"
)

// DeliveryState is the state of a message to a webhook.
type DeliveryState string

// The states of a message.
const (
	DeliveryWaiting   DeliveryState = "waiting"   // for its first attempt, for another one, or under way
	DeliveryDelivered DeliveryState = "delivered" // the receiver has answered 2xx
	DeliveryFailed    DeliveryState = "failed"    // no further attempt will be made
)

// ErrWebhookDisabled occurs when a message is to be sent again to a disabled webhook.
var ErrWebhookDisabled = errcode.New("webhook_disabled", "the webhook is disabled")

// WebhookPing is the type of a message that a user requests as a test.
const WebhookPing = "webhook.ping"

const (
	// KeepDeliveries is the time after its end for which a message stays in the list.
	KeepDeliveries = 7 * 24 * time.Hour

	// MaxDeliveries is the number of messages of a webhook beyond which the oldest are
	// removed, waiting ones too.
	MaxDeliveries = 10_000

	// deliveryTime is the time from the making of a message to its last attempt. The database's
	// function make_deliveries has it too.
	deliveryTime = 24 * time.Hour
)

// Delivery is a message to a webhook.
type Delivery struct {
	ID         uuid.UUID // the message's id, the same in each attempt
	Webhook    uuid.UUID
	Type       string    // one of WebhookEvents, or WebhookPing
	Job        uuid.UUID // zero for a ping
	Version    int       // version of the event in the job's stream, or 0 for a ping
	HappenedAt time.Time // time of the event
	State      DeliveryState
	Attempts   int       // number of attempts that have ended since the message was made or sent again
	DueAt      time.Time // time of the next attempt, or of the end of the one under way; zero unless waiting
	EndedAt    time.Time // zero while waiting

	// The last attempt: zero before it has ended.
	AttemptedAt time.Time
	Status      int    // status of the answer, or 0 without one
	Reason      string // why it failed, or empty
	Took        time.Duration
}

// deliveryColumns are the columns of webhook_deliveries in the order in which scanDelivery
// reads them.
const deliveryColumns = `d.id, d.webhook, d.type, d.job, d.version, d.happened_at, d.state, d.attempts, d.due_at, d.ended_at,
	d.attempted_at, coalesce(d.attempt_status, 0), coalesce(d.attempt_reason, ''), coalesce(d.attempt_ms, 0)`

// dest returns where to scan deliveryColumns. The function done ends the scan.
func (d *Delivery) dest() (dest []any, done func()) {
	var job *uuid.UUID
	var version *int
	var due, ended, attempted *time.Time
	var ms int64
	return []any{&d.ID, &d.Webhook, &d.Type, &job, &version, &d.HappenedAt, &d.State, &d.Attempts, &due, &ended, &attempted, &d.Status, &d.Reason, &ms}, func() {
		if job != nil {
			d.Job = *job
		}
		if version != nil {
			d.Version = *version
		}
		d.HappenedAt, d.DueAt, d.EndedAt, d.AttemptedAt = d.HappenedAt.UTC(), utc(due), utc(ended), utc(attempted)
		d.Took = time.Duration(ms) * time.Millisecond
	}
}

func scanDelivery(row pgx.CollectableRow) (Delivery, error) {
	var d Delivery
	dest, done := d.dest()
	err := row.Scan(dest...)
	done()
	return d, err
}

// Deliveries returns up to limit messages to a webhook of an owner, the newest first. It
// returns those before the message before; the zero UUID means all. A state selects messages,
// and the empty state means all. It returns ErrNotFound if the owner has no such webhook, or
// the webhook no message before.
func (s *Store) Deliveries(ctx context.Context, owner, webhook uuid.UUID, state DeliveryState, before uuid.UUID, limit int) ([]Delivery, error) {
	var last int64
	err := s.pool.QueryRow(ctx, `
		select case when $3::uuid = '00000000-0000-0000-0000-000000000000' then 9223372036854775807 else d.number end
		from webhooks w left join webhook_deliveries d on d.webhook = w.id and d.id = $3
		where w.id = $1 and w.owner = $2 and ($3 = '00000000-0000-0000-0000-000000000000' or d.id is not null)`, webhook, owner, before).Scan(&last)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	rows, _ := s.pool.Query(ctx, `
		select `+deliveryColumns+` from webhook_deliveries d
		where webhook = $1 and number < $2 and ($3 = '' or state = $3) order by number desc limit $4`, webhook, last, state, limit)
	page, err := pgx.CollectRows(rows, scanDelivery)
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	return page, nil
}

// Ping makes a message that tests a webhook of an owner, even if the webhook is disabled. It
// has one attempt. It returns ErrNotFound if the owner has no such webhook.
func (s *Store) Ping(ctx context.Context, owner, webhook uuid.UUID) (Delivery, error) {
	rows, _ := s.pool.Query(ctx, `
		insert into webhook_deliveries as d (id, webhook, owner, type, happened_at, due_at, give_up_at)
		select $3, id, owner, $4, clock_timestamp(), clock_timestamp(), clock_timestamp() from webhooks where id = $1 and owner = $2
		returning `+deliveryColumns, webhook, owner, uuid.New(), WebhookPing)
	return oneDelivery(rows)
}

// Resend sends a message again at once, with all its attempts and the same id. The schedule of
// a message that is waiting begins anew too. An attempt that is queued or under way counts as
// the first one. It returns ErrNotFound if the owner has no such webhook, or the webhook no such
// message, and ErrWebhookDisabled for a disabled webhook.
func (s *Store) Resend(ctx context.Context, owner, webhook, id uuid.UUID) (Delivery, error) {
	rows, _ := s.pool.Query(ctx, `
		update webhook_deliveries d set
			state = 'waiting', ended_at = null, attempts = 0,
			due_at = case when d.entry is not null then d.due_at else clock_timestamp() end,
			give_up_at = case when d.type = $4 then clock_timestamp() else clock_timestamp() + $5::interval end
		from webhooks w where d.webhook = $1 and d.owner = $2 and d.id = $3 and w.id = d.webhook and (w.disabled_at is null or d.type = $4)
		returning `+deliveryColumns, webhook, owner, id, WebhookPing, deliveryTime)
	d, err := oneDelivery(rows)
	if errors.Is(err, ErrNotFound) {
		var disabled bool
		if err := s.pool.QueryRow(ctx, `
			select exists (select from webhook_deliveries where webhook = $1 and owner = $2 and id = $3)`, webhook, owner, id).Scan(&disabled); err != nil {
			return d, fmt.Errorf("look for a message: %w", err)
		}
		if disabled {
			return d, ErrWebhookDisabled
		}
	}
	return d, err
}

// oneDelivery returns the message that a statement has written, or ErrNotFound.
func oneDelivery(rows pgx.Rows) (Delivery, error) {
	d, err := pgx.CollectExactlyOneRow(rows, scanDelivery)
	if errors.Is(err, pgx.ErrNoRows) {
		return d, ErrNotFound
	}
	if err != nil {
		return d, fmt.Errorf("write a message: %w", err)
	}
	return d, nil
}

// ForgetDeliveries removes the messages that ended more than KeepDeliveries ago, or should have
// ended then if a process had sent them, and the oldest messages of each webhook that has more
// than MaxDeliveries.
func (s *Store) ForgetDeliveries(ctx context.Context) error {
	return s.forgetDeliveries(ctx, MaxDeliveries)
}

func (s *Store) forgetDeliveries(ctx context.Context, most int) error {
	_, err := pg.DeleteBatches(ctx, s.pool, forgetBatch, forgetTimeout, `
		delete from webhook_deliveries where id in (
			select id from webhook_deliveries
			where state <> 'waiting' and ended_at < clock_timestamp() - $1::interval or state = 'waiting' and give_up_at < clock_timestamp() - $1::interval
			limit $2 for update skip locked)`, KeepDeliveries)
	if err == nil {
		_, err = pg.DeleteBatches(ctx, s.pool, forgetBatch, forgetTimeout, `
			delete from webhook_deliveries where id in (
				select d.id from webhooks w
				cross join lateral (select number from webhook_deliveries where webhook = w.id order by number desc offset $1 limit 1) as last
				join webhook_deliveries d on d.webhook = w.id and d.number <= last.number
				limit $2 for update of d skip locked)`, most)
	}
	if err != nil {
		return fmt.Errorf("remove old messages of webhooks: %w", err)
	}
	return nil
}
