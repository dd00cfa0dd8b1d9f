package events

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/internal/errcode"
	"colophon/internal/vault"
)

// ErrDamaged occurs when an event of a stream cannot be used, or when an event is
// appended to a stream in quarantine. The error is then a [Damage], which wraps
// ErrDamaged.
var ErrDamaged = errcode.New("damaged", "the stored events are damaged")

// Damage describes a damaged stream. It never contains the content of an event.
type Damage struct {
	Stream  Stream
	Version int       // version of the first event that cannot be used
	Owner   uuid.UUID // id of the owner in that event's row
	Reason  string
	At      time.Time // time at which the stream was put into quarantine, or zero if it was not
}

// The reasons of a Damage.
const (
	undecodable = "not decodable"
	unopenable  = "sealed members not readable"
	uncommitted = "sealed members differ from their commitments"
	missing     = "sealed members missing, but not erased"
	notEmptied  = "sealed members not emptied, although the job was erased"
	misplaced   = "columns and payload differ"
	unchained   = "does not name the hash of the event before it"
	illegal     = "cannot follow the events before it"
	quarantined = "in quarantine, no event is added"

	// For these two reasons, a stream is not put into quarantine, unless its job is
	// overdue. Another build or another master key may be able to read it.
	newer   = "written by a later version"
	keyless = "the owner's key cannot be opened"
)

func (d *Damage) Error() string { return fmt.Sprintf("%s@%d: %s", d.Stream, d.Version, d.Reason) }

// Unwrap returns ErrCorrupt for an event that a later version of the program wrote. It
// returns vault.ErrUnreadable if the owner's key cannot be opened. Otherwise it returns
// ErrDamaged.
func (d *Damage) Unwrap() error {
	switch d.Reason {
	case newer:
		return ErrCorrupt
	case keyless:
		return vault.ErrUnreadable
	}
	return ErrDamaged
}

// storedEvent is a row of the table events.
type storedEvent struct {
	Stream  Stream
	Version int
	Owner   uuid.UUID
	Type    string
	Schema  int
	Payload []byte
	Sealed  []byte // ciphertext of the secret members; nil if there are none, if it was emptied, and in schema 1
	Erased  bool   // the event was emptied: its stream ends with the event job.erased, and it is another one
}

// eventColumns are the columns that storedEvents expects.
const eventColumns = `stream, version, owner, type, schema, payload, sealed,
	type <> 'job.erased' and exists (select from events as e where e.stream = events.stream and e.type = 'job.erased')`

func storedEvents(rows pgx.Rows, _ error) ([]storedEvent, error) {
	return pgx.CollectRows(rows, pgx.RowToStructByPos[storedEvent])
}

// hash returns the hash of the payload.
func (r storedEvent) hash() Hash { return sha256.Sum256(r.Payload) }

// decode reverses encode, with the key of the row's owner. If key is nil or the job was
// erased, the secret members of the fact stay zero, and an event that has such members is
// marked as erased. The event previous is the one before it in the stream, or nil if the
// caller has not read it. The error is a Damage.
func (r storedEvent) decode(previous *storedEvent, key *vault.Key) (Event, error) {
	e, err := r.read(previous, key)
	switch {
	case err == nil:
		return e, nil
	case errors.Is(err, errNewer):
		return e, r.damage(newer)
	case errors.Is(err, errEmptied):
		return e, r.damage(missing)
	case errors.Is(err, errNotEmptied):
		return e, r.damage(notEmptied)
	case errors.Is(err, errMisplaced):
		return e, r.damage(misplaced)
	case errors.Is(err, errUnchained):
		return e, r.damage(unchained)
	case errors.Is(err, errUncommitted):
		return e, r.damage(uncommitted)
	case errors.Is(err, vault.ErrUnreadable):
		return e, r.damage(unopenable)
	}
	return e, r.damage(undecodable)
}

func (r storedEvent) read(previous *storedEvent, key *vault.Key) (Event, error) {
	s, at, err := readEnvelope(r.Payload)
	if err != nil {
		return Event{}, err
	}
	if err := r.agrees(s); err != nil {
		return Event{}, err
	}
	if err := r.follows(s, previous); err != nil {
		return Event{}, err
	}
	e := Event{Stream: r.Stream, Version: r.Version, Owner: r.Owner, At: at, Hash: r.hash()}
	open := r.openFact
	if s.Schema == 1 {
		open = openFact1
	}
	if r.Erased {
		key = nil // the ciphertext of schema 1 is still there
	}
	raw, erased, err := open(s, key)
	if err != nil {
		return e, fmt.Errorf("open %s: %w", aad(r.Stream, r.Version), err)
	}
	e.Erased = erased
	if e.Fact, err = decodeFact(s.Type, raw); err != nil {
		return e, fmt.Errorf("decode %s: %w", aad(r.Stream, r.Version), err)
	}
	return e, nil
}

