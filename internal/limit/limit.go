// Package limit counts requests and says which of them are too many.
//
// A [Limit] allows each key so many requests in a window of time. Windows are
// fixed: a key's first one begins with its first request, and the following ones
// where the one before ended, so that around a boundary twice as many can pass. A
// request that is refused does not count. Limits are exact under any concurrency:
// those of [InMemory] in one process, those of [Shared] together in all processes
// over one database. All of it is safe for concurrent use.
package limit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	limiter "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"
)

// Rate is a number of requests in fixed windows of time.
type Rate struct {
	Requests uint64
	Per      time.Duration
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

// Limit is a rate that holds for each key on its own.
type Limit struct {
	name  string
	rate  Rate
	store limiter.Store
}

// InMemory returns a limit whose counts are the process's own.
func InMemory(name string, rate Rate) (*Limit, error) {
	store, err := memorystore.New(&memorystore.Config{
		Tokens:   rate.Requests,
		Interval: rate.Per,
		// After a window a key is as good as new.
		SweepInterval: rate.Per,
		SweepMinTTL:   rate.Per,
	})
	if err != nil {
		return nil, fmt.Errorf("limit %s: %w", name, err)
	}
	return &Limit{name, rate, store}, nil
}

// Shared returns a limit whose counts are in the database, where other processes
// with a limit of the same name see them. Somebody has to keep [Collect] running.
func Shared(pool *pgxpool.Pool, name string, rate Rate) *Limit {
	return &Limit{name, rate, NewStore(pool, name, rate)}
}

// Count is what a key has of a limit after a request.
type Count struct {
	Limit     uint64        // requests in a window
	Remaining uint64        // of this window
	Reset     time.Duration // until the next window, never negative
	OK        bool          // the request is allowed
}

// Name returns the name under which clients know the limit.
func (l *Limit) Name() string { return l.name }

// Rate returns the rate of keys that have none of their own.
func (l *Limit) Rate() Rate { return l.rate }

// Take counts a request of a key. An error says that the database could not be
// asked; whether the request has been counted is then open.
func (l *Limit) Take(ctx context.Context, key string) (Count, error) {
	tokens, remaining, reset, ok, err := l.store.Take(ctx, key)
	if err != nil {
		return Count{}, fmt.Errorf("count a request: %w", err)
	}
	// reset is Unix time in nanoseconds.
	return Count{tokens, remaining, max(0, time.Until(time.Unix(0, int64(reset)))), ok}, nil
}
