package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// beat is the time between two passes of the sequencer that works. While no events come,
	// it doubles up to idleBeat.
	beat     = 50 * time.Millisecond
	idleBeat = 200 * time.Millisecond

	// standby is the time after which a sequencer tries again while another one works.
	standby = 500 * time.Millisecond

	// passLimit is the maximum number of events that one pass adds. A pass of that size takes
	// some hundred milliseconds.
	passLimit = 4096
)

// Sequencer gives committed events their index. Create it with [NewSequencer]. A Sequencer
// is not safe for concurrent use, but any number of Sequencers may run.
type Sequencer struct {
	// Grown is called after each pass that has added events to the log. It must be set before
	// the first pass, and it must not block. It may be nil.
	Grown func()

	pool *pgxpool.Pool
	log  *slog.Logger

	limit        int
	beforeCommit func(added int) error // for tests; may be nil

	horizon horizon
}

// horizon is a position that waits for the end of the transactions that may still add an
// event at or before this position. The zero horizon waits for nothing.
type horizon struct {
	position int64
	writers  []string  // the transactions, by their ids in pg_locks
	boot     time.Time // start of the server that gave the ids; ids of another server have another meaning
}

// NewSequencer returns a sequencer that uses pool. Its database must have all migrations.
func NewSequencer(pool *pgxpool.Pool, log *slog.Logger) *Sequencer {
	return &Sequencer{pool: pool, log: log, limit: passLimit}
}

