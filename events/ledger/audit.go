package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"

	"colophon/events"
	"colophon/events/receipt"
	"colophon/internal/pg"
	"colophon/internal/vault"
)

const (
	// auditChunk is the number of entries that an audit reads at once.
	auditChunk = 1 << 16

	// auditBatch is the number of events that an audit hands to one of its workers.
	auditBatch = 512

	// auditWorkers is the number of workers that check events.
	auditWorkers = 4
)

// Fault is something that is wrong with the log.
type Fault struct {
	Index   int64         // index in the log; -1 if the event has none
	Stream  events.Stream // empty if the fault is not one of an event
	Version int
	Reason  string

	wide bool // the fault is one of many entries from Index on, or up to it
}

func (f Fault) String() string {
	where := fmt.Sprintf("index %d", f.Index)
	if f.Index < 0 {
		where = "no index"
	}
	if f.Stream != "" {
		where += fmt.Sprintf(", %s@%d", f.Stream, f.Version)
	}
	return where + ": " + f.Reason
}

// before reports whether f says more than g about where the log is wrong first: a fault of one
// event comes before a fault of many, and a fault with an index before one without.
func (f Fault) before(g Fault) bool {
	if f.wide != g.wide {
		return g.wide
	}
	return g.Index < 0 && f.Index >= 0 || f.Index >= 0 && f.Index < g.Index
}

// Audit is the result of a check of the whole log.
type Audit struct {
	Size     int64  // number of entries of the log
	Pending  int64  // number of events that have no index yet
	Faults   int64  // number of faults
	First    *Fault // the first fault of one event, or else of many; nil if there is none
	Unopened int64  // number of events whose sealed members were not checked, because their owner's key cannot be opened
}

// auditor checks the whole log of a database.
type auditor struct {
	tx       pgx.Tx
	store    *events.Store
	signed   []receipt.Checkpoint // by size
	progress func(done, total int)

	mu    sync.Mutex // for audit
	audit Audit
	total int64 // number of events
	low   int64
}

// Verify checks the whole log from one snapshot of the database: the rows of all events, the
// chain of each stream, the commitments, the entries, the tree and its stored nodes, and that
// the log begins with the trees of the signed checkpoints. progress may be nil. The memory that
// Verify uses does not depend on the size of the log.
func Verify(ctx context.Context, pool *pgxpool.Pool, store *events.Store, signed []receipt.Checkpoint, progress func(done, total int)) (*Audit, error) {
	a := &auditor{store: store, signed: signed, progress: progress}
	ctx = pg.Unlimited(ctx)
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return a.verify(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("verify the log: %w", err)
	}
	return &a.audit, nil
}

func (a *auditor) verify(ctx context.Context, tx pgx.Tx) error {
	a.tx = tx
	if err := vault.KeepKeys(ctx, tx); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `select set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`)
	if err != nil {
		return err
	}
	err = tx.QueryRow(ctx, `select (select coalesce(max(idx) + 1, 0) from log_entries), (select count(*) from events), (select low from log_state)`).
		Scan(&a.audit.Size, &a.total, &a.low)
	for _, step := range []func(context.Context) error{a.tree, a.lost, a.events} {
		if err == nil {
			err = step(ctx)
		}
	}
	return err
}

// fault records a fault.
func (a *auditor) fault(f Fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.audit.Faults++
	if a.audit.First == nil || f.before(*a.audit.First) {
		a.audit.First = &f
	}
}

// node is a node of the tree.
type node struct {
	level int
	n     int64
	hash  tlog.Hash
}

// tree computes the tree from the entries. It compares the complete subtrees with the stored
// nodes, and the roots with the signed checkpoints.
func (a *auditor) tree(ctx context.Context) error {
	var e edge
	a.compareRoots(e, 0)
	nodes, next := int64(0), int64(0)
	for from := int64(0); from < a.audit.Size; from += auditChunk {
		var complete []node
		rows, _ := a.tx.Query(ctx, `select idx, hash from log_entries where idx >= $1 and idx < $2 order by idx`, from, from+auditChunk)
		var idx int64
		var entry []byte
		_, err := pgx.ForEachRow(rows, []any{&idx, &entry}, func() error {
			if idx != next {
				a.fault(Fault{Index: next, Reason: "the entry is missing"})
				next = idx
			}
			e.add(idx, tlog.RecordHash(entry), func(level int, n int64, hash tlog.Hash) { complete = append(complete, node{level, n, hash}) })
			next++
			a.compareRoots(e, next)
			return nil
		})
		if err == nil {
			err = a.compareNodes(ctx, complete)
		}
		if err != nil {
			return err
		}
		nodes += int64(len(complete))
	}
	for _, c := range a.signed {
		if c.Size > a.audit.Size {
			a.fault(Fault{Index: a.audit.Size, Reason: fmt.Sprintf("the log ends here, and a signed checkpoint has %d events", c.Size)})
		}
	}
	var stored int64
	if err := a.tx.QueryRow(ctx, `select count(*) from log_nodes`).Scan(&stored); err != nil {
		return err
	}
	if stored > nodes {
		a.fault(Fault{Index: a.audit.Size, wide: true, Reason: fmt.Sprintf("the tree has %d nodes too many", stored-nodes)})
	}
	return nil
}

// compareRoots compares the root of the first entries with the checkpoints of that size.
func (a *auditor) compareRoots(e edge, size int64) {
	for _, c := range a.signed {
		if c.Size == size && size > 0 && e.hash() != c.Root {
			a.fault(Fault{Index: size - 1, wide: true, Reason: fmt.Sprintf("the first %d events are not those of a signed checkpoint", size)})
		}
	}
}

