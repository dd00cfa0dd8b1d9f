package pg

import (
	"context"
	"maps"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// connections holds the open connections of a pool. When one of them meets a read-only
// server, or a takeover is found, all connections to that server are dropped, including
// those that a caller keeps for a long time. The next connections go to a server that
// accepts writes.
type connections struct {
	mu   sync.Mutex
	open map[*pgconn.PgConn]struct{}
}

// watch adds the hooks of a new pool and of its connections to cfg.
func watch(cfg *pgxpool.Config) *connections {
	c := &connections{open: map[*pgconn.PgConn]struct{}{}}
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		// BeforeClose would not see the end of a connection that a caller has taken away.
		maps.DeleteFunc(c.open, func(conn *pgconn.PgConn, _ struct{}) bool { return closed(conn) })
		c.open[conn.PgConn()] = struct{}{}
		return nil
	}
	cfg.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.open[conn.PgConn()]
		return ok, nil // a dropped connection is replaced
	}
	inner := cfg.ConnConfig.OnPgError
	cfg.ConnConfig.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) (keep bool) {
		m := meaningOf(err.Code)
		if m.state == ErrReadOnly { //nolint:errorlint // a value of the table, never wrapped
			c.drop(conn.Conn().RemoteAddr().String(), conn)
		}
		return inner(conn, err) && m.after != drops
	}
	return c
}

// closed reports whether conn was closed. It may be called while conn is in use.
func closed(conn *pgconn.PgConn) bool {
	select {
	case <-conn.CleanupDone():
		return true
	default:
		return false
	}
}

// drop drops the connections to a server, whose address it is given. The caller closes the
// connection own itself.
func (c *connections) drop(server string, own *pgconn.PgConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		if conn.Conn().RemoteAddr().String() == server {
			delete(c.open, conn)
			if conn != own {
				go conn.Conn().Close() // a statement that runs on this connection ends with an error
			}
		}
	}
}
