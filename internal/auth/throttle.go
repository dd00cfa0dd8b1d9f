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

// Wrong passwords make the next attempt wait, before a hash is computed for it.
// What is counted, in the database and by its clock, is attempts under a name
// from a network, whether there is such an account or not. So whoever guesses
// keeps himself waiting and nobody else, with two exceptions: who fails under
// many names is slowed down under all of them, and under a name at which very
// many networks have failed a further network has one attempt to begin with in
// place of ten. Neither exception holds for a network from which the account
// has been signed in to, so that others cannot lock its owner out.
const (
	// failuresFor is how long failures count, from the first one on.
	failuresFor = 24 * time.Hour

	// knownFor is how long a network is known after the latest sign-in from it.
	knownFor = 90 * 24 * time.Hour

	// besiegedAfter is how many failures of unknown networks make a name one that
	// is being guessed at from everywhere.
	besiegedAfter = 100
)

// pace says how attempts that follow failures are slowed down.
type pace struct {
	free        int           // so many may come at once
	first, most time.Duration // how long the next one waits; twice as long each time, until it is most
}

// paces are those of a service.
type paces struct {
	pair     pace // under one name from one network
	besieged pace // likewise, where many others fail too
	network  pace // from one network under any name that it is not known for
}

var productionPaces = paces{
	pair:     pace{10, time.Second, 15 * time.Minute},
	besieged: pace{1, time.Minute, 15 * time.Minute},
	network:  pace{100, time.Second, time.Minute},
}

// ThrottledError occurs when a password is not looked at, because too many were
// wrong before.
type ThrottledError struct {
	Wait time.Duration // until the next attempt may succeed
}

// Code returns the error's code.
func (*ThrottledError) Code() string { return "too_many_wrong_passwords" }

// RetryAfter returns how long to wait.
func (e *ThrottledError) RetryAfter() time.Duration { return e.Wait }

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("too many wrong passwords from your network: wait %.0f s", max(1, math.Ceil(e.Wait.Seconds())))
}

// attempt is a password that is tried under a name from a network, as the
// tables know them. The zero attempt is not counted.
type attempt struct {
	pair    []byte // name and network
	network []byte
	name    []byte
	known   bool // the account has been signed in to from there
	wrong   bool // the password has been looked at
}

// attempt lets somebody try a password under the key of a name, or returns a
// ThrottledError. The attempt counts as a failure until it is known to be none,
// so that many at the same time are not more than many in a row.
func (s *Service) attempt(ctx context.Context, name, network string) (attempt, error) {
	if s.options.Unthrottled {
		return attempt{}, nil
	}
	a := attempt{
		pair:    s.vault.Digest("sign-in", name, network),
		network: s.vault.Digest("sign-in network", network),
		name:    s.vault.Digest("sign-in name", name),
	}
	var wait time.Duration
	var besieged bool
	err := s.pool.QueryRow(ctx, `
		with counted as (select * from sign_in_failures where began_at > clock_timestamp() - $4::interval)
		select
			exists (select from known_networks where key = $1),
			coalesce((select at + sign_in_wait(failures, $5, $6, $7) - clock_timestamp() from counted where key = $2), '0'),
			exists (select from counted where key = $3 and failures >= $8)`,
		a.pair, a.network, a.name, failuresFor, s.paces.network.free, s.paces.network.first, s.paces.network.most, besiegedAfter).
		Scan(&a.known, &wait, &besieged)
	if err != nil {
		return attempt{}, fmt.Errorf("look for failed sign-ins: %w", err)
	}
	pace := s.paces.pair
	if !a.known && wait > 0 {
		return attempt{}, &ThrottledError{wait}
	}
	if !a.known && besieged {
		pace = s.paces.besieged
	}
	var allowed bool
	// A client that leaves meanwhile does not disturb the statement: an attempt that
	// may have been counted without the service knowing could not be taken back.
	err = s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		return conn.QueryRow(ctx, `
			with counted as (
				insert into sign_in_failures as f (key, failures, began_at, at) values ($1, 1, clock_timestamp(), clock_timestamp())
				on conflict (key) do update set `+another+`
				where f.began_at <= clock_timestamp() - $2::interval or f.at + sign_in_wait(f.failures, $3, $4, $5) <= clock_timestamp()
				returning true)
			select
				exists (select from counted),
				coalesce((select at + sign_in_wait(failures, $3, $4, $5) - clock_timestamp() from sign_in_failures where key = $1), '0')`,
			a.pair, failuresFor, pace.free, pace.first, pace.most).Scan(&allowed, &wait)
	})
	if err != nil {
		return attempt{}, fmt.Errorf("count a sign-in: %w", err)
	}
	if !allowed {
		return attempt{}, &ThrottledError{max(wait, time.Second)}
	}
	return a, nil
}

// another is how one more failure changes a row f; $2 is failuresFor.
const another = `
	failures = case when f.began_at > clock_timestamp() - $2::interval then f.failures + 1 else 1 end,
	began_at = case when f.began_at > clock_timestamp() - $2::interval then f.began_at else clock_timestamp() end,
	at = clock_timestamp()`

// failed counts an attempt whose password was wrong where it has not been
// counted yet: for the network under whatever name, and the name from wherever.
func (s *Service) failed(ctx context.Context, tx *events.Tx, a attempt) error {
	if a.pair == nil || a.known {
		return nil
	}
	for _, key := range [][]byte{a.network, a.name} { // in this order, or two of them could wait for each other
		_, err := tx.Exec(ctx, `
			insert into sign_in_failures as f (key, failures, began_at, at) values ($1, 1, clock_timestamp(), clock_timestamp())
			on conflict (key) do update set `+another, key, failuresFor)
		if err != nil {
			return err
		}
	}
	return nil
}

// succeeded forgets the failures before an attempt whose password was right.
func (s *Service) succeeded(ctx context.Context, db vault.DB, a attempt) error {
	if a.pair == nil {
		return nil
	}
	_, err := db.Exec(ctx, `delete from sign_in_failures where key = $1`, a.pair)
	return err
}

// know remembers the network from which an account has been signed in to.
func (s *Service) know(ctx context.Context, tx *events.Tx, a attempt, account uuid.UUID) error {
	if a.pair == nil {
		return nil
	}
	_, err := tx.Exec(ctx, `
		insert into known_networks as k (key, account, at) values ($1, $2, clock_timestamp())
		on conflict (key) do update set at = excluded.at`, a.pair, account)
	return err
}

// unknow forgets from which networks an account has been signed in to, but for
// that of an attempt.
func (s *Service) unknow(ctx context.Context, tx *events.Tx, account uuid.UUID, but attempt) error {
	_, err := tx.Exec(ctx, `delete from known_networks where account = $1 and key is distinct from $2`, account, but.pair)
	return err
}

// undecided takes an attempt back, unless its password was wrong: it was not
// looked at, or nothing came of it. The client may have left.
func (s *Service) undecided(ctx context.Context, a attempt) error {
	if a.pair == nil || a.wrong {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `update sign_in_failures set failures = failures - 1 where key = $1 and failures > 0`, a.pair)
	return err
}
