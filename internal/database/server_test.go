package database

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/test/apitest"
)

// TestSilentDatabaseIsReported dials a database that never answers. There must be a
// notice within three seconds, and then one every ten seconds.
func TestSilentDatabaseIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said apitest.Log
		log := slog.New(slog.NewTextHandler(&said, nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		silent := errors.New("no answer")
		ended := make(chan error, 1)
		go func() {
			_, err := connect(ctx, log, func(ctx context.Context) (*pgxpool.Pool, error) { <-ctx.Done(); return nil, silent })
			ended <- err
		}()
		for notices := range 6 {
			if notices == 0 {
				time.Sleep(3 * time.Second)
			} else {
				time.Sleep(10 * time.Second)
			}
			synctest.Wait()
			if got := strings.Count(said.String(), "database does not answer"); got != notices+1 {
				t.Errorf("%d notices, want %d:\n%s", got, notices+1, &said)
			}
		}
		if err := <-ended; !errors.Is(err, silent) {
			t.Error(err)
		}
		// An error of the server is final.
		refused := errors.New("wrong password")
		_, err := connect(t.Context(), log, func(context.Context) (*pgxpool.Pool, error) { return nil, refused })
		if !errors.Is(err, refused) {
			t.Error(err)
		}
	})
}
