package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/retry"
	"colophon/internal/vault"
)

// ErrNotRekeyed occurs when the replacement of an owner's data key cannot end, because
// values are damaged.
var ErrNotRekeyed = errors.New("damaged values are left that the new key has not sealed")

// ErrSuperseded is returned by [Store.Rekey] if another call has ended this replacement and
// begun the next one.
var ErrSuperseded = errors.New("another replacement of the key has begun meanwhile")

// rekeyBatch is the number of rows that are sealed again in one transaction.
const rekeyBatch = 500

// Rekeyed is the result of [Store.Rekey].
type Rekeyed struct {
	Events   int // events that were sealed again
	Rows     int // rows of the history view that were sealed again
	Requests int // fingerprints of idempotency keys that were sealed again
	Webhooks int // URLs and keys of webhooks that were sealed again
	Parts    int // parts of files and lines of batches that were sealed again
	Kept     int // events of schema 1, which only earlier keys open
	Left     int // damaged values
}

// RekeyObserver follows a replacement of a data key. Its functions may be nil.
type RekeyObserver struct {
	Progress func(rows, total int) // called with the number of rows looked at so far, and of all; each row is looked at twice
	Left     func(value string)    // called for each damaged value; the text contains nothing of the value
	Waiting  func()                // called once if transactions or a check of the log need the earlier key, for which Rekey waits
}

// Rekey replaces an owner's data key and seals everything with the new one that the earlier
// one has sealed: events, rows of the history view, fingerprints of idempotency keys, webhooks,
// files and batches. It then destroys the earlier key. Other processes go on meanwhile (package vault has
// the steps). The login of db must own the tables.
//
// Rekey compares the values of each event with their commitments before it seals them again.
// Values that are damaged stay as they are. The error is then ErrNotRekeyed, and the
// earlier key is not destroyed. The ciphertext of events of schema 1 is inside their payloads
// and cannot change. If there are such events, the earlier key stays for them until the owner
// is erased.
//
// Rekey may be interrupted at any point. Called again, it goes on. The error is
// vault.ErrErased if the owner is erased, also while it runs.
func (s *Store) Rekey(ctx context.Context, db *pgxpool.Pool, owner uuid.UUID, o RekeyObserver) (Rekeyed, error) {
	k := &rekeying{db: db, observer: o}
	err := k.run(ctx, s, owner)
	if err != nil {
		err = fmt.Errorf("replace the data key of %s: %w", owner, err)
	}
	return k.Rekeyed, err
}

// rekeying is a replacement of a data key that is under way.
type rekeying struct {
	*vault.Replacement
	Rekeyed
	db          *pgxpool.Pool
	observer    RekeyObserver
	keep        bool // events of schema 1 need the earlier key
	seen, total int  // rows looked at so far, and rows to look at
}

func (k *rekeying) run(ctx context.Context, s *Store, owner uuid.UUID) (err error) {
	if k.Replacement, err = s.vault.Replace(ctx, k.db, owner); err != nil {
		return err
	}
	// Until now, processes may seal with the earlier key, which they have in memory.
	if err := pause(ctx, min(s.keyWait-k.Age, s.keyWait)); err != nil {
		return err
	}
	if err = k.whileInUse(ctx, func() error { return k.StopSealing(ctx) }); err == nil {
		err = k.count(ctx)
	}
	for err == nil {
		var found int
		if found, err = k.pass(ctx); err == nil && k.Left > 0 {
			err = fmt.Errorf("%w: %d", ErrNotRekeyed, k.Left)
		}
		if err != nil || found == 0 {
			break
		}
		// A reader that has read a value before this pass has time to open it with the earlier
		// key. A slower one reads the value again.
		err = pause(ctx, s.keyWait)
	}
	if err != nil {
		return err
	}
	return k.whileInUse(ctx, func() error { return k.End(ctx, k.keep) })
}

// whileInUse calls fn again while other transactions need the earlier key.
func (k *rekeying) whileInUse(ctx context.Context, fn func() error) error {
	told := k.observer.Waiting == nil
	return retry.Do(ctx, fn, func(err error) (time.Duration, bool) {
		inUse := errors.Is(err, vault.ErrInUse)
		if inUse && !told {
			told = true
			k.observer.Waiting()
		}
		return inUseWait, inUse
	})
}

