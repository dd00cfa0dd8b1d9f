package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/errcode"
	"colophon/internal/flight"
	"colophon/internal/pg"
	"colophon/internal/vault"
)

var (
	// ErrConflict occurs when the caller's version is not the last version of a stream.
	// Either another writer has appended, or the caller's last append was not committed.
	ErrConflict = errors.New("the stream has moved on")

	// ErrNotFound occurs when a job or an idempotency key is unknown.
	ErrNotFound = errcode.New("not_found", "no such stream")
)

// Store keeps events in Postgres. Create it with [NewStore], and keep [Store.Run]
// running while the store is used.
type Store struct {
	// Appended is called by the store with every event that the store has appended,
	// after the commit. Calls may be concurrent and out of order. Appended must be set
	// before the store is used, and it must not block.
	Appended func(Event)

	// Listener configures the connection that listens for announcements. Nil means the
	// pool's configuration. It must be set before Run, and must not lead to a pooler.
	Listener *pgx.ConnConfig

	pool  *pgxpool.Pool
	vault *vault.Vault
	clock *pg.Clock
	ids   ids
	log   *slog.Logger

	broker        broker
	readers       logReaders
	announcements announcements
	name          string                // random name that identifies this store in its announcements
	reads         flight.Group[[]Event] // queries that concurrent readers share, by stream and version

	// These values are fields so that tests can change them.
	rebuildBatch       int
	emptyBatch         int
	claimWait          time.Duration
	keyWait            time.Duration
	syncEvery          time.Duration
	listenCheck        time.Duration
	listenCheckTimeout time.Duration
}

// NewStore returns a store that uses pool. Its database must have all migrations.
func NewStore(pool *pgxpool.Pool, v *vault.Vault, log *slog.Logger) *Store {
	return &Store{
		pool: pool, vault: v, clock: pg.NewClock(), log: log, announcements: newAnnouncements(), name: uuid.NewString(),
		reads:        flight.Group[[]Event]{Timeout: readTimeout, Overtake: readOvertake},
		rebuildBatch: defaultRebuildBatch, emptyBatch: defaultEmptyBatch, claimWait: defaultClaimWait, keyWait: vault.KeyTTL + time.Second, syncEvery: syncEvery,
		listenCheck: defaultListenCheck, listenCheckTimeout: defaultListenCheckTimeout,
	}
}

// Tx is a database transaction that can append events.
type Tx struct {
	pgx.Tx
	store     *Store
	appended  map[Stream][]Event
	announced []Announcement
}

// Announce announces a after the commit, at once unless such an announcement was made just
// before. If the transaction is rolled back, nothing is announced.
func (tx *Tx) Announce(a Announcement) { tx.announced = append(tx.announced, a) }

// Write runs fn in one transaction of at most ten seconds. After the commit, Write
// announces the streams to which fn has appended. If fn returns an error, Write rolls
// back the transaction and returns the error. After a connection error or a timeout, the
// transaction may or may not have committed.
func (s *Store) Write(ctx context.Context, fn func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	w := &Tx{store: s, appended: map[Stream][]Event{}}
	// A database or a role may have another isolation level as its default. Its statements
	// would not see what was committed while they waited for a lock.
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		w.Tx = tx
		return fn(w)
	})
	if err != nil {
		return err
	}
	s.publish(w.appended, w.announced...)
	if len(w.announced) > 0 {
		s.notifyAtOnce(ctx)
	}
	return nil
}

// publish wakes the followers in this process, and announces the streams and the further
// announcements to other processes. It must not be called inside a transaction, because a
// commit with a pending NOTIFY locks the whole database.
func (s *Store) publish(appended map[Stream][]Event, further ...Announcement) {
	streams := make([]Announcement, 0, len(appended))
	for stream, events := range appended {
		if s.Appended != nil {
			for _, e := range events {
				s.Appended(e)
			}
		}
		if !slices.ContainsFunc(events, changesSomething) {
			continue
		}
		s.broker.appended(stream, events)
		streams = append(streams, Announcement{channel, string(stream) + " " + s.name})
	}
	s.announcements.add(streams, further)
}

