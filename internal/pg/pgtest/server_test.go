package pgtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg/pgtest"
)

func TestServerKeepsCommittedRowsAfterACrash(t *testing.T) {
	t.Parallel()
	s := pgtest.NewServer(t)
	count := func(ctx context.Context) (n int, err error) {
		conn, err := pgx.Connect(ctx, s.URL())
		if err != nil {
			return 0, err
		}
		defer conn.Close(context.Background())
		_, err = conn.Exec(ctx, `create table if not exists notes (body text)`)
		if err == nil {
			_, err = conn.Exec(ctx, `insert into notes values ('x')`)
		}
		if err == nil {
			err = conn.QueryRow(ctx, `select count(*) from notes`).Scan(&n)
		}
		return n, err
	}
	for want, restart := range []func(){func() {}, s.Crash, s.Stop} {
		if restart(); want > 0 {
			if _, err := count(t.Context()); err == nil {
				t.Error("a server that has ended answers")
			}
			s.Start()
		}
		if n, err := count(t.Context()); err != nil || n != want+1 {
			t.Fatalf("%d rows, %v, want %d", n, err, want+1)
		}
	}
	thaw := s.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := count(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen server answers, %v", err)
	}
	thaw()
	if _, err := count(t.Context()); err != nil {
		t.Error(err)
	}
}
