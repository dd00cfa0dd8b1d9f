package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"colophon/internal/pg"
)

const (
	// collectEvery is how often Run removes what has expired.
	collectEvery = time.Minute

	collectBatch   = 1000 // rows in one statement
	collectTimeout = 10 * time.Second
)

// collect removes expired rows from the database, and ended sessions from memory.
// It skips rows that others lock together with further ones, or they could wait
// for each other.
func (s *Service) collect(ctx context.Context) error {
	s.ended.forget()
	const (
		age  = `clock_timestamp() - $1::interval` // by the clock by which the rows were written
		skip = `for update skip locked`
	)
	// No access token speaks for a session any longer that ended, or would have,
	// so long ago. Its refresh tokens go with it.
	last := s.now().Add(-s.ended.keep)
	var errs []error
	for _, old := range []struct {
		table, key, since, before, lock string
		arg                             any
	}{
		{"sign_in_failures", "key", "began_at", age, skip, failuresFor},
		{"known_networks", "key", "at", age, skip, knownFor},
		// A process that starts may need what the others have forgotten by now.
		{"ended_sessions", "session", "ended_at", age, "", 2 * s.ended.keep},
		{"tickets", "hash", "expires_at", "$1", "", s.now()},
		{"sessions", "id", "expires_at", "$1", skip, last},
		{"sessions", "id", "revoked_at", "$1", skip, last},
	} {
		sql := fmt.Sprintf(`
			delete from %[1]s where %[2]s in (
				select %[2]s from %[1]s where %[3]s <= %[4]s order by %[3]s limit $2 %[5]s)`,
			old.table, old.key, old.since, old.before, old.lock)
		if _, err := pg.DeleteBatches(ctx, s.pool, collectBatch, collectTimeout, sql, old.arg); err != nil {
			errs = append(errs, fmt.Errorf("collect %s: %w", old.table, err))
		}
	}
	return errors.Join(errs...)
}
