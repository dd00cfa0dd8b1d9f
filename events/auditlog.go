package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AuditEvent is what an auditor sees of an event. It has no prompt, no text and no name.
type AuditEvent struct {
	Index   int64
	At      time.Time
	Type    string
	Stream  Stream
	Version int
	Owner   uuid.UUID

	// These members are empty unless the event has them.
	By     string // who caused it: an account's id, "owner", "service" or "command"
	Policy string // version of the text policy
	Rule   string // rule that a refused prompt broke

	// Damaged is set if the payload cannot be read.
	Damaged bool
}

// AuditFilter selects events. Zero fields select all.
type AuditFilter struct {
	Owner        *uuid.UUID
	Type         string
	Since, Until time.Time // events at Since and later, and before Until
}

// AuditStep is the number of entries of the log that Audit reads at most.
const AuditStep = 1000

// auditQuery selects events of a page of the log. Its rows, of which there is at least one,
// also say how far the page goes.
const auditQuery = `read as (select max(idx) as last, count(*) as n from page)
	select read.last, read.n, idx, at, type, stream, version, owner, payload
	from read left join (
		select * from page join events using (position)
		where ($3 = '' or type = $3) and ($4::timestamptz is null or at >= $4) and ($5::timestamptz is null or at < $5)
	) as chosen on true order by idx`

// present returns a time for a query, or nil for the zero time. The database has no time of
// the year 0, and events have none before 1970.
func present(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	if begin := time.Unix(0, 0); at.Before(begin) {
		at = begin
	}
	return &at
}

// Audit returns the events that a filter selects among the next entries of the log after an
// index. It reads at most AuditStep entries, those of other owners not counted if the filter
// has an owner, and so returns in bounded time. The result last is the index of the last
// entry that it has read, or after if there is none. If more is false, the log ended there.
func (s *Store) Audit(ctx context.Context, filter AuditFilter, after int64) (found []AuditEvent, last int64, more bool, err error) {
	since, until := present(filter.Since), present(filter.Until)
	var rows pgx.Rows
	if filter.Owner == nil {
		rows, _ = s.pool.Query(ctx, `with page as materialized (
			select idx, position from log_entries where idx > $1 order by idx limit $2
		), `+auditQuery, after, AuditStep, filter.Type, since, until)
	} else {
		rows, _ = s.pool.Query(ctx, `with page as materialized (
			select idx, position from log_entries where owner = $6 and idx > $1 order by idx limit $2
		), `+auditQuery, after, AuditStep, filter.Type, since, until, filter.Owner)
	}
	last = after
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (none struct{}, err error) {
		var readTo, index *int64
		var n int
		var at *time.Time
		var kind *string
		var stream *Stream
		var version *int
		var owner *uuid.UUID
		var payload []byte
		if err := row.Scan(&readTo, &n, &index, &at, &kind, &stream, &version, &owner, &payload); err != nil {
			return none, err
		}
		if readTo != nil {
			last, more = *readTo, n == AuditStep
		}
		if index != nil {
			found = append(found, audited(AuditEvent{Index: *index, At: at.UTC(), Type: *kind, Stream: *stream, Version: *version, Owner: *owner}, payload))
		}
		return none, nil
	})
	if err != nil {
		return nil, after, false, fmt.Errorf("read the log for an audit: %w", err)
	}
	return found, last, more, nil
}

// audited adds the members of the payload to an event. It needs no key, so it reads no secret
// member.
func audited(e AuditEvent, payload []byte) AuditEvent {
	s, _, err := readEnvelope(payload)
	if err != nil && !errors.Is(err, errNewer) {
		e.Damaged = true
		return e
	}
	var members struct{ By, Policy, Rule string }
	if json.Unmarshal(s.Fact, &members) != nil {
		e.Damaged = true
		return e
	}
	e.By, e.Policy, e.Rule = members.By, members.Policy, members.Rule
	return e
}