// changesSomething reports whether followers of a stream must know of an event. A refusal
// changes nothing, and clients can cause many. The feed shows it when it is in the log.
func changesSomething(e Event) bool {
	_, refusal := e.Fact.(PolicyRefused)
	return !refusal
}

// AppendJob appends facts to a job's stream and updates the history view and the owner's
// budget. It returns the job after the facts. The parameter before is the job as the
// caller last saw it. For a new job, before contains only ID and Owner. The fact JobErased
// also empties the ciphertext of all events of the stream.
//
// AppendJob returns ErrIllegal for a fact that cannot follow the earlier facts. It
// returns ErrConflict if before is not the job's latest version. It returns ErrDamaged if
// the stream is in quarantine. It returns vault.ErrErased for a new job of a closed owner
// and for any job of an erased owner. After an error, the transaction must be rolled
// back.
func (tx *Tx) AppendJob(ctx context.Context, before Job, facts ...Fact) (Job, error) {
	if len(facts) == 0 {
		return before, nil
	}
	change, err := tx.store.prepare(ctx, tx, before, facts)
	if err != nil {
		return before, err
	}
	if err := send(ctx, tx, JobStream(before.ID), &change.batch); err != nil {
		tx.store.forgetReplaced(err, before.Owner)
		return before, err
	}
	tx.note(change.events)
	return change.after, nil
}

// change is an append to a job's stream that is checked and ready to be sent to the
// database.
type change struct {
	events []Event
	after  Job
	batch  pgx.Batch
}

// prepare checks the facts and builds the statements that append the facts.
func (s *Store) prepare(ctx context.Context, db vault.DB, before Job, facts []Fact) (*change, error) {
	at, err := s.now(ctx, db, before.ChangedAt)
	if err != nil {
		return nil, err
	}
	c := &change{after: before}
	for i, fact := range facts {
		e := Event{Stream: JobStream(before.ID), Version: before.Version + 1 + i, Owner: before.Owner, At: at, Fact: fact}
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
		queueOpenCheck(&c.batch, before.Owner)
	}
	if c.after.Hash, err = queueInserts(&c.batch, c.events, before.Hash, key); err != nil {
		return nil, err
	}
	if !c.after.ErasedAt.IsZero() {
		queueEmptying(&c.batch, before.ID)
	}
	if err := queueProjection(&c.batch, before, c.after, key); err != nil {
		return nil, err
	}
	queueSpending(&c.batch, before, c.after)
	return c, nil
}

