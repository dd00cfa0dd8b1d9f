package pg_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// A caller may take a connection from the pool for ever, as River does to listen. After the
// caller has closed it, the pool must not remember it.
func TestClosedConnectionsAreForgotten(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(pgtest.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	open := pg.Watch(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	take := func() *pgxpool.Conn {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for range 4 {
		if err := take().Hijack().Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	defer take().Release()
	if n := open(); n != 1 {
		t.Errorf("%d connections are remembered, want the open one", n)
	}
}
