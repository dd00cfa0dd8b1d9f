package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/errcode"
	"colophon/internal/vault"
)

const (
	// MaxWebhooks is the maximum number of webhooks of an account.
	MaxWebhooks = 16

	// PreviousKeysFor is the time for which the keys before a rotation still sign.
	PreviousKeysFor = 24 * time.Hour

	webhookKeySize = 32 // length of a secret and of a seed in bytes
)

// ErrTooManyWebhooks occurs when an account has MaxWebhooks webhooks.
var ErrTooManyWebhooks = errcode.New("too_many_webhooks", fmt.Sprintf("an account has at most %d webhooks", MaxWebhooks))

// WebhookKey has the two keys that sign a webhook's messages: the secret that the receiver
// also has, and the seed of an Ed25519 key.
type WebhookKey struct {
	Secret []byte `json:"secret"`
	Seed   []byte `json:"seed"`
}

// Reasons why a webhook is disabled. The database has one more: account, for a webhook whose
// account was disabled.
const (
	DisabledByOwner  = "owner"
	DisabledGone     = "gone"     // the receiver has answered 410
	DisabledFailures = "failures" // attempts have failed for days
)

// Webhook is an address that gets messages about its owner's jobs.
type Webhook struct {
	ID     uuid.UUID
	Owner  uuid.UUID
	URL    string
	Events []string // types of the events that it hears of, sorted

	// Keys sign the messages. The first key is the latest one. The second one, if there is
	// one, signs until PreviousUntil.
	Keys          []WebhookKey
	PreviousUntil time.Time // zero before the first rotation
	PreviousSign  bool      // the second key still signs

	CreatedAt    time.Time
	FailingSince time.Time // time of the first failed attempt after the last success, or zero
	DisabledAt   time.Time // zero if the webhook is in use
	DisabledFor  string    // the reason, or empty
}

// WebhookEvents returns the types of all events that a webhook can hear of, sorted. Those of
// responses are about the jobs with JobAccepted.Response, beside the ones of jobs.
func WebhookEvents() []string {
	return append(JobWebhookEvents(), responseEvents+"cancelled", responseEvents+"completed", responseEvents+"failed", responseEvents+"incomplete")
}

// JobWebhookEvents returns the types of the events about jobs that a webhook can hear of.
func JobWebhookEvents() []string {
	return []string{JobCancelled{}.Type(), JobCompleted{}.Type(), JobFailed{}.Type()}
}

const (
	// responseEvents begins the types of the events about responses of OpenAI's API.
	responseEvents = "response."

	// ResponsePrefix and the id of the job are the id of a response.
	ResponsePrefix = "resp_"
)

// webhookSecrets is the plaintext of the column sealed as JSON.
type webhookSecrets struct {
	URL  string       `json:"url"`
	Keys []WebhookKey `json:"keys"`
}

func webhookAAD(id uuid.UUID) string { return "webhook " + id.String() }

func newWebhookKey() WebhookKey {
	k := WebhookKey{make([]byte, webhookKeySize), make([]byte, webhookKeySize)}
	_, _ = rand.Read(k.Secret) // rand.Read never returns an error
	_, _ = rand.Read(k.Seed)
	return k
}

// webhookColumns are the columns of webhooks in the order in which scanWebhook reads them.
const webhookColumns = `w.id, w.owner, w.events, w.sealed, w.created_at, w.previous_until, coalesce(w.previous_until > clock_timestamp(), false), w.failing_since, w.disabled_at, coalesce(w.disabled_for, '')`

// sealedWebhook is a webhook whose URL and keys are sealed.
type sealedWebhook struct {
	Webhook
	sealed []byte
}

// dest returns where to scan webhookColumns. The function done ends the scan.
func (w *sealedWebhook) dest() (dest []any, done func()) {
	var previous, failing, disabled *time.Time
	return []any{&w.ID, &w.Owner, &w.Events, &w.sealed, &w.CreatedAt, &previous, &w.PreviousSign, &failing, &disabled, &w.DisabledFor}, func() {
		w.CreatedAt = w.CreatedAt.UTC()
		w.PreviousUntil, w.FailingSince, w.DisabledAt = utc(previous), utc(failing), utc(disabled)
	}
}

// utc returns a time of the database in UTC, or the zero time for null.
func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func scanWebhook(row pgx.CollectableRow) (sealedWebhook, error) {
	var w sealedWebhook
	dest, done := w.dest()
	err := row.Scan(dest...)
	done()
	return w, err
}