// AppendJob is like Tx.AppendJob, but commits the facts in a transaction of its own, in
// one round trip. After ErrIllegal, ErrConflict, ErrDamaged or vault.ErrErased, nothing is
// written. After any other error, the facts may or may not have been committed. In that
// case, AppendJob returns before, and the caller must read the stream to know the result.
func (s *Store) AppendJob(ctx context.Context, before Job, facts ...Fact) (Job, error) {
	if len(facts) == 0 {
		return before, nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	for first := true; ; first = false {
		change, err := s.prepare(ctx, s.pool, before, facts)
		if err != nil {
			return before, err
		}
		// Outside a transaction, a batch is a transaction of its own.
		err = send(ctx, s.pool, JobStream(before.ID), &change.batch)
		if s.forgetReplaced(err, before.Owner) && first {
			continue // nothing was written
		}
		if err != nil {
			return before, err
		}
		s.publish(map[Stream][]Event{JobStream(before.ID): change.events})
		return change.after, nil
	}
}

// AppendAccount appends facts to the end of an account's stream. Any fact may follow any
// other fact. The fact AccountRegistered also creates the account's data key. If the
// account has no data key, AppendAccount returns vault.ErrErased. It does so for
// PolicyRefused also if the account is closed, because a closed owner starts no work.
// Concurrent appends to the same account wait for each other.
func (tx *Tx) AppendAccount(ctx context.Context, account uuid.UUID, facts ...Fact) error {
	if len(facts) == 0 {
		return nil
	}
	stream := AccountStream(account)
	// The lock makes concurrent appends to the account wait for each other, so they do
	// not conflict. The lock is taken in a separate statement, because only a later
	// statement sees the changes that are committed during the wait.
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, stream); err != nil {
		return fmt.Errorf("lock %s: %w", stream, err)
	}
	var version int
	var hash []byte
	var at time.Time // not before the last event, as in Store.now
	err := tx.QueryRow(ctx, `
		select coalesce(version, 0), hash, greatest(at, clock_timestamp())
		from (select) as one left join lateral (
			select version, sha256(payload) as hash, at from events where stream = $1 order by version desc limit 1) as last on true`, stream).Scan(&version, &hash, &at)
	if err != nil {
		return fmt.Errorf("read the version of %s: %w", stream, err)
	}
	events := make([]Event, len(facts))
	for i, fact := range facts {
		if _, ok := fact.(AccountRegistered); ok {
			if err := tx.store.vault.Create(ctx, tx, account); err != nil {
				return err
			}
		}
		events[i] = Event{Stream: stream, Version: version + 1 + i, Owner: account, At: at.UTC(), Fact: fact}
	}
	key, err := tx.store.vault.Key(ctx, tx, account)
	if errors.Is(err, vault.ErrUnreadable) && !slices.ContainsFunc(facts, func(f Fact) bool { return len(f.sealed()) > 0 }) {
		err = nil // erasing an account encrypts nothing, so it must be possible even if the account's key is damaged
	}
	if err != nil {
		return err
	}
	var previous Hash
	copy(previous[:], hash)
	var batch pgx.Batch
	if slices.ContainsFunc(facts, func(f Fact) bool { _, ok := f.(PolicyRefused); return ok }) {
		queueOpenCheck(&batch, account)
	}
	if _, err := queueInserts(&batch, events, previous, key); err != nil {
		return err
	}
	if err := send(ctx, tx, stream, &batch); err != nil {
		tx.store.forgetReplaced(err, account)
		return err
	}
	tx.note(events)
	return nil
}

// note remembers the appended events of one stream, which Write publishes after the
// commit.
func (tx *Tx) note(events []Event) {
	stream := events[0].Stream
	tx.appended[stream] = append(tx.appended[stream], events...)
}

// queueInserts adds the statements that insert the events of one stream, and sets the
// hashes of the events. The parameter hash is the hash of the event before them, or zero if
// there is none. It returns the hash of the last event.
func queueInserts(batch *pgx.Batch, events []Event, hash Hash, key *vault.Key) (Hash, error) {
	for i, e := range events {
		r, err := encode(e, hash, key)
		if err != nil {
			return hash, err
		}
		hash = r.hash()
		events[i].Hash = hash
		batch.Queue(`insert into events (stream, version, owner, type, at, schema, payload, sealed) values ($1, $2, $3, $4, $5, $6, $7, sealed_by($3, $9::integer, $8))`,
			r.Stream, r.Version, r.Owner, r.Type, e.At, r.Schema, r.Payload, r.Sealed, key.Number())
	}
	return hash, nil
}

// send runs the statements of a batch that appends to stream.
func send(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, stream Stream, batch *pgx.Batch) error {
	err := db.SendBatch(ctx, batch).Close()
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.ConstraintName == "events_pkey", pg.ConstraintName == "events_have_no_gaps":
			err = ErrConflict
		case pg.Code == codeDamaged:
			err = &Damage{Stream: stream, Reason: quarantined}
		}
	}
	if err = sealRefused(err); err != nil {
		return fmt.Errorf("append to %s: %w", stream, err)
	}
	return nil
}

