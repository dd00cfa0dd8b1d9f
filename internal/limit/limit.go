// Package limit limits requests per key in fixed windows of time.
//
// A [Limit] allows each key a number of requests per window. The first window of a key
// begins with the key's first request. Each later window begins at the end of the
// previous window. Around the boundary of two windows, up to twice the number of
// requests can therefore pass in a short time. A [Use] may count as several requests, which
// pass all or none. A refused use does not count. Limits are exact under any concurrency. An [InMemory] limit is exact within one process,
// for up to 100,000 keys at a time. A [Shared] limit is exact across all processes that
// use one database. All types are safe for concurrent use.
package limit

import (
	"context"
	"errors"
	"fmt"
	"math"
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
	// take counts n requests of a key, unless fewer are left, or the key would have more than
	// most requests in the window. The function undo takes them back, if their window has not
	// ended. It is nil if nothing was counted.
	take(ctx context.Context, key string, n, most uint64) (c Count, undo func(context.Context) error, err error)
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

// Use is what a call of Take counts.
type Use struct {
	Key   string
	Group string // the key's group, or empty
	N     uint64 // number of requests that the use counts as; 0 means one
	Most  uint64 // the key's own limit of requests per window, which applies if it is lower; 0 means none
}

// Name returns the limit's name, which clients see.
func (l *Limit) Name() string { return l.name }

// Rate returns the rate of the keys that have no rate of their own.
func (l *Limit) Rate() Rate { return l.rate }

// Take counts a use of a key, and for the key's group if it has one. Count.OK says whether the
// use is allowed; otherwise nothing is counted. The result is the state of the group's window
// if the use does not fit into that window, and of the key's window otherwise. After a database
// error, the use may or may not have been counted.
func (l *Limit) Take(ctx context.Context, u Use) (Count, error) {
	n, most := max(1, u.N), u.Most
	if most == 0 {
		most = math.MaxInt64
	}
	count, undo, err := l.store.take(ctx, u.Key, n, most)
	if err == nil && count.OK && u.Group != "" {
		var all Count
		if all, _, err = l.groups.take(ctx, u.Group, n, math.MaxInt64); err == nil && !all.OK {
			count, err = all, undo(ctx)
		}
	}
	if err != nil {
		return Count{}, fmt.Errorf("count requests: %w", err)
	}
	return count, nil
}
