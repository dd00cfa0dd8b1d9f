// Package limit limits requests per key in fixed windows of time.
//
// A [Limit] allows each key a number of requests per window. The first window of a key
// begins with the key's first request. Each later window begins at the end of the
// previous window. Around the boundary of two windows, up to twice the number of
// requests can therefore pass in a short time. A refused request does not count. Limits
// are exact under any concurrency. An [InMemory] limit is exact within one process,
// for up to 100,000 keys at a time. A [Shared] limit is exact across all processes that
// use one database. All types are safe for concurrent use.
package limit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Rate is a number of requests in fixed windows of time.
type Rate struct {
	Requests uint64
	Per      time.Duration // the length of a window
}

// UnmarshalText reads NUMBER/DURATION, such as 5/1m. The number is at least one, and
// the duration is between a second and 31 days.
func (r *Rate) UnmarshalText(text []byte) error {
	number, per, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 || per == "" {
		return errors.New("a limit is a number of requests and a time, such as 5/1m")
	}
	d, err := time.ParseDuration(per)
	if err != nil || d < time.Second || d > 31*24*time.Hour {
		return errors.New("the time of a limit is between a second and 31 days, such as 1m")
	}
	*r = Rate{Requests: n, Per: d}
	return nil
}

// groupShare is the number of keys whose requests together use up the rate of their group.
const groupShare = 16

// Limit applies a rate to each key separately. A group of keys has groupShare times the
// rate of one key.
type Limit struct {
	name   string
	rate   Rate
	store  store
	groups store
}

// store counts requests. It is in memory or in the database.
type store interface {
	Take(ctx context.Context, key string) (tokens, remaining, reset uint64, ok bool, err error)
}

// ofGroup returns the rate of a group of keys.
func (r Rate) ofGroup() Rate { return Rate{groupShare * r.Requests, r.Per} }

// InMemory returns a limit that counts within this process. It counts up to 100,000 keys
// and as many groups, and forgets the least recently used key or group beyond that number.
func InMemory(name string, rate Rate) (*Limit, error) {
	store, err := newMemory(rate)
	groups, err2 := newMemory(rate.ofGroup())
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("limit %s: %w", name, err)
	}
	return &Limit{name, rate, store, groups}, nil
}

// Shared returns a limit that counts in the database. It shares its counts with the
// limits of the same name in other processes. [RemoveOld] must run in at least one
// process.
func Shared(pool *pgxpool.Pool, name string, rate Rate) *Limit {
	return &Limit{name, rate, NewStore(pool, name, rate), NewStore(pool, name+" of a group", rate.ofGroup())}
}

// Count is the state of a key's window after a request.
type Count struct {
	Limit     uint64        // requests per window
	Remaining uint64        // requests left in this window
	Reset     time.Duration // time until the next window, never negative
	OK        bool          // whether the request is allowed
}

// AtMost returns the count of a key that has its own limit of n requests per window, if n is
// lower. Requests that are refused for that limit have counted.
func (c Count) AtMost(n uint64) Count {
	if n >= c.Limit {
		return c
	}
	used := c.Limit - c.Remaining
	c.OK = c.OK && used <= n
	c.Limit, c.Remaining = n, n-min(n, used)
	return c
}

// Name returns the limit's name, which clients see.
func (l *Limit) Name() string { return l.name }

// Rate returns the rate of the keys that have no rate of their own.
func (l *Limit) Rate() Rate { return l.rate }

// Take counts a request of a key. If the key belongs to a group, Take also counts the
// request for the group, unless the key's own window is used up. An empty group means
// none. Count.OK says whether the request is allowed. The result is the state of the
// group's window if that window is used up, and of the key's window otherwise. After a
// database error, the request may or may not have been counted.
func (l *Limit) Take(ctx context.Context, key, group string) (Count, error) {
	count, err := take(ctx, l.store, key)
	if err != nil || !count.OK || group == "" {
		return count, err
	}
	if all, err := take(ctx, l.groups, group); err != nil || !all.OK {
		return all, err
	}
	return count, nil
}

func take(ctx context.Context, store store, key string) (Count, error) {
	tokens, remaining, reset, ok, err := store.Take(ctx, key)
	if err != nil {
		return Count{}, fmt.Errorf("count a request: %w", err)
	}
	// reset is Unix time in nanoseconds.
	return Count{tokens, remaining, max(0, time.Until(time.Unix(0, int64(reset)))), ok}, nil
}
