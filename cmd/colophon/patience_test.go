package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestAProcessThatStartsWaitsForTheDatabase(t *testing.T) {
	stopping, broken := &pgconn.PgError{Code: "57P01"}, errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			say  []error
			want error
			took time.Duration
		}{
			{[]error{nil}, nil, 0},
			{[]error{stopping, stopping, nil}, nil, 2 * askAgain},
			{[]error{broken}, broken, 0},
			{[]error{stopping, broken}, broken, askAgain},
		} {
			start := time.Now()
			var calls int
			err := patiently(t.Context(), slog.New(slog.DiscardHandler), func() error { calls++; return c.say[calls-1] })
			if !errors.Is(err, c.want) || calls != len(c.say) || time.Since(start) != c.took {
				t.Errorf("%v: %v after %d calls and %v", c.say, err, calls, time.Since(start))
			}
		}
		// Whoever stops it need not wait for the database.
		ctx, cancel := context.WithTimeout(t.Context(), 3*askAgain/2)
		defer cancel()
		if err := patiently(ctx, slog.New(slog.DiscardHandler), func() error { return stopping }); !errors.Is(err, stopping) {
			t.Error(err)
		}
	})
}
