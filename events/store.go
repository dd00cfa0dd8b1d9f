package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/errcode"
	"colophon/internal/flight"
	"colophon/internal/vault"
)

var (
	// ErrConflict occurs when a stream is not where the caller last saw it: it
	// has moved on, or what the caller believes to be in it never was committed.
	ErrConflict = errors.New("the stream has moved on")

	// ErrNotFound occurs when a stream has no events.
	ErrNotFound = errcode.New("not_found", "no such stream")
)

// Store keeps events in Postgres. Use [NewStore], and keep [Store.Run] running
// for as long as the store is used.
type Store struct {
	// Appended, if it is set before the store is used, is called with every event
	// that this process has put on record, after the commit. It must not block.
	Appended func(Event)

	pool  *pgxpool.Pool
	vault *vault.Vault
	log   *slog.Logger

	hub   hub
	news  announcements
	name  string                // of this store among all that announce
	reads flight.Group[[]Event] // by stream and version
}

// NewStore returns a store over a migrated database.
func NewStore(pool *pgxpool.Pool, v *vault.Vault, log *slog.Logger) *Store {
	return &Store{
		pool: pool, vault: v, log: log, news: newAnnouncements(), name: uuid.NewString(),
		reads: flight.Group[[]Event]{Timeout: readTimeout},
	}
}

// Tx is a database transaction that can append.
type Tx struct {
	pgx.Tx
	store   *Store
	touched map[Stream][]Event
}

// Write runs fn in one transaction and, once that has committed, announces the
// streams that fn appended to. An error of fn rolls everything back. After an
// error of the connection, or when it takes longer than ten seconds, it is open
// whether that has committed.
func (s *Store) Write(ctx context.Context, fn func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	w := &Tx{store: s, touched: map[Stream][]Event{}}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		w.Tx = tx
		return fn(w)
	})
	if err != nil {
		return err
	}
	s.tell(w.touched)
	return nil
}

// tell wakes the followers here and announces to the others what has been
// appended. It is never called inside the transaction: a commit with a NOTIFY
// pending holds a lock that is one for the whole database.
func (s *Store) tell(appended map[Stream][]Event) {
	for stream, events := range appended {
		if s.Appended != nil {
			for _, e := range events {
				s.Appended(e)
			}
		}
		s.hub.appended(stream, events)
		s.news.add(stream)
	}
}

// AppendJob appends facts to the stream of a job of which the caller has seen
// before, projects the history view and the owner's budget, and returns the job after them. The first
// fact of a new job follows Job{ID: …, Owner: …}. It returns ErrIllegal for a
// fact that cannot follow, ErrConflict if the stream has moved on, and
// vault.ErrErased for the first fact of an owner who is closed; after an
// error the transaction can only be rolled back. The job that it returns is not
// on record before the transaction has committed.
func (tx *Tx) AppendJob(ctx context.Context, before Job, facts ...Fact) (Job, error) {
	if len(facts) == 0 {
		return before, nil
	}
	change, err := tx.store.change(ctx, tx, before, facts)
	if err != nil {
		return before, err
	}
	if err := send(ctx, tx, JobStream(before.ID), &change.batch); err != nil {
		return before, err
	}
	tx.touch(change.events)
	return change.after, nil
}

// A change is what appending facts to a job's stream does.
type change struct {
	events []Event
	after  Job
	batch  pgx.Batch // the statements
}

func (s *Store) change(ctx context.Context, db vault.DB, before Job, facts []Fact) (*change, error) {
	c := &change{after: before}
	for i, fact := range facts {
		e := Event{Stream: JobStream(before.ID), Version: before.Version + 1 + i, Owner: before.Owner, At: now(), Fact: fact}
		var err error
		if c.after, err = c.after.Apply(e); err != nil {
			return nil, err
		}
		c.events = append(c.events, e)
	}
	key, err := s.vault.Key(ctx, db, before.Owner)
	if err != nil {
		return nil, err
	}
	if before.Version == 0 {
		queueAdmission(&c.batch, before.Owner)
	}
	if err := queueInserts(&c.batch, c.events, key); err != nil {
		return nil, err
	}
	if err := queueProjection(&c.batch, before, c.after, key); err != nil {
		return nil, err
	}
	queueSpending(&c.batch, before, c.after)
	return c, nil
}