// Run sequences events until ctx ends. While the database is unavailable, Run tries again.
func (s *Sequencer) Run(ctx context.Context) {
	var failed error
	for wait := beat; ; {
		p, err := s.Pass(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && failed == nil:
			s.log.WarnContext(ctx, "sequencing interrupted, retrying", "err", err)
		case err == nil && failed != nil:
			s.log.InfoContext(ctx, "sequencing again")
		}
		failed = err
		switch {
		case err != nil || !p.Leading:
			wait = standby
		case p.Added == s.limit:
			wait = 0 // there is more
		case p.Added > 0:
			wait = beat
		default:
			wait = min(max(beat, 2*wait), idleBeat)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Pass is the result of one pass.
type Pass struct {
	Leading bool  // false if another sequencer was working, so that this one did nothing
	Added   int   // number of events that got an index
	Size    int64 // size of the log after the pass
}

// Pass gives an index to the events that are committed and have none, up to a maximum. It is
// one transaction. If another sequencer works at the same time, Pass does nothing.
func (s *Sequencer) Pass(ctx context.Context) (Pass, error) {
	var p Pass
	var next horizon
	// Each statement must see what was committed before it. In particular, the events must be
	// read after the locks of their writers.
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		// The lock is taken in a statement of its own, because only a later statement sees
		// what the sequencer before has committed.
		err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(hashtextextended('colophon sequencer', 0))`).Scan(&p.Leading)
		if err != nil || !p.Leading {
			return err
		}
		p, next, err = s.pass(ctx, tx)
		if err == nil && s.beforeCommit != nil {
			err = s.beforeCommit(p.Added)
		}
		return err
	})
	if err != nil {
		s.horizon = horizon{}
		return Pass{}, fmt.Errorf("sequence events: %w", err)
	}
	s.horizon = next
	if p.Added > 0 && s.Grown != nil {
		s.Grown()
	}
	return p, nil
}

// state is the state of the log at the start of a pass.
type state struct {
	size int64 // number of entries of the log
	low  int64 // all events up to this position are in the log, or never will be
	last int64 // the last position of a committed event
	boot time.Time
}

func (s *Sequencer) pass(ctx context.Context, tx pgx.Tx) (p Pass, next horizon, err error) {
	var at state
	err = tx.QueryRow(ctx, `
		select coalesce((select max(idx) + 1 from log_entries), 0), (select low from log_state),
			coalesce((select max(position) from events), 0), pg_postmaster_start_time()`).
		Scan(&at.size, &at.low, &at.last, &at.boot)
	if err != nil {
		return p, next, err
	}
	settled, next, err := s.settle(ctx, tx, at)
	if err != nil {
		return p, next, err
	}
	positions, hashes, err := s.add(ctx, tx, at)
	if err != nil {
		return p, next, err
	}
	if err := grow(ctx, tx, at.size, hashes); err != nil {
		return p, next, err
	}
	// All events up to the position settled are committed, or never will be. Those that are
	// committed are in the log, unless there were too many for one pass.
	if len(positions) == s.limit {
		settled = min(settled, positions[len(positions)-1])
	}
	if settled > at.low {
		if _, err := tx.Exec(ctx, `update log_state set low = $1`, settled); err != nil {
			return p, next, err
		}
	}
	return Pass{Leading: true, Added: len(positions), Size: at.size + int64(len(positions))}, next, err
}

// prepared begins the id of a prepared transaction in pg_locks, which has no backend.
const prepared = "-1/"

// settle returns a position up to which all events are committed or will never exist, and
// the horizon of the next pass.
//
// A transaction locks the table before it gets a position, and holds the lock until it ends.
// So the transactions that may still add an event up to a position are among those that hold
// the lock after the position was seen. Unlike the oldest transaction id of the cluster, the
// lock is held only by transactions that write events, and not by any other program that
// keeps a transaction open for hours.
//
// A transaction that is prepared for a two-phase commit changes its id in pg_locks. So while
// there is one, nothing is settled.
func (s *Sequencer) settle(ctx context.Context, tx pgx.Tx, at state) (settled int64, next horizon, err error) {
	if at.last == at.low {
		return at.low, horizon{}, nil
	}
	rows, _ := tx.Query(ctx, `
		select virtualtransaction from pg_locks
		where locktype = 'relation' and relation = 'events'::regclass and mode = 'RowExclusiveLock'
			and database = (select oid from pg_database where datname = current_database())`)
	writers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, horizon{}, err
	}
	h := s.horizon
	if len(writers) == 0 {
		return at.last, horizon{}, nil
	}
	if slices.ContainsFunc(writers, func(w string) bool { return strings.HasPrefix(w, prepared) }) {
		return at.low, h, nil
	}
	if h.position > at.low && h.boot.Equal(at.boot) {
		if slices.ContainsFunc(h.writers, func(w string) bool { return slices.Contains(writers, w) }) {
			return at.low, h, nil
		}
		settled = min(h.position, at.last)
	}
	return settled, horizon{at.last, writers, at.boot}, nil
}

// add appends the committed events that have no index to the log. It returns their positions
// and hashes in the order of the log.
//
// Positions are the order of the inserts. The insert of an event comes after the commit of
// the event before it in its stream, or after its insert in the same transaction. So if a
// snapshot sees an event, it sees the event before it, at a smaller position. As each pass
// looks for all missing events from low on, it adds the events of a stream in order, even if
// a transaction that has inserted early commits late.
func (s *Sequencer) add(ctx context.Context, tx pgx.Tx, at state) (positions []int64, hashes []tlog.Hash, err error) {
	// The bounds stand on both sides. Otherwise the anti-join would begin at the first entry
	// of the log.
	rows, _ := tx.Query(ctx, `
		with missing as (
			select position from events
			where position > $1 and position <= $2 and not exists (
				select from log_entries as entry where entry.position = events.position and entry.position > $1 and entry.position <= $2)
			order by position limit $3
		), found as (
			select position, owner, sha256(payload) as hash, row_number() over (order by position) - 1 as n from missing join events using (position)
		), added as (
			insert into log_entries (idx, position, owner, hash) select $4::bigint + n, position, owner, hash from found returning idx, position, hash
		)
		select position, hash from added order by idx`, at.low, at.last, s.limit, at.size)
	var position int64
	var hash []byte
	_, err = pgx.ForEachRow(rows, []any{&position, &hash}, func() error {
		positions, hashes = append(positions, position), append(hashes, tlog.Hash(hash))
		return nil
	})
	return positions, hashes, err
}
