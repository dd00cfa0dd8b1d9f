package pg

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/retry"
)

// Pooled reports whether databaseURL leads to a pooler that gives a client another
// session of the server for each transaction, such as PgBouncer in transaction mode.
// Behind such a pooler, LISTEN hears nothing, and SET changes the sessions of other
// clients. Pooled itself changes no session. Like Connect, it waits for a server that is
// starting or full.
func Pooled(ctx context.Context, databaseURL string) (pooled bool, err error) {
	cfg, err := parse(databaseURL)
	if err != nil {
		return false, err
	}
	conn := cfg.ConnConfig
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > 10*time.Second {
		conn.ConnectTimeout = 10 * time.Second
	}
	wait := retry.Backoff{First: 50 * time.Millisecond, Max: time.Second}
	err = retry.Do(ctx, func() (err error) { pooled, err = backendsShared(ctx, &conn.Config); return err },
		func(err error) (time.Duration, bool) { return wait.Next(), transient(err) })
	if err != nil {
		return false, fmt.Errorf("connect to database %s on %s: %w", conn.Database, conn.Host, err)
	}
	return pooled, nil
}

// backendsShared opens two connections. It reports whether they share a backend process
// of the server, or whether a connection changes its backend.
func backendsShared(ctx context.Context, config *pgconn.Config) (bool, error) {
	var backends [2]func() (string, error)
	for i := range backends {
		conn, err := pgconn.ConnectConfig(ctx, config)
		if err != nil {
			return false, err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = conn.Close(ctx)
		}()
		backends[i] = func() (string, error) {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			results, err := conn.Exec(ctx, `select pg_backend_pid()`).ReadAll()
			if err != nil {
				return "", err
			}
			if len(results) != 1 || len(results[0].Rows) != 1 {
				return "", errors.New("the server gave no process id")
			}
			return string(results[0].Rows[0][0]), nil
		}
	}
	return shared(backends[0], backends[1])
}

// shared reports whether two connections ever have the same backend, or whether one
// connection has two backends. Both are signs of a pooler. If an idle pooler gives out
// the backend that was released last, both connections get this backend. If a pooler
// gives out its backends in turn, one connection gets two of them.
func shared(one, other func() (string, error)) (bool, error) {
	var first, second string
	for range 3 {
		for _, next := range []struct {
			ask  func() (string, error)
			last *string
		}{{one, &first}, {one, &first}, {other, &second}} {
			backend, err := next.ask()
			if err != nil {
				return false, err
			}
			if *next.last != "" && *next.last != backend {
				return true, nil
			}
			*next.last = backend
		}
		if first == second {
			return true, nil
		}
	}
	return false, nil
}

// ConnectPooled is like Connect for a URL that leads to a pooler in transaction mode. It
// leaves the sessions of the server as they are. So connections have the rights and the
// settings of the login. Unless the URL names a default_query_exec_mode, statements are
// not prepared, because a pooler may send the next transaction to a session without the
// prepared statement.
func ConnectPooled(ctx context.Context, databaseURL string) (*pgxpool.Pool, error) {
	const mode = "default_query_exec_mode"
	if !strings.Contains(databaseURL, mode) {
		switch {
		case !strings.Contains(databaseURL, "://"):
			databaseURL += " " + mode + "=exec"
		case strings.Contains(databaseURL, "?"):
			databaseURL += "&" + mode + "=exec"
		default:
			databaseURL += "?" + mode + "=exec"
		}
	}
	cfg, err := parse(databaseURL)
	if err != nil {
		return nil, err
	}
	if cfg.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeDescribeExec {
		return nil, fmt.Errorf("database URL: %s=describe_exec needs a session of its own: use exec behind a pooler", mode)
	}
	return open(ctx, databaseURL, "", true)
}
