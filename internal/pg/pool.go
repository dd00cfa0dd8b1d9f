package pg

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
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
// server is starting, is full, is read-only or refuses connections, Connect tries again
// until ctx ends. Connect returns every other error at once.
//
// databaseURL may name several hosts, such as a primary and its standbys. Every connection
// goes to a server that accepts writes, whatever target_session_attrs says. When a server
// turns out to be read-only, the pool drops all connections to it. It does so too when a
// server leaves a statement of a role unanswered while another host accepts writes.
//
// A commit returns when it survives a crash of the server, and a failover to a synchronous
// standby, whatever synchronous_commit the database or the user has.
//
// If role is not empty, every connection acts as that role from its first statement on.
// So the service has few rights even if the URL names the owner of the database. The
// server then also ends a statement after 10 seconds, and a connection that is idle for 3
// seconds inside a transaction. Otherwise a frozen or cut-off process would keep its locks.
// If the server does not answer, statements end a second later; see Unlimited. The same
// holds for connections that are opened from a copy of the pool's ConnConfig.
//
// The URL's pool_max_conns sets the size of the pool. Without pool_max_conns, the pool
// has four connections per CPU, but at least ten and at most 50.
func Connect(ctx context.Context, databaseURL, role string) (*pgxpool.Pool, error) {
	return open(ctx, databaseURL, role, false)
}

// open opens a pool. If pooled is set, it changes no session and role is empty.
func open(ctx context.Context, databaseURL, role string, pooled bool) (*pgxpool.Pool, error) {
	cfg, err := parse(databaseURL)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		cfg.MaxConns = int32(max(10, min(4*runtime.NumCPU(), 50)))
	}
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.PingTimeout = time.Second // time limit of the check of an idle connection, which may have been cut
	cfg.MaxConnLifetimeJitter = cfg.MaxConnLifetime / 10
	conn := cfg.ConnConfig
	limit := 10 * time.Second
	several := slices.ContainsFunc(conn.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.Host != conn.Host || f.Port != conn.Port })
	if several {
		limit = 2 * time.Second // a host that does not answer must not keep the next one waiting
	}
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > limit {
		conn.ConnectTimeout = limit
	}
	conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "colophon"
	}
	conn.AfterConnect = func(ctx context.Context, c *pgconn.PgConn) error {
		ctx, cancel := context.WithTimeout(ctx, conn.ConnectTimeout) // pgx bounds only the steps before
		defer cancel()
		sql := durable
		if role != "" {
			sql += fmt.Sprintf(bounded, statementTime.Milliseconds()) + "set role " + pgx.Identifier{role}.Sanitize()
		}
		_, err := c.Exec(ctx, sql).ReadAll()
		pgErr, _ := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil:
			return nil
		case pgErr != nil && pgErr.Code == "22023": // the code means invalid_parameter_value
			return fmt.Errorf("%w: %w", ErrNoRole, err)
		case pgErr != nil && pgErr.Code == "42501": // the code means insufficient_privilege
			return fmt.Errorf("act as role %s (run as a superuser: grant %[1]s to %s): %w", role, pgx.Identifier{conn.User}.Sanitize(), err)
		}
		return fmt.Errorf("set up a connection for role %q: %w", role, err)
	}
	if pooled {
		conn.AfterConnect = nil
	}
	opened := watch(cfg)
	if role != "" || pooled {
		b := bound{limit: statementTime + time.Second}
		if several {
			config := conn.Copy()
			b.takeover = &takeover{connections: opened, connect: func(ctx context.Context) (*pgx.Conn, error) {
				return pgx.ConnectConfig(ctx, config.Copy())
			}}
		}
		conn.Tracer = b
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	wait := retry.Backoff{First: 50 * time.Millisecond, Max: time.Second}
	var last error
	ping := func() error {
		// If ctx ends during an attempt, the error of the previous attempt says more.
		if err := pool.Ping(ctx); ctx.Err() == nil || last == nil {
			last = err
		}
		return last
	}
	err = retry.Do(ctx, ping, func(err error) (time.Duration, bool) { return wait.Next(), transient(err) })
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to database %s on %s: %w", conn.Database, conn.Host, err)
	}
	return pool, nil
}

// durable makes a commit wait until it survives a crash, and a failover to a synchronous
// standby. A database or a role may have a setting that promises less.
const durable = `
	select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') not in ('on', 'remote_apply');`

// bounded limits the time of statements and of idle transactions. It keeps a statement
// limit that is shorter already. Its parameter is in milliseconds.
const bounded = `
	select set_config('statement_timeout', '%[1]d', false)
	from (select current_setting('statement_timeout')::interval as t) as now where t = '0' or t > '%[1]d milliseconds';
	set idle_in_transaction_session_timeout = '3s';`

// CheckWritable returns an error if the server does not answer or accepts no writes. db is a
// pool or a connection of a pool's configuration. If the server accepts no writes, the
// pool drops its connections to it.
func CheckWritable(ctx context.Context, db interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
}) error {
	// The server itself raises the error, so that it passes the hooks of the pool.
	_, err := db.Exec(ctx, `do $$ begin
		if current_setting('transaction_read_only')::boolean then
			raise read_only_sql_transaction using message = 'the server accepts no writes';
		end if; end $$`)
	if err != nil {
		return fmt.Errorf("check that the database accepts writes: %w", err)
	}
	return nil
}

// CheckURL returns an error if the URL cannot be parsed. The error quotes no password.
func CheckURL(databaseURL string) error {
	_, err := parse(databaseURL)
	return err
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