// unseal opens the URL and the keys. It returns vault.ErrUnreadable if the key in memory is
// older than the row, or the row than the key; then the caller reads the row again.
func (s *Store) unseal(ctx context.Context, db vault.DB, w sealedWebhook) (Webhook, error) {
	key, err := s.vault.Key(ctx, db, w.Owner)
	if err != nil {
		return w.Webhook, err
	}
	plain, err := key.Open(w.sealed, webhookAAD(w.ID))
	if err != nil {
		s.vault.Forget(w.Owner)
		return w.Webhook, err
	}
	var secret webhookSecrets
	if err := json.Unmarshal(plain, &secret); err != nil {
		return w.Webhook, fmt.Errorf("open webhook %s: %w", w.ID, err)
	}
	w.URL, w.Keys = secret.URL, secret.Keys
	return w.Webhook, nil
}

// seal returns the URL and the keys of a webhook as ciphertext, and the number of the key that
// has sealed them.
func (s *Store) seal(ctx context.Context, db vault.DB, w Webhook) (box []byte, number int, err error) {
	key, err := s.vault.Key(ctx, db, w.Owner)
	if err != nil {
		return nil, 0, err
	}
	plain, err := json.Marshal(webhookSecrets{w.URL, w.Keys})
	if err != nil {
		return nil, 0, err
	}
	return key.Seal(plain, webhookAAD(w.ID)), key.Number(), nil
}

// Webhooks returns the webhooks of an owner, the oldest first.
func (s *Store) Webhooks(ctx context.Context, owner uuid.UUID) ([]Webhook, error) {
	all, err := s.webhooks(ctx, owner)
	if errors.Is(err, vault.ErrUnreadable) {
		all, err = s.webhooks(ctx, owner) // the owner's key may have been replaced between the reads
	}
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	return all, nil
}

