package migrations

import "testing"

// TestMigrationGivesEntriesTheirOwners migrates a database whose log has entries. Each entry
// must get the owner of its event, also if the migration is undone and done again. The log
// must stay append-only.
func TestMigrationGivesEntriesTheirOwners(t *testing.T) {
	pool, p := migratedTo(t, 21)
	_, err := pool.Exec(t.Context(), `
		insert into events (stream, version, owner, type, at, schema, payload)
		select 'account/' || gen_random_uuid(), 1, gen_random_uuid(), 'test', now(), 2, n::text::bytea from generate_series(1, 50) n;
		insert into log_entries (idx, position, hash)
		select row_number() over (order by position desc) - 1, position, sha256(payload) from events`)
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		var n int
		if err := pool.QueryRow(t.Context(), `select count(*) from log_entries join events using (position, owner)`).Scan(&n); err != nil || n != 50 {
			t.Errorf("%d entries have the owner of their event, %v", n, err)
		}
		if _, err := pool.Exec(t.Context(), `update log_entries set owner = gen_random_uuid()`); err == nil {
			t.Error("the log is not append-only any more")
		}
	}
	if _, err := p.UpTo(t.Context(), 22); err != nil {
		t.Fatal(err)
	}
	check()
	const refusal = `insert into events (stream, version, owner, type, at, schema, payload) values ('account/' || gen_random_uuid(), 1, gen_random_uuid(), 'policy.refused', now(), 2, '')`
	if _, err := pool.Exec(t.Context(), refusal); err != nil {
		t.Fatal(err)
	}
	if _, err := p.DownTo(t.Context(), 21); err == nil {
		t.Error("the migration was undone beside events that the release before cannot read")
	}
	_, err = pool.Exec(t.Context(), `set session_replication_role = replica; delete from events where type = 'policy.refused'; reset session_replication_role`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DownTo(t.Context(), 21); err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 22); err != nil {
		t.Fatal(err)
	}
	check()
}
