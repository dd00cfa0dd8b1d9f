package auth

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/vault"
)

// Wrong passwords delay the next sign-in attempt, before a hash is computed for it.
// The database counts failures by its own clock, per pair of name and network, even if
// no account has the name. So guessing delays only the guesser, with two exceptions. A
// network that fails under many names is delayed under all of them. If very many
// networks have failed under one name, any other network has one free attempt for it
// instead of ten. An account's known networks, from which a sign-in has succeeded, are
// exempt from both, so that attackers cannot lock the owner out.
const (
	// failureWindow is how long failures count, starting from the first one.
	failureWindow = 24 * time.Hour

	// knownNetworkTTL is how long a network is known after the latest sign-in from it.
	knownNetworkTTL = 90 * 24 * time.Hour

	// underAttackAfter is the number of failures from unknown networks after which a
	// name is under attack.
	underAttackAfter = 100
)

// backoff is a policy that delays sign-in attempts after failures.
type backoff struct {
	free         int           // attempts without a delay
	initial, max time.Duration // the first delay; later ones double up to max
}

// backoffs are the policies of a service.
type backoffs struct {
	pair        backoff // under one name from one network
	underAttack backoff // the same, for a name under attack and an unknown network
	network     backoff // from one network, under all names, unless it is known for the name
}

var productionBackoffs = backoffs{
	pair:        backoff{10, time.Second, 15 * time.Minute},
	underAttack: backoff{1, time.Minute, 15 * time.Minute},
	network:     backoff{100, time.Second, time.Minute},
}

// ThrottledError occurs when a password is not checked because of earlier failures.
type ThrottledError struct {
	Wait time.Duration // until the next sign-in attempt may succeed
}

// Code returns the error's code.
func (*ThrottledError) Code() string { return "too_many_wrong_passwords" }

// RetryAfter returns how long to wait.
func (e *ThrottledError) RetryAfter() time.Duration { return e.Wait }

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("too many wrong passwords from your network: wait %.0f s", max(1, math.Ceil(e.Wait.Seconds())))
}

// signInAttempt is a password check under a name from a network. Its keys are digests
// under which the database counts. The zero signInAttempt is not counted.
type signInAttempt struct {
	pair    []byte // name and network
	network []byte
	name    []byte
	known   bool // a sign-in to the account has succeeded from this network
	wrong   bool // the password was checked and is wrong
}

// beginAttempt counts a sign-in attempt under the key of a name, or returns a
// ThrottledError. The attempt counts as a failure until its result is known, so that
// concurrent attempts get no more tries than sequential ones.
func (s *Service) beginAttempt(ctx context.Context, name, network string) (signInAttempt, error) {
	if s.options.Unthrottled {
		return signInAttempt{}, nil
	}
	a := signInAttempt{
		pair:    s.vault.Digest("sign-in", name, network),
		network: s.vault.Digest("sign-in network", network),
		name:    s.vault.Digest("sign-in name", name),
	}
	var wait time.Duration
	var underAttack bool
	err := s.pool.QueryRow(ctx, `
		with counted as (select * from sign_in_failures where began_at > clock_timestamp() - $4::interval)
		select
			exists (select from known_networks where key = $1),
			coalesce((select at + sign_in_wait(failures, $5, $6, $7) - clock_timestamp() from counted where key = $2), '0'),
			exists (select from counted where key = $3 and failures >= $8)`,
		a.pair, a.network, a.name, failureWindow, s.backoffs.network.free, s.backoffs.network.initial, s.backoffs.network.max, underAttackAfter).
		Scan(&a.known, &wait, &underAttack)
	if err != nil {
		return signInAttempt{}, fmt.Errorf("read failed sign-ins: %w", err)
	}
	if !a.known && wait > 0 {
		return signInAttempt{}, &ThrottledError{wait}
	}
	policy := s.backoffs.pair
	if !a.known && underAttack {
		policy = s.backoffs.underAttack
	}
	var allowed bool
	// The statement runs to its end even if the client leaves. Otherwise the database
	// could have counted an attempt that the service does not withdraw.
	err = s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
		defer cancel()
		return conn.QueryRow(ctx, `
			with counted as (
				insert into sign_in_failures as f (key, failures, began_at, at) values ($1, 1, clock_timestamp(), clock_timestamp())
				on conflict (key) do update set `+countFailure+`
				where f.began_at <= clock_timestamp() - $2::interval or f.at + sign_in_wait(f.failures, $3, $4, $5) <= clock_timestamp()
				returning true)
			select
				exists (select from counted),
				coalesce((select at + sign_in_wait(failures, $3, $4, $5) - clock_timestamp() from sign_in_failures where key = $1), '0')`,
			a.pair, failureWindow, policy.free, policy.initial, policy.max).Scan(&allowed, &wait)
	})
	if err != nil {
		return signInAttempt{}, fmt.Errorf("count a sign-in attempt: %w", err)
	}
	if !allowed {
		return signInAttempt{}, &ThrottledError{max(wait, time.Second)}
	}
	return a, nil
}

// countFailure updates row f for one more failure. $2 is failureWindow.
const countFailure = `
	failures = case when f.began_at > clock_timestamp() - $2::interval then f.failures + 1 else 1 end,
	began_at = case when f.began_at > clock_timestamp() - $2::interval then f.began_at else clock_timestamp() end,
	at = clock_timestamp()`

// recordFailure counts a wrong password for the network under all names, and for the
// name from all networks. beginAttempt has counted it for the pair.
func (s *Service) recordFailure(ctx context.Context, tx *events.Tx, a signInAttempt) error {
	if a.pair == nil || a.known {
		return nil
	}
	for _, key := range [][]byte{a.network, a.name} { // always in this order, to avoid deadlocks
		_, err := tx.Exec(ctx, `
			insert into sign_in_failures as f (key, failures, began_at, at) values ($1, 1, clock_timestamp(), clock_timestamp())
			on conflict (key) do update set `+countFailure, key, failureWindow)
		if err != nil {
			return err
		}
	}
	return nil
}

// clearFailures removes the failures of the pair after a right password.
func (s *Service) clearFailures(ctx context.Context, db vault.DB, a signInAttempt) error {
	if a.pair == nil {
		return nil
	}
	_, err := db.Exec(ctx, `delete from sign_in_failures where key = $1`, a.pair)
	return err
}

// rememberNetwork stores the network of an attempt as known for the account.
func (s *Service) rememberNetwork(ctx context.Context, tx *events.Tx, a signInAttempt, account uuid.UUID) error {
	if a.pair == nil {
		return nil
	}
	_, err := tx.Exec(ctx, `
		insert into known_networks as k (key, account, at) values ($1, $2, clock_timestamp())
		on conflict (key) do update set at = excluded.at`, a.pair, account)
	return err
}

// forgetNetworks removes an account's known networks, except the one of the current
// sign-in attempt.
func (s *Service) forgetNetworks(ctx context.Context, tx *events.Tx, account uuid.UUID, current signInAttempt) error {
	_, err := tx.Exec(ctx, `delete from known_networks where account = $1 and key is distinct from $2`, account, current.pair)
	return err
}

// withdrawAttempt removes an attempt from the count if its password was not found
// wrong, because the check or a later step failed. It does so even if the client has
// left.
func (s *Service) withdrawAttempt(ctx context.Context, a signInAttempt) error {
	if a.pair == nil || a.wrong {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `update sign_in_failures set failures = failures - 1 where key = $1 and failures > 0`, a.pair)
	return err
}