func (s *Store) webhooks(ctx context.Context, owner uuid.UUID) ([]Webhook, error) {
	rows, _ := s.pool.Query(ctx, `select `+webhookColumns+` from webhooks w where owner = $1 order by id`, owner)
	sealed, err := pgx.CollectRows(rows, scanWebhook)
	if err != nil {
		return nil, err
	}
	all := make([]Webhook, len(sealed))
	for i, w := range sealed {
		if all[i], err = s.unseal(ctx, s.pool, w); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Webhook returns a webhook of an owner, or ErrNotFound.
func (s *Store) Webhook(ctx context.Context, owner, id uuid.UUID) (Webhook, error) {
	all, err := s.Webhooks(ctx, owner)
	if err != nil {
		return Webhook{}, err
	}
	if i := slices.IndexFunc(all, func(w Webhook) bool { return w.ID == id }); i >= 0 {
		return all[i], nil
	}
	return Webhook{}, ErrNotFound
}

// hostOf returns the host of a webhook's URL, with its port.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Host
}

// CreateWebhook creates a webhook with new keys and records it. The types of events must be
// some of WebhookEvents. It returns ErrTooManyWebhooks, or vault.ErrErased for an owner who is
// closed.
func (s *Store) CreateWebhook(ctx context.Context, owner uuid.UUID, address string, types []string) (Webhook, error) {
	w := Webhook{ID: s.NewID(), Owner: owner, URL: address, Events: slices.Compact(slices.Sorted(slices.Values(types))), Keys: []WebhookKey{newWebhookKey()}}
	err := s.writeSealed(ctx, func(tx *Tx) error {
		// The account's stream is locked until the commit, which keeps the number.
		if err := tx.AppendAccount(ctx, owner, WebhookCreated{Webhook: w.ID, Host: hostOf(address), Events: w.Events}); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(ctx, `select count(*), clock_timestamp() from webhooks where owner = $1`, owner).Scan(&n, &w.CreatedAt); err != nil {
			return err
		}
		if n >= MaxWebhooks {
			return ErrTooManyWebhooks
		}
		w.CreatedAt = w.CreatedAt.UTC()
		box, number, err := s.seal(ctx, tx, w)
		if err != nil {
			return err
		}
		var batch pgx.Batch
		queueOpenCheck(&batch, owner)
		batch.Queue(`insert into webhooks (id, owner, events, sealed, created_at) values ($1, $2, $3, sealed_by($2, $5::integer, $4), $6)`,
			w.ID, owner, w.Events, box, number, w.CreatedAt)
		return s.refused(tx.SendBatch(ctx, &batch).Close(), owner)
	})
	if err != nil {
		return Webhook{}, fmt.Errorf("create a webhook: %w", err)
	}
	return w, nil
}

// writeSealed is Write, and runs fn once more if the owner's key was replaced meanwhile.
func (s *Store) writeSealed(ctx context.Context, fn func(*Tx) error) error {
	err := s.Write(ctx, fn)
	if errors.Is(err, errReplaced) || errors.Is(err, vault.ErrUnreadable) {
		err = s.Write(ctx, fn)
	}
	return err
}

// refused is sealRefused, and forgets a key that was replaced.
func (s *Store) refused(err error, owner uuid.UUID) error {
	err = sealRefused(err)
	s.forgetReplaced(err, owner)
	return err
}

// changeWebhook changes a webhook in one transaction that also appends what the function
// change returns. It returns ErrNotFound if the owner has no such webhook.
func (s *Store) changeWebhook(ctx context.Context, what string, owner, id uuid.UUID, change func(w *Webhook, now time.Time) Fact) (Webhook, error) {
	var w Webhook
	err := s.writeSealed(ctx, func(tx *Tx) error {
		var sealed sealedWebhook
		var now time.Time
		dest, done := sealed.dest()
		err := tx.QueryRow(ctx, `select `+webhookColumns+`, clock_timestamp() from webhooks w where id = $1 and owner = $2 for no key update`, id, owner).Scan(append(dest, &now)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		done()
		if w, err = s.unseal(ctx, tx, sealed); err != nil {
			return err
		}
		fact := change(&w, now.UTC())
		if fact == nil {
			return nil
		}
		box, number, err := s.seal(ctx, tx, w)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			update webhooks set events = $3, sealed = sealed_by($2, $5::integer, $4), previous_until = $6, failing_since = $7, disabled_at = $8, disabled_for = nullif($9, '')
			where id = $1`, id, owner, w.Events, box, number, nullTime(w.PreviousUntil), nullTime(w.FailingSince), nullTime(w.DisabledAt), w.DisabledFor)
		if err != nil {
			return s.refused(err, owner)
		}
		return tx.AppendAccount(ctx, owner, fact)
	})
	if err != nil {
		return Webhook{}, fmt.Errorf("%s webhook %s: %w", what, id, err)
	}
	return w, nil
}

// WebhookChange says what UpdateWebhook changes. A nil member changes nothing.
type WebhookChange struct {
	URL     *string
	Events  []string
	Enabled *bool
}

// UpdateWebhook changes a webhook of an owner, and records what has changed. Messages that are
// waiting go to the new URL. It returns ErrNotFound if the owner has no such webhook.
func (s *Store) UpdateWebhook(ctx context.Context, owner, id uuid.UUID, c WebhookChange) (Webhook, error) {
	return s.changeWebhook(ctx, "change", owner, id, func(w *Webhook, now time.Time) Fact {
		before := *w
		if c.URL != nil {
			w.URL = *c.URL
		}
		if c.Events != nil {
			w.Events = slices.Compact(slices.Sorted(slices.Values(c.Events)))
		}
		updated := WebhookUpdated{Webhook: id, Host: hostOf(w.URL), Events: w.Events}
		same := before.URL == w.URL && slices.Equal(before.Events, w.Events)
		switch enabled := w.DisabledAt.IsZero(); {
		case c.Enabled != nil && *c.Enabled && !enabled:
			w.DisabledAt, w.DisabledFor, w.FailingSince = time.Time{}, "", time.Time{}
			updated.Enabled = true
		case c.Enabled != nil && !*c.Enabled && enabled:
			w.DisabledAt, w.DisabledFor = now, DisabledByOwner
			updated.Disabled = true
		case same:
			return nil
		}
		return updated
	})
}

// RotateWebhook gives a webhook new keys. The keys before them sign until PreviousUntil, and
// those before the last rotation no more. It returns ErrNotFound if the owner has no such
// webhook.
func (s *Store) RotateWebhook(ctx context.Context, owner, id uuid.UUID) (Webhook, error) {
	return s.changeWebhook(ctx, "rotate the keys of", owner, id, func(w *Webhook, now time.Time) Fact {
		w.Keys = []WebhookKey{newWebhookKey(), w.Keys[0]}
		w.PreviousUntil, w.PreviousSign = now.Add(PreviousKeysFor), true
		return WebhookSecretRotated{Webhook: id}
	})
}

// DeleteWebhook deletes a webhook of an owner and all its messages. It returns ErrNotFound if
// the owner has no such webhook.
func (s *Store) DeleteWebhook(ctx context.Context, owner, id uuid.UUID) error {
	err := s.Write(ctx, func(tx *Tx) error {
		tag, err := tx.Exec(ctx, `delete from webhooks where id = $1 and owner = $2`, id, owner)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrNotFound
		}
		return tx.AppendAccount(ctx, owner, WebhookDeleted{Webhook: id})
	})
	if err != nil {
		return fmt.Errorf("delete webhook %s: %w", id, err)
	}
	return nil
}
