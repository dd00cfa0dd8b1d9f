package auth

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	netaddr "colophon/internal/network"
	"colophon/internal/vault"
)

// Wrong passwords delay the next sign-in attempt. The delay is checked before a hash is
// computed. The database counts failures per pair of name and network, by its own clock,
// even if no account has the name. So guessing delays only the guesser, with two
// exceptions. First, a network with failures under many names is delayed under all names,
// and so is a site (see the package network) with failures from many networks.
// Second, after very many failures under one name, an unknown network has one free attempt
// under this name instead of ten. A network is known for an account if a sign-in from the
// network has succeeded. The exceptions do not apply to known networks, so that attackers
// cannot lock the owner out.
const (
	// failureWindow is the time for which failures count. It begins with the first
	// failure.
	failureWindow = 24 * time.Hour

	// knownNetworkTTL is the time for which a network stays known after the latest
	// sign-in from it.
	knownNetworkTTL = 90 * 24 * time.Hour

	// underAttackAfter is the number of failures from unknown networks after which a
	// name is under attack.
	underAttackAfter = 100
)

// backoff is a policy that delays sign-in attempts after failures.
type backoff struct {
	free         int           // number of attempts before the first delay
	initial, max time.Duration // initial is the first delay, and each later delay is twice as long, up to max
}

// backoffs are the delays that a service applies after failed sign-ins.
type backoffs struct {
	pair        backoff // under one name from one network
	underAttack backoff // under a name under attack from one unknown network; replaces pair
	network     backoff // under all names from one network, unless it is known for the name
	site        backoff // under all names from the networks of one site, unless they are known for the name
}

var productionBackoffs = backoffs{
	pair:        backoff{10, time.Second, 15 * time.Minute},
	underAttack: backoff{1, time.Minute, 15 * time.Minute},
	network:     backoff{100, time.Second, time.Minute},
	site:        backoff{1600, time.Second, time.Minute},
}

// ThrottledError occurs when a password is not checked because of earlier failures.
type ThrottledError struct {
	Wait time.Duration // the time until the next sign-in attempt may succeed
}

// Code returns the error's code for programs.
func (*ThrottledError) Code() string { return "too_many_wrong_passwords" }

// RetryAfter returns the time to wait before the next sign-in attempt.
func (e *ThrottledError) RetryAfter() time.Duration { return e.Wait }

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("too many wrong passwords from your network: wait %.0f s", max(1, math.Ceil(e.Wait.Seconds())))
}

// signInAttempt is a password check under a name from a network. Its first four fields
// are digests. The database counts failures under these digests. The zero signInAttempt
// is not counted.
type signInAttempt struct {
	pair    []byte // digest of the name and the network
	network []byte
	site    []byte // nil if the network has no site
	name    []byte
	known   bool // true if a sign-in to the account has succeeded from this network
	wrong   bool // true if the password was checked and is wrong
}

// beginAttempt counts a sign-in attempt under the key of a name, or returns a
// ThrottledError. The attempt counts as a failure until its result is known. So
// concurrent attempts allow no more guesses than sequential attempts.
func (s *Service) beginAttempt(ctx context.Context, name, network string) (signInAttempt, error) {
	if s.options.Unthrottled {
		return signInAttempt{}, nil
	}
	a := signInAttempt{
		pair:    s.vault.Digest("sign-in", name, network),
		network: s.vault.Digest("sign-in network", network),
		name:    s.vault.Digest("sign-in name", name),
	}
	if site := netaddr.Site(network); site != "" {
		a.site = s.vault.Digest("sign-in site", site)
	}
	var wait time.Duration
	var underAttack bool
	err := s.pool.QueryRow(ctx, `
		with counted as (select * from sign_in_failures where began_at > clock_timestamp() - $4::interval)
		select
			exists (select from known_networks where key = $1),
			greatest(
				(select at + sign_in_wait(failures, $5, $6, $7) - clock_timestamp() from counted where key = $2),
				(select at + sign_in_wait(failures, $10, $11, $12) - clock_timestamp() from counted where key = $9), '0'),
			exists (select from counted where key = $3 and failures >= $8)`,
		a.pair, a.network, a.name, failureWindow, s.backoffs.network.free, s.backoffs.network.initial, s.backoffs.network.max, underAttackAfter,
		a.site, s.backoffs.site.free, s.backoffs.site.initial, s.backoffs.site.max).
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
	// The statement runs to its end even if the client disconnects. Otherwise the
	// database could count an attempt that the service never withdraws.
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

// countFailure is the part of an SQL statement that adds a failure to the row f. $2 is
// failureWindow.
const countFailure = `
	failures = case when f.began_at > clock_timestamp() - $2::interval then f.failures + 1 else 1 end,
	began_at = case when f.began_at > clock_timestamp() - $2::interval then f.began_at else clock_timestamp() end,
	at = clock_timestamp()`

// recordFailure adds a wrong password to the counts of the network and its site under all
// names, and to the count of the name from all networks. beginAttempt has already added the
// attempt to the count of the pair.
func (s *Service) recordFailure(ctx context.Context, tx *events.Tx, a signInAttempt) error {
	if a.pair == nil || a.known {
		return nil
	}
	for _, key := range [][]byte{a.network, a.site, a.name} { // always in this order, to avoid deadlocks
		if key == nil {
			continue
		}
		_, err := tx.Exec(ctx, `
			insert into sign_in_failures as f (key, failures, began_at, at) values ($1, 1, clock_timestamp(), clock_timestamp())
			on conflict (key) do update set `+countFailure, key, failureWindow)
		if err != nil {
			return err
		}
	}
	return nil
}

// clearFailures removes the failures of a name and network after a right password.
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

// forgetNetworks removes an account's known networks, except the network of the current
// sign-in attempt.
func (s *Service) forgetNetworks(ctx context.Context, tx *events.Tx, account uuid.UUID, current signInAttempt) error {
	_, err := tx.Exec(ctx, `delete from known_networks where account = $1 and key is distinct from $2`, account, current.pair)
	return err
}

// withdrawAttempt removes an attempt from the count of failures, after an error of the
// password check or of a later step. It does so even if the client has disconnected. If
// the password was wrong, withdrawAttempt does nothing.
func (s *Service) withdrawAttempt(ctx context.Context, a signInAttempt) error {
	if a.pair == nil || a.wrong {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `update sign_in_failures set failures = failures - 1 where key = $1 and failures > 0`, a.pair)
	return err
}
