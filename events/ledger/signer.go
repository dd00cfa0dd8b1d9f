package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"

	"colophon/events/receipt"
)

const (
	// signInterval is the time between two looks at the size of the log. So a new event is in
	// a checkpoint after about this time.
	signInterval = time.Second

	// signTimeout bounds the making of one checkpoint.
	signTimeout = 30 * time.Second
)

// ErrForked occurs when the log does not continue a tree that was signed. A restored backup
// and a standby without the last transactions do that.
var ErrForked = errors.New("the log does not continue what was signed under its name: events were lost or changed")

// Signer signs checkpoints of the log. It signs a tree only if the tree continues the last
// published checkpoint, and the checkpoint in the [Guard]. Any number of Signers may run. Those
// that share a file take turns: one signs, and the others wait until it ends. Those with files
// of their own sign at the same time, because all checkpoints of one database continue one
// another. A Signer is not safe for concurrent use.
type Signer struct {
	pool      *pgxpool.Pool
	keys      *Keys
	witnesses *Witnesses // may be nil
	log       *slog.Logger

	refused atomic.Pointer[error] // the last error of Sign in Run; nil if Sign succeeded
}

// NewSigner returns a signer. witnesses may be nil.
func NewSigner(pool *pgxpool.Pool, keys *Keys, witnesses *Witnesses, log *slog.Logger) *Signer {
	return &Signer{pool: pool, keys: keys, witnesses: witnesses, log: log}
}

// Run signs the log each second in which it has grown, until ctx is done. path is the file of
// a [Guard]. While another process has the file, Run waits.
func (s *Signer) Run(ctx context.Context, path string) {
	var guard *Guard
	defer func() {
		if guard != nil {
			_ = guard.Close() // only releases the lock
		}
	}()
	tick := time.NewTicker(signInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		if guard == nil {
			guard, err = OpenGuard(path)
		}
		if err == nil {
			err = s.Sign(ctx, guard)
		}
		if ctx.Err() != nil {
			return
		}
		s.report(ctx, err)
	}
}

// report logs the result of Sign when it changes.
func (s *Signer) report(ctx context.Context, err error) {
	before := s.refused.Load()
	if err == nil {
		s.refused.Store(nil)
		if before != nil {
			s.log.InfoContext(ctx, "signing checkpoints again")
		}
		return
	}
	s.refused.Store(&err)
	if before != nil && (*before).Error() == err.Error() {
		return
	}
	switch {
	case errors.Is(err, ErrHeld):
		s.log.InfoContext(ctx, "log signed by another process, waiting for its end", "err", err)
	case errors.Is(err, ErrForked):
		s.log.ErrorContext(ctx, "log not signed, no new checkpoints: `colophon log begin` gives the log a new name", "err", err)
	default:
		s.log.WarnContext(ctx, "log not signed, retrying", "err", err)
	}
}

// Sign publishes a checkpoint if the log has grown since the last one. If the last one lacks
// cosignatures of the policy, Sign publishes it again with those that it gets.
func (s *Signer) Sign(ctx context.Context, guard *Guard) error {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	keys, err := s.keys.load(ctx)
	if err != nil {
		return err
	}
	last, err := s.keys.last(ctx, keys)
	if err != nil {
		return err
	}
	var size int64
	if err := s.pool.QueryRow(ctx, `select coalesce(max(idx) + 1, 0) from log_entries`).Scan(&size); err != nil {
		return fmt.Errorf("read the size of the log: %w", err)
	}
	t := newTree(ctx, s.pool, size)
	c, err := keys.checkpoint(t)
	if err != nil {
		return err
	}
	if err := mayContinue(t, c, last, guard); err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	_, kept := guard.Last()
	fresh := !kept // this process knows only what the database says
	if fresh && last.stored {
		s.log.WarnContext(ctx, "state of the log missing, adopting the last checkpoint of the database", "file", guard.path, "size", last.Size)
	}
	if last.Size == size && last.SignedBy(keys.signers[0]) {
		if !fresh && !s.incomplete(last) {
			return guard.keep(last.Checkpoint)
		}
		return s.publish(ctx, t, guard, keys, last, fresh)
	}
	signed, err := note.Sign(&note.Note{Text: c.Text()}, keys.signers...)
	if err != nil {
		return fmt.Errorf("sign the log: %w", err)
	}
	return s.publish(ctx, t, guard, keys, published{SignedCheckpoint: receipt.SignedCheckpoint{Checkpoint: c}, note: string(signed)}, fresh)
}

