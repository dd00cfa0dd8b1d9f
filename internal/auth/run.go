package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"colophon/internal/periodic"
	"colophon/internal/pg"
)

const (
	// defaultPollInterval is the interval of Run's polls for ended sessions. An
	// announcement causes a poll at once, but at least pollGap after the previous poll.
	defaultPollInterval = time.Second
	pollGap             = 50 * time.Millisecond

	// collectEvery is the interval between two removals of expired rows by Run.
	collectEvery = time.Minute

	collectBatch   = 1000 // the maximum number of rows that one statement removes
	collectTimeout = 10 * time.Second
)

// Run reads ended sessions and new keys into memory until ctx is done. It also removes
// expired rows from the database, and writes when API keys were last used.
func (s *Service) Run(ctx context.Context, log *slog.Logger) {
	announced, unsubscribe := s.store.WatchAccounts()
	defer unsubscribe()
	var collecting sync.WaitGroup
	defer collecting.Wait()
	collecting.Go(func() { periodic.Run(ctx, collectEvery, log, "expired rows not removed", s.collect) })
	collecting.Go(func() { s.keepUsed(ctx, log) })
	tick := time.NewTicker(s.pollInterval)
	defer tick.Stop()
	failing := false
	for keysAge := s.keys.maxAge / 2; ; {
		err := s.ended.poll(ctx)
		s.keys.within(ctx, keysAge)
		keysAge = s.keys.maxAge / 2
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			log.WarnContext(ctx, "ended sessions not read, access tokens refused if this lasts", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollGap):
		}
		select {
		case <-ctx.Done():
			return
		case <-announced:
			keysAge = s.keys.reads.Keep // the announced event may be a key rotation
		case <-tick.C:
		}
	}
}

// collect removes expired rows from the database, and old ended sessions from memory.
// In some tables other transactions lock several rows. In these tables collect skips
// locked rows, to avoid deadlocks.
func (s *Service) collect(ctx context.Context) error {
	s.ended.forget()
	s.known.forget()
	const (
		age  = `clock_timestamp() - $1::interval` // the database's clock has set the times in these rows
		skip = `for update skip locked`
	)
	// All access tokens of a session that ended before cutoff have expired. The session's
	// refresh tokens are deleted together with the session.
	cutoff := s.now().Add(-s.ended.keep)
	var errs []error
	for _, old := range []struct {
		table, key, since, before, lock string
		arg                             any
	}{
		{"sign_in_failures", "key", "began_at", age, skip, failureWindow},
		{"known_networks", "key", "at", age, skip, knownNetworkTTL},
		// Ended sessions stay in the table longer than in memory, because a process that
		// starts reads the table.
		{"ended_sessions", "session", "ended_at", age, "", 2 * s.ended.keep},
		{"tickets", "hash", "expires_at", "$1", "", s.now()},
		{"resumptions", "hash", "expires_at", "$1", "", s.now()},
		{"sessions", "id", "expires_at", "$1", skip, cutoff},
		{"sessions", "id", "revoked_at", "$1", skip, cutoff},
		{"api_keys", "id", "revoked_at", "$1", skip, cutoff},
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

// keepUsed writes once a minute when API keys were last used, and a last time when ctx is
// done. A process that is killed loses the uses of its last minute.
func (s *Service) keepUsed(ctx context.Context, log *slog.Logger) {
	periodic.Run(ctx, collectEvery, log, "last use of API keys not written", s.writeUsed)
	if err := s.writeUsed(context.WithoutCancel(ctx)); err != nil {
		log.WarnContext(ctx, "last use of API keys not written", "err", err)
	}
}
