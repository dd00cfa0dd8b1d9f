package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ShiftClock shifts the clock of the test's database, so that its statements see the
// server's time plus d. A second call shifts the clock again, also for open connections.
// At the first call, only the test's own pools may have connected.
func (db *DB) ShiftClock(t testing.TB, d time.Duration) {
	t.Helper()
	ShiftClock(t, db.URL, d)
	db.Owner.Reset()
	db.App.Reset()
}

// ShiftClock is like [DB.ShiftClock], for the database that url names. Connections that
// are open at the first call keep the server's clock.
func ShiftClock(t testing.TB, url string, d time.Duration) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := SetClock(ctx, conn, d); err != nil {
		t.Fatal(err)
	}
}

// SetClock is like [ShiftClock], over the owner's connection to the database.
//
// The functions now, clock_timestamp and statement_timestamp are shadowed in a schema that
// comes before pg_catalog in the search path, and after public, in which a process that
// migrates creates its tables. The defaults of columns that exist at the first call and the
// keyword current_timestamp keep the server's clock.
func SetClock(ctx context.Context, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, d time.Duration) error {
	_, err := db.Exec(ctx, `
		do $$ begin
			if to_regnamespace('shifted') is not null then
				return;
			end if;
			create schema shifted;
			create table shifted.clock (ahead interval not null);
			insert into shifted.clock values ('0');
			create function shifted.now() returns timestamptz stable language sql
				as 'select pg_catalog.now() + (select ahead from shifted.clock)';
			create function shifted.statement_timestamp() returns timestamptz stable language sql
				as 'select pg_catalog.statement_timestamp() + (select ahead from shifted.clock)';
			create function shifted.clock_timestamp() returns timestamptz volatile language sql
				as 'select pg_catalog.clock_timestamp() + (select ahead from shifted.clock)';
			grant usage on schema shifted to public;
			grant select on shifted.clock to public;
			execute format('alter database %I set search_path = public, shifted, pg_catalog', current_database());
		end $$`)
	if err == nil {
		_, err = db.Exec(ctx, `update shifted.clock set ahead = $1`, d)
	}
	if err != nil {
		return fmt.Errorf("set the database's clock: %w", err)
	}
	return nil
}