// agrees returns errMisplaced if the columns of the row say something else than the
// payload. In schema 2, the owner of a job is a committed member of its first event, and
// the owner of an account's event is the account.
func (r storedEvent) agrees(s stored) error {
	if s.Stream != r.Stream || s.Version != r.Version || s.Type != r.Type || s.Schema != r.Schema {
		return errMisplaced
	}
	owned := s.Owner == (uuid.UUID{})
	switch {
	case s.Schema == 1:
		owned = s.Owner == r.Owner && r.Sealed == nil
	case s.Type == JobAccepted{}.Type():
		owned = owned && s.Commit[memberOwner] != ""
	case strings.HasPrefix(string(s.Stream), "account/"):
		owned = owned && r.Owner == s.Stream.ID()
	}
	if !owned {
		return errMisplaced
	}
	return nil
}

// follows returns errUnchained unless the payload has the hash of the previous event, or no
// hash if it is the first event. Events of schema 1 have no hash, and do not follow an event
// of schema 2. If previous is nil, the hash is not compared.
func (r storedEvent) follows(s stored, previous *storedEvent) error {
	switch {
	case r.Schema == 1:
		if s.Prev == "" && (previous == nil || previous.Schema == 1) {
			return nil
		}
	case r.Version == 1:
		if s.Prev == "" && previous == nil {
			return nil
		}
	case previous == nil:
		if len(s.Prev) == hex.EncodedLen(sha256.Size) {
			return nil
		}
	default:
		if hash := previous.hash(); s.Prev == hex.EncodeToString(hash[:]) {
			return nil
		}
	}
	return errUnchained
}

func (r storedEvent) damage(reason string) *Damage {
	return &Damage{Stream: r.Stream, Version: r.Version, Owner: r.Owner, Reason: reason}
}

// decodeAll decodes consecutive events of one stream in order. Events of erased owners are
// marked as erased. If an event is damaged, decodeAll returns the events before it, and a
// Damage.
func (s *Store) decodeAll(ctx context.Context, db vault.DB, stored []storedEvent) ([]Event, error) {
	events := make([]Event, 0, len(stored))
	var previous *storedEvent
	for i, r := range stored {
		e, err := s.decode(ctx, db, r, previous)
		if err != nil {
			return events, err
		}
		events = append(events, e)
		previous = &stored[i]
	}
	return events, nil
}

// decode decodes one event with the key of its owner. The error is a Damage unless the key
// cannot be read.
func (s *Store) decode(ctx context.Context, db vault.DB, r storedEvent, previous *storedEvent) (Event, error) {
	e, err := s.decodeWith(ctx, db, r, previous, s.vault.Key)
	if hasReason(err, missing, unopenable) {
		// The key in memory may be older than the row: another process has erased the owner
		// or replaced the key.
		s.vault.Forget(r.Owner)
		e, err = s.decodeWith(ctx, db, r, previous, s.vault.Reload)
	}
	for hasReason(err, unopenable) {
		// The row may be older than the key: it was sealed again, and the earlier key is
		// destroyed.
		again, failed := storedEvents(s.pool.Query(ctx, `select `+eventColumns+` from events where stream = $1 and version = $2`, r.Stream, r.Version))
		if failed != nil {
			return e, fmt.Errorf("read %s again: %w", aad(r.Stream, r.Version), failed)
		}
		if len(again) == 0 || bytes.Equal(again[0].Sealed, r.Sealed) {
			break
		}
		r = again[0]
		e, err = s.decodeWith(ctx, s.pool, r, previous, s.vault.Reload)
	}
	return e, err
}

// hasReason reports whether err is a Damage for one of the reasons.
func hasReason(err error, reasons ...string) bool {
	d, ok := errors.AsType[*Damage](err)
	return ok && slices.Contains(reasons, d.Reason)
}

// keyFunc is Key or Reload of a vault.
type keyFunc func(context.Context, vault.DB, uuid.UUID) (*vault.Key, error)