// Read returns the events of a stream that have a later version than after, in order. If
// the stream does not exist, it returns no events. The result contains at least the
// events that were committed before the call. Concurrent readers of the same stream and
// version share one query. If an event is damaged, Read sets the stream aside and returns
// ErrDamaged.
func (s *Store) Read(ctx context.Context, stream Stream, after int) ([]Event, error) {
	return s.reads.DoFresh(ctx, fmt.Sprintf("%s@%d", stream, after), func(ctx context.Context) ([]Event, error) {
		events, err := s.read(ctx, stream, after)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", stream, err)
		}
		return events, nil
	})
}

// Page returns up to limit events of a stream that have a later version than after, in
// order. It returns ErrDamaged like Read.
func (s *Store) Page(ctx context.Context, stream Stream, after, limit int) ([]Event, error) {
	stored, err := storedEvents(s.pool.Query(ctx, `select `+eventColumns+` from events where stream = $1 and version > $2 order by version limit $3`, stream, after, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	events, err := s.decodeAll(ctx, s.pool, stored)
	if err != nil {
		return nil, s.setAside(ctx, err)
	}
	return events, nil
}

// These timeouts are needed because a connection may be cut silently. A call without a
// timeout would then return no error for minutes.
const (
	readTimeout  = 10 * time.Second // time limit of a query, which goes on even if all of its readers have stopped waiting
	writeTimeout = 10 * time.Second // time limit of a transaction

	// readOvertake is the time after which a reader stops waiting for an earlier query of
	// the stream and starts its own query.
	readOvertake = time.Second
)

func (s *Store) read(ctx context.Context, stream Stream, after int) ([]Event, error) {
	stored, err := storedEvents(s.pool.Query(ctx, `select `+eventColumns+` from events where stream = $1 and version > $2 order by version`, stream, after))
	if err != nil {
		return nil, err
	}
	events, err := s.decodeAll(ctx, s.pool, stored)
	if err != nil {
		return nil, s.setAside(ctx, err)
	}
	return events, nil
}

// Job returns the fold of a job's events. It returns ErrNotFound, or ErrDamaged if an
// event cannot be used.
func (s *Store) Job(ctx context.Context, id uuid.UUID) (Job, error) {
	job, _, err := s.JobBefore(ctx, id, func(Event) bool { return false })
	return job, err
}

// JobsByID returns jobs by their ids, read in one query. A job that does not exist or that is
// damaged is missing from the result, and [Store.Job] says why.
func (s *Store) JobsByID(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]Job, error) {
	found := make(map[uuid.UUID]Job, len(ids))
	if len(ids) == 0 {
		return found, nil
	}
	streams := make([]Stream, len(ids))
	for i, id := range ids {
		streams[i] = JobStream(id)
	}
	stored, err := storedEvents(s.pool.Query(ctx, streamsQuery, texts(streams)))
	if err != nil {
		return nil, fmt.Errorf("read %d jobs: %w", len(ids), err)
	}
	jobs, _, err := s.foldStreams(ctx, s.pool, stored)
	if err != nil {
		return nil, fmt.Errorf("read %d jobs: %w", len(ids), err)
	}
	for _, job := range jobs {
		found[job.ID] = job
	}
	return found, nil
}

// JobBefore is like Job, and also returns the job as it was before the first event that is
// too late. The second job is the zero Job if the first event is too late. An event that
// cannot be used is an error even if it is too late.
func (s *Store) JobBefore(ctx context.Context, id uuid.UUID, late func(Event) bool) (latest, past Job, err error) {
	events, err := s.Read(ctx, JobStream(id), 0)
	if err != nil {
		return latest, past, err
	}
	if len(events) == 0 {
		return latest, past, fmt.Errorf("%s: %w", JobStream(id), ErrNotFound)
	}
	if latest, err = foldStream(events); err != nil {
		return latest, past, s.setAside(ctx, err)
	}
	if i := slices.IndexFunc(events, late); i >= 0 {
		past, err = foldStream(events[:i])
		return latest, past, err
	}
	return latest, latest, nil
}