// compareNodes compares subtrees with the stored nodes. They are in the order in which they
// became complete.
func (a *auditor) compareNodes(ctx context.Context, complete []node) error {
	var levels, ns []int64
	for _, c := range complete {
		levels, ns = append(levels, int64(c.level)), append(ns, c.n)
	}
	rows, _ := a.tx.Query(ctx, `
		select hash from unnest($1::bigint[], $2::bigint[]) with ordinality as wanted (level, n, place)
		left join log_nodes using (level, n) order by place`, levels, ns)
	i := 0
	var hash []byte
	_, err := pgx.ForEachRow(rows, []any{&hash}, func() error {
		c := complete[i]
		i++
		if !bytes.Equal(hash, c.hash[:]) {
			a.fault(Fault{Index: c.n << (c.level * tileHeight), wide: true, Reason: fmt.Sprintf("the stored hash of the %d entries from here on is wrong", int64(1)<<(c.level*tileHeight))})
		}
		return nil
	})
	return err
}

// lost looks for entries whose event is gone.
func (a *auditor) lost(ctx context.Context) error {
	var gone, first int64
	err := a.tx.QueryRow(ctx, `
		select count(*), coalesce(min(idx), 0) from log_entries as entry
		where not exists (select from events where events.position = entry.position)`).Scan(&gone, &first)
	if err == nil && gone > 0 {
		a.fault(Fault{Index: first, Reason: "the event is gone"})
		a.audit.Faults += gone - 1
	}
	return err
}

// loggedRow is an event with its entry of the log.
type loggedRow struct {
	events.Row
	position  int64
	index     *int64
	entry     []byte
	sameOwner bool // the entry has the owner of the event
}

// events checks all events, stream by stream.
func (a *auditor) events(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	batches := make(chan []loggedRow, auditWorkers)
	var working sync.WaitGroup
	for range auditWorkers {
		working.Go(func() {
			for batch := range batches {
				if err := a.check(ctx, batch); err != nil {
					cancel(err)
				}
			}
		})
	}
	err := a.read(ctx, batches)
	close(batches)
	working.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// read sends all events in the order of their streams. The first row of a batch is the last
// row of the batch before.
func (a *auditor) read(ctx context.Context, batches chan<- []loggedRow) error {
	// The planner would sort all rows, which needs memory or disk for the whole log.
	_, err := a.tx.Exec(ctx, `select set_config('enable_sort', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`)
	if err != nil {
		return err
	}
	rows, _ := a.tx.Query(ctx, `
		select stream, version, events.owner, type, schema, at, payload, sealed,
			type <> 'job.erased' and exists (select from events as e where e.stream = events.stream and e.type = 'job.erased'), position, idx, hash, coalesce(log_entries.owner = events.owner, false)
		from events left join log_entries using (position) order by stream, version`)
	batch := []loggedRow{{}}
	done := int64(0)
	var r loggedRow
	_, err = pgx.ForEachRow(rows, []any{&r.Stream, &r.Version, &r.Owner, &r.Type, &r.Schema, &r.At, &r.Payload, &r.Sealed, &r.Erased, &r.position, &r.index, &r.entry, &r.sameOwner}, func() error {
		batch = append(batch, r)
		if len(batch) <= auditBatch {
			return nil
		}
		done += auditBatch
		return a.send(ctx, batches, &batch, done)
	})
	if err == nil && len(batch) > 1 {
		err = a.send(ctx, batches, &batch, a.total)
	}
	return err
}

func (a *auditor) send(ctx context.Context, batches chan<- []loggedRow, batch *[]loggedRow, done int64) error {
	select {
	case batches <- *batch:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	*batch = []loggedRow{(*batch)[len(*batch)-1]}
	if a.progress != nil {
		a.progress(int(done), int(a.total))
	}
	return nil
}

// check checks the rows of a batch but the first.
func (a *auditor) check(ctx context.Context, batch []loggedRow) error {
	for i, r := range batch[1:] {
		previous := &batch[i]
		if previous.Stream != r.Stream {
			previous = nil
		}
		if reason := a.inLog(r, previous); reason != "" {
			a.fault(r.fault(reason))
			continue
		}
		var before *events.Row
		if previous != nil {
			before = &previous.Row
		}
		err := a.store.CheckRow(ctx, r.Row, before)
		switch d, damaged := errors.AsType[*events.Damage](err); {
		case damaged:
			a.fault(r.fault(fmt.Sprint(d.Reason)))
		case errors.Is(err, events.ErrNoKey):
			a.mu.Lock()
			a.audit.Unopened++
			a.mu.Unlock()
		case err != nil:
			return err
		}
	}
	return nil
}

// isLogged reports whether the entry is the hash of the payload.
func (r loggedRow) isLogged() bool {
	hash := sha256.Sum256(r.Payload)
	return bytes.Equal(hash[:], r.entry)
}

func (r loggedRow) fault(reason string) Fault {
	f := Fault{Index: -1, Stream: r.Stream, Version: r.Version, Reason: reason}
	if r.index != nil {
		f.Index = *r.index
	}
	return f
}

// inLog compares an event with its entry. It returns what is wrong, or "".
func (a *auditor) inLog(r loggedRow, previous *loggedRow) string {
	switch {
	case r.index == nil && r.position <= a.low:
		return "the event is not in the log, and should be"
	case r.index == nil:
		a.mu.Lock()
		defer a.mu.Unlock()
		a.audit.Pending++
		return ""
	case !r.isLogged():
		return "the payload is not the one that was logged"
	case !r.sameOwner:
		return "the entry has another owner"
	case previous != nil && (previous.index == nil || *previous.index >= *r.index):
		return "the event comes before the previous event of its stream"
	}
	return ""
}