const inUseWait = 500 * time.Millisecond // other writers go on meanwhile

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (k *rekeying) count(ctx context.Context) error {
	return unlimited(ctx, k.db, func(ctx context.Context, tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			select (select count(*) from events where owner = $1)
				+ (select count(*) from history where owner = $1 and sealed is not null)
				+ (select count(*) from idempotency_keys where owner = $1)
				+ (select count(*) from webhooks where owner = $1)
				+ (select count(*) from file_chunks where owner = $1)
				+ (select count(*) from batch_lines where owner = $1)`, k.Owner).Scan(&k.total)
		k.total *= 2
		return err
	})
}

// pass looks at all values of the owner, and seals those again that the earlier key has
// sealed. It returns their number.
func (k *rekeying) pass(ctx context.Context) (found int, err error) {
	k.Kept, k.keep = 0, false
	var position int64
	err = k.pages(ctx, &found, func(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) (n int, err error) {
		n, position, err = k.events(ctx, tx, batch, position)
		return n, err
	})
	var job uuid.UUID
	if err == nil {
		err = k.pages(ctx, &found, func(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) (n int, err error) {
			n, job, err = k.rows(ctx, tx, batch, job)
			return n, err
		})
	}
	request := []byte{}
	if err == nil {
		err = k.pages(ctx, &found, func(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) (n int, err error) {
			n, request, err = k.requests(ctx, tx, batch, request)
			return n, err
		})
	}
	var webhook uuid.UUID
	if err == nil {
		err = k.pages(ctx, &found, func(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) (n int, err error) {
			n, webhook, err = k.webhooks(ctx, tx, batch, webhook)
			return n, err
		})
	}
	for _, of := range []parts{{"file_chunks", "file", 16, chunkAAD}, {"batch_lines", "batch", rekeyBatch, lineAAD}} {
		last := part{}
		if err == nil {
			err = k.pagesOf(ctx, of.rows, &found, func(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) (n int, err error) {
				n, last, err = k.parts(ctx, tx, batch, of, last)
				return n, err
			})
		}
	}
	return found, err
}

// pages is pagesOf for the usual number of rows.
func (k *rekeying) pages(ctx context.Context, found *int, fn func(context.Context, pgx.Tx, *pgx.Batch) (rows int, err error)) error {
	return k.pagesOf(ctx, rekeyBatch, found, fn)
}

// pagesOf calls fn until it has read less than a page. Each call has a transaction of its own.
// The statements that fn adds to the batch are sent at its end. found counts them.
func (k *rekeying) pagesOf(ctx context.Context, page int, found *int, fn func(context.Context, pgx.Tx, *pgx.Batch) (rows int, err error)) error {
	for n := page; n == page; {
		err := unlimited(ctx, k.db, func(ctx context.Context, tx pgx.Tx) (err error) {
			var batch pgx.Batch
			if err := k.current(ctx, tx); err != nil {
				return err
			}
			if n, err = fn(ctx, tx, &batch); err != nil {
				return err
			}
			*found += batch.Len()
			return sealRefused(tx.SendBatch(ctx, &batch).Close())
		})
		if err != nil {
			return err
		}
		if k.seen += n; k.observer.Progress != nil {
			k.observer.Progress(k.seen, max(k.seen, k.total))
		}
	}
	return nil
}

// current keeps the next replacement from beginning until the transaction ends. If it has begun,
// values that its key has sealed would look damaged.
func (k *rekeying) current(ctx context.Context, tx pgx.Tx) error {
	number, err := k.Hold(ctx, tx)
	if err == nil && number != k.Next.Number() {
		err = ErrSuperseded
	}
	return err
}

// add returns a function that adds the number of updated rows to a count.
func add(count *int) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error { *count += int(tag.RowsAffected()); return nil }
}

// left reports a damaged value.
func (k *rekeying) left(value string) {
	if k.Left++; k.observer.Left != nil {
		k.observer.Left(value)
	}
}

// events looks at the page of the owner's events that follow a position. It returns their
// number and the position of the last one. An update leaves an event that was emptied since it
// was read.
func (k *rekeying) events(ctx context.Context, tx pgx.Tx, batch *pgx.Batch, after int64) (int, int64, error) {
	type row struct {
		storedEvent
		Position int64
	}
	rows, _ := tx.Query(ctx, `select `+eventColumns+`, position from events where owner = $1 and position > $2 order by position limit $3`, k.Owner, after, rekeyBatch)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, after, fmt.Errorf("read events: %w", err)
	}
	for _, r := range page {
		after = r.Position
		sealed, err := k.event(r.storedEvent)
		if err != nil {
			k.left(err.Error())
		}
		if sealed != nil {
			batch.Queue(`update events set sealed = sealed_by($1, $2::integer, $3) where stream = $4 and version = $5 and sealed = $6`,
				k.Owner, k.Next.Number(), sealed, r.Stream, r.Version, r.Sealed).Exec(add(&k.Rekeyed.Events))
		}
	}
	return len(page), after, nil
}

// event returns the new ciphertext of an event, or nil if the event needs none. The error is a
// Damage.
func (k *rekeying) event(r storedEvent) ([]byte, error) {
	if r.Schema > 1 && r.Sealed == nil {
		return nil, nil // nothing of it was sealed, or it was emptied
	}
	_, err := r.decode(nil, k.Next)
	if !hasReason(err, unopenable) {
		return nil, err
	}
	_, err = r.decode(nil, k.Earlier)
	switch {
	case err == nil && r.Schema == 1:
		k.keep = true
	case r.Schema == 1 && k.Older != nil:
		_, err = r.decode(nil, k.Older)
	}
	if err == nil && r.Schema == 1 {
		k.Kept++
	}
	if err != nil || r.Schema == 1 {
		return nil, err
	}
	return k.again(r.Sealed, aad(r.Stream, r.Version))
}

// again opens a value with the earlier key and seals it with the new one.
func (k *rekeying) again(sealed []byte, aad string) ([]byte, error) {
	plain, err := k.Earlier.Open(sealed, aad)
	if err != nil {
		return nil, err
	}
	return k.Next.Seal(plain, aad), nil
}

// value returns the new ciphertext of a value that has no commitments, or nil if it needs
// none.
func (k *rekeying) value(sealed []byte, aad string) ([]byte, error) {
	if _, err := k.Next.Open(sealed, aad); err == nil {
		return nil, nil
	}
	return k.again(sealed, aad)
}

// rows is like events, for the rows of the history view that follow a job.
func (k *rekeying) rows(ctx context.Context, tx pgx.Tx, batch *pgx.Batch, after uuid.UUID) (int, uuid.UUID, error) {
	type row struct {
		Job    uuid.UUID
		Sealed []byte
	}
	rows, _ := tx.Query(ctx, `select job, sealed from history where owner = $1 and sealed is not null and job > $2 order by job limit $3`, k.Owner, after, rekeyBatch)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, after, fmt.Errorf("read the history view: %w", err)
	}
	for _, r := range page {
		after = r.Job
		sealed, err := k.value(r.Sealed, rowAAD(r.Job))
		if err != nil {
			k.left(fmt.Sprintf("row of job %s in the history view: not readable", r.Job))
		}
		if sealed != nil {
			batch.Queue(`update history set sealed = sealed_by($1, $2::integer, $3) where job = $4 and sealed = $5`,
				k.Owner, k.Next.Number(), sealed, r.Job, r.Sealed).Exec(add(&k.Rekeyed.Rows))
		}
	}
	return len(page), after, nil
}

// requests is like events, for the fingerprints that follow the hash of an idempotency key.
func (k *rekeying) requests(ctx context.Context, tx pgx.Tx, batch *pgx.Batch, after []byte) (int, []byte, error) {
	type row struct{ Hash, Fingerprint []byte }
	rows, _ := tx.Query(ctx, `select key_hash, fingerprint from idempotency_keys where owner = $1 and key_hash > $2 order by key_hash limit $3`, k.Owner, after, rekeyBatch)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, after, fmt.Errorf("read the idempotency keys: %w", err)
	}
	for _, r := range page {
		after = r.Hash
		sealed, err := k.value(r.Fingerprint, requestAAD(r.Hash))
		if err != nil {
			k.left(fmt.Sprintf("fingerprint of the idempotency key with hash %x: not readable", r.Hash))
		}
		if sealed != nil {
			batch.Queue(`update idempotency_keys set fingerprint = sealed_by($1, $2::integer, $3) where key_hash = $4 and fingerprint = $5`,
				k.Owner, k.Next.Number(), sealed, r.Hash, r.Fingerprint).Exec(add(&k.Rekeyed.Requests))
		}
	}
	return len(page), after, nil
}

// webhooks is like events, for the webhooks that follow one.
func (k *rekeying) webhooks(ctx context.Context, tx pgx.Tx, batch *pgx.Batch, after uuid.UUID) (int, uuid.UUID, error) {
	type row struct {
		ID     uuid.UUID
		Sealed []byte
	}
	rows, _ := tx.Query(ctx, `select id, sealed from webhooks where owner = $1 and id > $2 order by id limit $3`, k.Owner, after, rekeyBatch)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, after, fmt.Errorf("read the webhooks: %w", err)
	}
	for _, r := range page {
		after = r.ID
		sealed, err := k.value(r.Sealed, webhookAAD(r.ID))
		if err != nil {
			k.left(fmt.Sprintf("webhook %s: not readable", r.ID))
		}
		if sealed != nil {
			batch.Queue(`update webhooks set sealed = sealed_by($1, $2::integer, $3) where id = $4 and sealed = $5`,
				k.Owner, k.Next.Number(), sealed, r.ID, r.Sealed).Exec(add(&k.Rekeyed.Webhooks))
		}
	}
	return len(page), after, nil
}

// errReplaced occurs when a value was sealed with a key that was replaced meanwhile.
var errReplaced = errors.New("the owner's data key was replaced")

// codeReplaced is the SQLSTATE that the database function sealed_by raises for a key that was
// replaced. It means that the transaction may succeed when it is tried again.
const codeReplaced = "40001"

// sealRefused returns vault.ErrErased or errReplaced in place of the errors of the database
// function sealed_by. It returns other errors as they are.
func sealRefused(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case codeClosed:
			return vault.ErrErased
		case codeReplaced:
			return fmt.Errorf("%w: %w", errReplaced, err)
		}
	}
	return err
}

// forgetReplaced reports whether err is errReplaced. If so, the next attempt uses the key that
// seals now.
func (s *Store) forgetReplaced(err error, owner uuid.UUID) bool {
	if !errors.Is(err, errReplaced) {
		return false
	}
	s.vault.Forget(owner)
	return true
}