// decodeWith is decode with a key that it gets by calling keyOf.
func (s *Store) decodeWith(ctx context.Context, db vault.DB, r storedEvent, previous *storedEvent, keyOf keyFunc) (Event, error) {
	if r.Erased {
		return r.decode(previous, nil) // nothing of it is sealed any more
	}
	key, err := keyOf(ctx, db, r.Owner)
	switch {
	case errors.Is(err, vault.ErrUnreadable):
		return Event{}, r.damage(keyless)
	case err != nil && !errors.Is(err, vault.ErrErased):
		return Event{}, err
	}
	return r.decode(previous, key)
}

// foldStream folds the events of one stream. The error is a Damage if an event cannot
// follow the events before it.
func foldStream(events []Event) (Job, error) {
	j, err := Fold(events)
	if err != nil {
		bad := events[j.Version]
		return j, &Damage{Stream: bad.Stream, Version: bad.Version, Owner: bad.Owner, Reason: illegal}
	}
	return j, nil
}

// codeDamaged is the SQLSTATE that the trigger not_damaged raises.
const codeDamaged = "CL002"

// setAside returns err. If err wraps ErrDamaged, setAside first calls SetAside. If that
// fails, setAside returns the error of the database, so that the caller tries again.
func (s *Store) setAside(ctx context.Context, err error) error {
	if d, ok := errors.AsType[*Damage](err); ok && errors.Is(d, ErrDamaged) {
		if err := s.SetAside(ctx, d); err != nil {
			return err
		}
	}
	return err
}

// SetAside puts a damaged stream into quarantine, and logs this the first time. If the
// stream is a job's stream, no event can be appended to it from then on. If the job has
// not ended, its state in the history view becomes "damaged", and the job no longer
// counts as outstanding.
func (s *Store) SetAside(ctx context.Context, d *Damage) error {
	var first bool
	err := s.pool.QueryRow(ctx, `
		with added as (
			insert into quarantine (stream, version, owner, reason) values ($1, $2, $3, $4) on conflict do nothing returning stream
		), marked as (
			update history set state = 'damaged' where job = $5 and state in ('queued', 'running')
		)
		select exists (select from added)`, d.Stream, d.Version, d.Owner, d.Reason, d.Stream.ID()).Scan(&first)
	if err != nil {
		return fmt.Errorf("set damaged stream %s aside: %w", d.Stream, err)
	}
	if first {
		s.log.ErrorContext(ctx, "damaged stream set aside", "stream", d.Stream, "version", d.Version, "reason", d.Reason)
	}
	return nil
}

// SetAsideOverdue calls SetAside for the stream of a job whose deadline passed at least the
// duration late ago. It does nothing for other jobs.
func (s *Store) SetAsideOverdue(ctx context.Context, d *Damage, late time.Duration) error {
	var overdue bool
	err := s.pool.QueryRow(ctx, `
		select exists (select from history where job = $1 and deadline < clock_timestamp() - $2::interval)`, d.Stream.ID(), late).Scan(&overdue)
	if err != nil {
		return fmt.Errorf("read the deadline of %s: %w", d.Stream, err)
	}
	if !overdue {
		return nil
	}
	return s.SetAside(ctx, d)
}

// Quarantine returns up to limit damaged streams, in order of their names. It returns the
// streams that follow the stream after; an empty after means all streams. A damaged
// stream that has not been read yet is not in quarantine.
func (s *Store) Quarantine(ctx context.Context, after Stream, limit int) ([]*Damage, error) {
	rows, _ := s.pool.Query(ctx, `select stream, version, owner, reason, at from quarantine where stream > $1 order by stream limit $2`, after, limit)
	damaged, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[Damage])
	if err != nil {
		return nil, fmt.Errorf("list the damaged streams: %w", err)
	}
	return damaged, nil
}

// endQuarantineOfAccounts ends the quarantine of accounts' streams whose events can be
// decoded again.
func (s *Store) endQuarantineOfAccounts(ctx context.Context, conn *pgx.Conn) error {
	rows, _ := conn.Query(ctx, `select stream from quarantine where starts_with(stream, 'account/')`)
	streams, err := pgx.CollectRows(rows, pgx.RowTo[Stream])
	if err != nil {
		return err
	}
	for _, stream := range streams {
		_, err := s.read(ctx, stream, 0)
		if err == nil {
			_, err = conn.Exec(ctx, `delete from quarantine where stream = $1`, stream)
		}
		if _, damaged := errors.AsType[*Damage](err); err != nil && !damaged {
			return err
		}
	}
	return nil
}