// mayContinue returns an error unless the tree of a new checkpoint continues everything that
// is known to be signed.
func mayContinue(t *tree, c receipt.Checkpoint, last published, guard *Guard) error {
	if last.stored {
		if err := t.continues(c.Tree(), last.Checkpoint); err != nil {
			return fmt.Errorf("%w (the last checkpoint in the database)", err)
		}
	}
	guarded, kept := guard.Last()
	if !kept {
		return nil
	}
	if guarded.Origin != c.Origin {
		// The operator has begun a new log. It must name all that the file knows, so that
		// nobody can make this process forget what it has signed.
		p, ok := c.Previous()
		if ok && p.Origin == guarded.Origin && (p.Size > guarded.Size || p.Size == guarded.Size && p.Root == guarded.Root) {
			return nil
		}
		return fmt.Errorf("%w: %s was signed before with %d events, and %s does not say that it continues it", ErrForked, guarded.Origin, guarded.Size, c.Origin)
	}
	if err := t.continues(c.Tree(), guarded); err != nil {
		return fmt.Errorf("%w (%s)", err, guard.path)
	}
	return nil
}

// incomplete reports whether a checkpoint lacks cosignatures that the policy wants, and a
// witness may be asked for one.
func (s *Signer) incomplete(p published) bool {
	if s.witnesses == nil {
		return false
	}
	valid := s.witnesses.policy.Cosigned(p.SignedCheckpoint)
	return !s.witnesses.policy.Satisfied(func(w receipt.Witness) bool { _, ok := valid[w]; return ok }) && s.witnesses.due(valid)
}

// publish publishes a checkpoint. If it was published before, publish does so only with new
// cosignatures.
//
// A process that has no record of its own (fresh) asks all witnesses first. It adopts nothing
// that a witness contradicts.
func (s *Signer) publish(ctx context.Context, t *tree, guard *Guard, keys *keySet, p published, fresh bool) error {
	// A sequencer may have failed while its commit waited for a synchronous standby. Its
	// entries can be read, but a failover could still lose them. This commit waits for the
	// standby in its place.
	if _, err := s.pool.Exec(ctx, `select pg_logical_emit_message(true, 'colophon', '')`); err != nil {
		return fmt.Errorf("wait for the commit of the log's entries: %w", err)
	}
	// The guard comes before everybody else. If the process ends here, the guard knows a tree
	// that nobody has seen signed, and that the log continues.
	if !fresh {
		if err := guard.keep(p.Checkpoint); err != nil {
			return err
		}
	}
	lines := ""
	if s.witnesses != nil {
		var failed []error
		lines, failed = s.witnesses.cosign(ctx, p.Checkpoint, p.note, s.witnesses.policy.Cosigned(p.SignedCheckpoint), fresh, t.proof)
		if err := s.judge(ctx, failed, fresh); err != nil {
			return err
		}
	}
	if fresh {
		if err := guard.keep(p.Checkpoint); err != nil {
			return err
		}
	}
	if p.stored && lines == "" {
		return nil
	}
	// A note that cannot be read would stop the log for ever, because no row can be removed.
	if _, err := receipt.OpenCheckpoint(p.note+lines, keys.verifiers...); err != nil {
		s.log.WarnContext(ctx, "cosignatures unusable, checkpoint published without them", "err", err)
		lines = ""
	}
	_, err := s.pool.Exec(ctx, `insert into log_checkpoints (origin, size, note) values ($1, $2, $3)`, p.Origin, p.Size, p.note+lines)
	if err != nil {
		return fmt.Errorf("publish a checkpoint: %w", err)
	}
	return nil
}

// judge logs the failures of witnesses. A witness that has seen another log is believed if
// this process has no record of its own.
func (s *Signer) judge(ctx context.Context, failed []error, fresh bool) error {
	for _, err := range failed {
		if seen, ok := errors.AsType[*conflict](err); ok && fresh {
			return fmt.Errorf("%w: %w", ErrForked, seen)
		}
		s.log.WarnContext(ctx, "checkpoint not cosigned", "err", err)
	}
	return nil
}