// AppendJob appends facts in a transaction of their own, as Tx.AppendJob does,
// and returns the job after them once that has committed. After an error it
// returns the job before them: whether they are on record is then for the
// stream to say. It takes one round trip.
func (s *Store) AppendJob(ctx context.Context, before Job, facts ...Fact) (Job, error) {
	if len(facts) == 0 {
		return before, nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	change, err := s.change(ctx, s.pool, before, facts)
	if err != nil {
		return before, err
	}
	// A batch outside of a transaction is one.
	if err := send(ctx, s.pool, JobStream(before.ID), &change.batch); err != nil {
		return before, err
	}
	s.tell(map[Stream][]Event{JobStream(before.ID): change.events})
	return change.after, nil
}

// AppendAccount appends facts to an account's stream, wherever that has got to:
// what is said of an account does not depend on what was said before. The
// account's data key is created with AccountRegistered.
func (tx *Tx) AppendAccount(ctx context.Context, account uuid.UUID, facts ...Fact) error {
	stream := AccountStream(account)
	// Appends to one account take turns, so that none of them is refused. The
	// lock is a statement of its own: the next one must see what came before it.
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, stream); err != nil {
		return fmt.Errorf("wait for the end of %s: %w", stream, err)
	}
	var version int
	if err := tx.QueryRow(ctx, `select coalesce(max(version), 0) from events where stream = $1`, stream).Scan(&version); err != nil {
		return fmt.Errorf("find the end of %s: %w", stream, err)
	}
	events := make([]Event, len(facts))
	for i, fact := range facts {
		if _, ok := fact.(AccountRegistered); ok {
			if err := tx.store.vault.Create(ctx, tx, account); err != nil {
				return err
			}
		}
		events[i] = Event{Stream: stream, Version: version + 1 + i, Owner: account, At: now(), Fact: fact}
	}
	key, err := tx.store.vault.Key(ctx, tx, account)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	if err := queueInserts(&batch, events, key); err != nil {
		return err
	}
	if err := send(ctx, tx, stream, &batch); err != nil {
		return err
	}
	tx.touch(events)
	return nil
}

// touch notes what has been appended to one stream.
func (tx *Tx) touch(events []Event) {
	stream := events[0].Stream
	tx.touched[stream] = append(tx.touched[stream], events...)
}

func queueInserts(batch *pgx.Batch, events []Event, key *vault.Key) error {
	for _, e := range events {
		payload, err := encode(e, key)
		if err != nil {
			return err
		}
		batch.Queue(`insert into events (stream, version, owner, type, at, payload) values ($1, $2, $3, $4, $5, $6)`,
			e.Stream, e.Version, e.Owner, e.Fact.Type(), e.At, payload)
	}
	return nil
}

// send runs the statements of a batch.
func send(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, stream Stream, batch *pgx.Batch) error {
	err := db.SendBatch(ctx, batch).Close()
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.ConstraintName == "events_pkey", pg.ConstraintName == "events_have_no_gaps":
			err = ErrConflict
		case pg.Code == codeClosed:
			err = vault.ErrErased
		}
	}
	if err != nil {
		return fmt.Errorf("append to %s: %w", stream, err)
	}
	return nil
}

// now is the time of an event: what Postgres can hold, so that what is stored
// and what is in memory are the same.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// Read returns the events of a stream after a version, in order; none if there
// are none. The events committed before the call are among them. Concurrent
// readers of the same stream after the same version share one query.
func (s *Store) Read(ctx context.Context, stream Stream, after int) ([]Event, error) {
	return s.reads.DoFresh(ctx, fmt.Sprintf("%s@%d", stream, after), func(ctx context.Context) ([]Event, error) {
		events, err := s.read(ctx, stream, after)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", stream, err)
		}
		return events, nil
	})
}

// Page returns up to limit events of a stream after a version, in order.
func (s *Store) Page(ctx context.Context, stream Stream, after, limit int) ([]Event, error) {
	rows, _ := s.pool.Query(ctx, `select payload from events where stream = $1 and version > $2 order by version limit $3`, stream, after, limit)
	payloads, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	return s.decodeAll(ctx, s.pool, payloads)
}

// readTimeout bounds a query that its readers may all have left, and writeTimeout
// a transaction: a connection that was cut without a word says nothing for long.
const (
	readTimeout  = 10 * time.Second
	writeTimeout = 10 * time.Second
)

func (s *Store) read(ctx context.Context, stream Stream, after int) ([]Event, error) {
	rows, _ := s.pool.Query(ctx, `select payload from events where stream = $1 and version > $2 order by version`, stream, after)
	payloads, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, err
	}
	return s.decodeAll(ctx, s.pool, payloads)
}

// decodeAll decodes payloads in order, with the keys of their owners as far as
// those are still there.
func (s *Store) decodeAll(ctx context.Context, db vault.DB, payloads [][]byte) ([]Event, error) {
	events := make([]Event, 0, len(payloads))
	for _, payload := range payloads {
		envelope, _, err := envelope(payload)
		if err != nil {
			return nil, err
		}
		key, err := s.vault.Key(ctx, db, envelope.Owner)
		if err != nil && !errors.Is(err, vault.ErrErased) {
			return nil, err
		}
		e, err := decode(payload, key)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// Job returns the job as its events have made it, or ErrNotFound.
func (s *Store) Job(ctx context.Context, id uuid.UUID) (Job, error) {
	events, err := s.Read(ctx, JobStream(id), 0)
	if err != nil {
		return Job{}, err
	}
	if len(events) == 0 {
		return Job{}, fmt.Errorf("%s: %w", JobStream(id), ErrNotFound)
	}
	return Fold(events)
}
