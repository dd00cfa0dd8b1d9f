package database

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestStartingProcessWaitsForTheDatabase(t *testing.T) {
	unavailable, broken := &pgconn.PgError{Code: "57P01"}, errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			errs []error
			want error
			took time.Duration
		}{
			{[]error{nil}, nil, 0},
			{[]error{unavailable, unavailable, nil}, nil, 2 * retryInterval},
			{[]error{broken}, broken, 0},
			{[]error{unavailable, broken}, broken, retryInterval},
		} {
			start := time.Now()
			var calls int
			err := Retry(t.Context(), slog.New(slog.DiscardHandler), func() error { calls++; return c.errs[calls-1] })
			if !errors.Is(err, c.want) || calls != len(c.errs) || time.Since(start) != c.took {
				t.Errorf("%v: %v after %d calls and %v", c.errs, err, calls, time.Since(start))
			}
		}
		// When ctx ends, the function must return the last error, so that a process can
		// stop without waiting for the database.
		ctx, cancel := context.WithTimeout(t.Context(), 3*retryInterval/2)
		defer cancel()
		if err := Retry(ctx, slog.New(slog.DiscardHandler), func() error { return unavailable }); !errors.Is(err, unavailable) {
			t.Error(err)
		}
	})
}
