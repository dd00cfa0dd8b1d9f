package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/internal/retry"
)

// ErrNoRole is returned if the server does not have the role that [Connect] was given.
var ErrNoRole = errors.New("the server lacks a role")

// Connect opens a pool to the server that databaseURL names, and returns when the
// server has answered. databaseURL is a URL or keyword=value pairs, as in libpq. If the
// server is starting, is full or refuses connections, Connect tries again until ctx
// ends. Connect returns every other error at once.
//
// If role is not empty, every connection acts as that role from its first statement on.
// So the service has few rights even if the URL names the owner of the database. The
// server then also ends a connection that is idle for 3 seconds inside a transaction.
// Otherwise a frozen or cut-off process would keep its locks. Connections that are
// opened from a copy of the pool's ConnConfig act as the role too.
//
// The URL's pool_max_conns sets the size of the pool. Without pool_max_conns, the pool
// has four connections per CPU, but at least ten and at most 50.
func Connect(ctx context.Context, databaseURL, role string) (*pgxpool.Pool, error) {
	cfg, err := parse(databaseURL)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		cfg.MaxConns = int32(max(10, min(4*runtime.NumCPU(), 50)))
	}
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.PingTimeout = 2 * time.Second // time limit of the check of an idle connection, which may have been cut
	cfg.MaxConnLifetimeJitter = cfg.MaxConnLifetime / 10
	conn := cfg.ConnConfig
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > 10*time.Second {
		conn.ConnectTimeout = 10 * time.Second
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "colophon"
	}
	if role != "" {
		conn.AfterConnect = func(ctx context.Context, c *pgconn.PgConn) error {
			_, err := c.Exec(ctx, "SET idle_in_transaction_session_timeout = '3s'; SET ROLE "+pgx.Identifier{role}.Sanitize()).ReadAll()
			pgErr, _ := errors.AsType[*pgconn.PgError](err)
			switch {
			case err == nil:
				return nil
			case pgErr != nil && pgErr.Code == "22023": // the code means invalid_parameter_value
				return fmt.Errorf("%w: %w", ErrNoRole, err)
			case pgErr != nil && pgErr.Code == "42501": // the code means insufficient_privilege
				return fmt.Errorf("act as role %s (run as a superuser: grant %[1]s to %s): %w", role, pgx.Identifier{conn.User}.Sanitize(), err)
			}
			return fmt.Errorf("act as role %s: %w", role, err)
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	wait := retry.Backoff{First: 50 * time.Millisecond, Max: time.Second}
	err = retry.Do(ctx, func() error { return pool.Ping(ctx) }, func(err error) (time.Duration, bool) { return wait.Next(), transient(err) })
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to database %s on %s: %w", conn.Database, conn.Host, err)
	}
	return pool, nil
}

var errURL = errors.New("database URL: neither of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE " +
	"(special characters in the password percent-encoded) nor keyword=value pairs")

// parse parses the URL. Its errors name the mistake but never quote a URL that cannot
// be parsed, because any part of such a URL may be the password.
func parse(databaseURL string) (*pgxpool.Config, error) {
	isURL := strings.HasPrefix(databaseURL, "postgres://") || strings.HasPrefix(databaseURL, "postgresql://")
	if isURL {
		if _, err := url.Parse(databaseURL); err != nil {
			return nil, errURL
		}
	}
	cfg, err := pgxpool.ParseConfig(databaseURL)
	if err == nil && strings.Contains(cfg.ConnConfig.Database, "@") {
		return nil, errURL // the password contains a slash, so the rest of the password was read as the path
	}
	if err == nil {
		return cfg, nil
	}
	// The text of a ParseConfigError holds the whole URL. The text of its cause holds
	// at most one value.
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		if cause := errors.Unwrap(err); cause != nil && isURL {
			return nil, fmt.Errorf("database URL: %w", cause)
		}
		return nil, errURL
	}
	return nil, fmt.Errorf("database URL: %w", err)
}

// transient reports whether a new attempt to connect may succeed, because the server is
// starting, is full, or does not listen yet.
func transient(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		// The codes mean admin_shutdown, crash_shutdown, cannot_connect_now and
		// too_many_connections.
		return slices.Contains([]string{"57P01", "57P02", "57P03", "53300"}, pgErr.Code)
	}
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		return true
	}
	if dnsErr, ok := errors.AsType[*net.DNSError](err); ok {
		return dnsErr.IsTemporary
	}
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, os.ErrNotExist, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Unavailable reports whether an error says that the server was unavailable. Such a
// server is stopping, starting or full, has cut the connection, or does not answer in
// time. Unavailable also returns true if the server has aborted a transaction in favour
// of another transaction. A retry may succeed. The server may have carried out the
// statement despite the error.
func Unavailable(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		// 08xxx: connection exception. 57P0x: operator intervention. 25P03: end of a
		// connection that was idle in a transaction. 40001: serialization failure.
		// 40P01: deadlock.
		return transient(err) || strings.HasPrefix(pgErr.Code, "08") || strings.HasPrefix(pgErr.Code, "57P0") ||
			slices.Contains([]string{"25P03", "40001", "40P01"}, pgErr.Code)
	}
	if _, ok := errors.AsType[net.Error](err); ok { // context.DeadlineExceeded is a net.Error too
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	return transient(err) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}
