package migrations

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
)

// TestMigrationKeepsTheLatest100Sessions migrates a database that has an account with
// more than 100 live sessions. The migration must keep the 100 sessions that expire
// last. It must record the end of the other sessions in ended_sessions.
func TestMigrationKeepsTheLatest100Sessions(t *testing.T) {
	pool, p := migratedTo(t, 9)
	_, err := pool.Exec(t.Context(), `
		insert into accounts (id, username, username_key, password_hash, created_at)
		select ('00000000-0000-7000-8000-00000000000' || n)::uuid, n, n, '', now() from generate_series(1, 2) n;
		insert into sessions (id, account, created_at, expires_at, revoked_at)
		select gen_random_uuid(), '00000000-0000-7000-8000-000000000001', now(), now() + n * interval '1 minute', case when n > 130 then now() end
		from generate_series(1, 150) n;
		insert into sessions (id, account, created_at, expires_at)
		select gen_random_uuid(), '00000000-0000-7000-8000-000000000002', now(), now() from generate_series(1, 100) n;
		insert into refresh_tokens (hash, session) select sha256(id::text::bytea), id from sessions`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		count string
		want  int
	}{
		"live sessions":          {`select count(*) from sessions where revoked_at is null`, 200},
		"latest of one account":  {`select count(*) from sessions where revoked_at is null and expires_at > now() + interval '30 minutes'`, 100},
		"ended sessions":         {`select count(*) from ended_sessions`, 30},
		"earlier refresh tokens": {`select count(*) from refresh_tokens`, 0},
	} {
		var n int
		if err := pool.QueryRow(t.Context(), c.count).Scan(&n); err != nil || n != c.want {
			t.Errorf("%s: %d, %v; want %d", what, n, err, c.want)
		}
	}
	if _, err := p.DownTo(t.Context(), 9); err != nil {
		t.Error(err)
	}
	if _, err := p.UpTo(t.Context(), 10); err != nil {
		t.Error(err)
	}
}

// migratedTo returns an empty database of a version, and the migrations.
func migratedTo(t *testing.T, version int64) (*pgxpool.Pool, *goose.Provider) {
	t.Helper()
	pool, err := pg.Connect(t.Context(), pgtest.Empty(t), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { _ = db.Close() })
	p, err := provider(db)
	if err == nil {
		err = ensureRole(t.Context(), pool)
	}
	if err == nil {
		_, err = p.UpTo(t.Context(), version)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pool, p
}
