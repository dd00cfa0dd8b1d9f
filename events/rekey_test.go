package events_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
)

// process returns the store of another process of the fixture's database. It has its own
// vault, and so its own keys in memory.
func (f *fixture) process(t testing.TB) (*events.Store, *vault.Vault) {
	t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	s := events.NewStore(f.db.App, v, slog.New(slog.DiscardHandler))
	s.SetKeyWait(0)
	return s, v
}

// key returns the owner's keys that are in the database now.
func (f *fixture) key(t testing.TB) *vault.Key {
	t.Helper()
	key, err := f.vault.Reload(t.Context(), f.db.App, f.owner)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// claim stores an idempotency key.
func (f *fixture) claim(ctx context.Context, s *events.Store, key string) error {
	k := events.IdempotencyKey{Scope: "s", Key: key, Payload: []byte("p")}
	return s.Write(ctx, func(tx *events.Tx) error { return tx.Claim(ctx, k, f.owner, events.AccountStream(f.owner)) })
}

// opened returns the number of values in all columns of the database that a key opens.
func (f *fixture) opened(t testing.TB, key *vault.Key) int {
	t.Helper()
	texts := func(sql string, args ...any) []string {
		t.Helper()
		rows, _ := f.db.Owner.Query(t.Context(), sql, args...)
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	aads := texts(`select 'event ' || stream || '@' || version from events
		union all select 'history ' || job from history
		union all select 'idempotency key ' || encode(key_hash, 'hex') from idempotency_keys
		union all select 'webhook ' || id from webhooks`)
	columns := texts(`select format('select %I from %I.%I where %1$I is not null', column_name, table_schema, table_name)
		from information_schema.columns where data_type = 'bytea' and table_schema not in ('pg_catalog', 'information_schema')`)
	if len(columns) < 10 {
		t.Fatalf("only %d columns", len(columns))
	}
	n := 0
	for _, sql := range columns {
		rows, _ := f.db.Owner.Query(t.Context(), sql)
		values, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range values {
			for _, aad := range aads {
				if _, err := key.Open(value, aad); err == nil {
					n++
				}
			}
		}
	}
	return n
}

// mustBeIntact expects that nothing is damaged, and that the view agrees with the events.
func (f *fixture) mustBeIntact(t *testing.T) {
	t.Helper()
	s, _ := f.process(t)
	if damaged, err := s.Quarantine(t.Context(), "", 10); err != nil || len(damaged) != 0 {
		t.Errorf("damaged: %v, %v", damaged, err)
	}
	if r, err := s.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Err() != nil {
		t.Errorf("history: %v, %v", r.Err(), err)
	}
	f.mustCheck(t, f.db.App)
}

// mustCheck expects that every event that db reads is as the service has written it, in a
// process that has no key in memory.
func (f *fixture) mustCheck(t *testing.T, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
},
) {
	t.Helper()
	s, _ := f.process(t)
	rows, _ := db.Query(t.Context(), `select stream, version, owner, type, schema, at, payload, sealed,
		exists (select from events as e where e.stream = events.stream and e.type = 'job.erased') from events order by stream, version`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[events.Row])
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range all {
		var previous *events.Row
		if r.Version > 1 {
			previous = &all[i-1]
		}
		if err := s.CheckRow(t.Context(), r, previous); err != nil {
			t.Errorf("%s@%d: %v", r.Stream, r.Version, err)
		}
	}
}

func (f *fixture) replaced(t testing.TB) (n int) {
	t.Helper()
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from replaced_keys`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRekeySealsEverythingAgain replaces the key of an owner who has values of every kind,
// with the full wait. Another process has the earlier key in memory.
func TestRekeySealsEverythingAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	done, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	erased, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	erased = f.erase(t, erased)
	running, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.claim(t.Context(), f.Store, "k"); err != nil {
		t.Fatal(err)
	}
	hook, err := f.CreateWebhook(t.Context(), f.owner, "https://example.com/", events.WebhookEvents())
	if err != nil {
		t.Fatal(err)
	}
	if hook, err = f.RotateWebhook(t.Context(), f.owner, hook.ID); err != nil {
		t.Fatal(err)
	}
	other := uuid.Must(uuid.NewV7())
	f.register(t, other)
	evidence, err := f.Evidence(t.Context(), done.ID, []string{"prompt", "text"})
	if err != nil {
		t.Fatal(err)
	}
	_, others := f.ciphertexts(t, f.owner)
	first := f.key(t)
	before := f.opened(t, first)
	process, _ := f.process(t)
	if _, err := process.Job(t.Context(), done.ID); err != nil {
		t.Fatal(err)
	}

	var shown []int
	began := time.Now()
	got, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{Progress: func(rows, total int) { shown = append(shown, rows, total) }})
	want := events.Rekeyed{Events: 9, Rows: 2, Requests: 1, Webhooks: 1} // the account's event, five of the ended job without job.started and job.completed, and two of the other
	want.Events = before - want.Rows - want.Requests - want.Webhooks
	if err != nil || got != want || before < 8 {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if took := time.Since(began); took < 2*vault.KeyTTL {
		t.Errorf("took %v", took)
	}
	if n := len(shown); n < 12 || shown[n-2] != shown[n-1] {
		t.Errorf("progress %v", shown)
	}
	if n := f.opened(t, first); n != 0 {
		t.Errorf("the earlier key opens %d values", n)
	}
	if n := f.opened(t, f.key(t)); n != before {
		t.Errorf("the new key opens %d values, want %d", n, before)
	}
	if _, unchanged := f.ciphertexts(t, f.owner); unchanged != others || f.replaced(t) != 0 {
		t.Error("another column has changed, or a key is left")
	}
	f.mustBeIntact(t)
	for _, s := range []*events.Store{f.Store, process} {
		for _, j := range []events.Job{done, erased, running} {
			if again, err := s.Job(t.Context(), j.ID); err != nil || !cmp.Equal(again, j) {
				t.Errorf("%v\n%s", err, cmp.Diff(j, again))
			}
		}
		if again, err := s.Webhooks(t.Context(), f.owner); err != nil || len(again) != 1 || !cmp.Equal(again[0], hook) {
			t.Errorf("%v\n%s", err, cmp.Diff(again, []events.Webhook{hook}))
		}
		if again, err := s.Evidence(t.Context(), done.ID, []string{"prompt", "text"}); err != nil || !cmp.Equal(again, evidence) {
			t.Errorf("%v\n%s", err, cmp.Diff(evidence, again))
		}
		if stream, err := s.Opened(t.Context(), events.IdempotencyKey{Scope: "s", Key: "k", Payload: []byte("p")}); err != nil || stream != events.AccountStream(f.owner) {
			t.Errorf("%s, %v", stream, err)
		}
		if records, err := s.History(t.Context(), f.owner, uuid.UUID{}, 10); err != nil || len(records) != 2 || records[1].Text != done.Text && records[0].Text != done.Text {
			t.Errorf("%+v, %v", records, err)
		}
	}
	if _, err := f.put(t.Context(), running, completedFacts()[3:]...); err != nil {
		t.Error(err)
	}
	f.mustBeIntact(t)
}

// TestRekeyWorksInEveryQueryMode replaces a key over connections with each query mode of pgx.
func TestRekeyWorksInEveryQueryMode(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	if err := f.claim(t.Context(), f.Store, "k"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range pgtest.QueryModes() {
		pool, err := pgxpool.New(t.Context(), pgtest.With(f.db.URL, "default_query_exec_mode", mode))
		if err != nil {
			t.Fatal(err)
		}
		first := f.key(t)
		got, err := f.Rekey(t.Context(), pool, f.owner, events.RekeyObserver{})
		if pool.Close(); err != nil || got.Events != 4 || got.Rows != 1 || got.Requests != 1 || f.opened(t, first) != 0 {
			t.Errorf("%s: %+v, %v", mode, got, err)
		}
	}
	f.mustBeIntact(t)
}

// TestCheckOfAnOlderSnapshot replaces a key while the rows of a snapshot from before are
// checked, as log verify does.
func TestCheckOfAnOlderSnapshot(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	first, rekeyed, waiting := f.key(t), make(chan error, 1), make(chan struct{})
	err := pgx.BeginTxFunc(t.Context(), f.db.App, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := vault.KeepKeys(t.Context(), tx); err != nil {
			return err
		}
		go func() {
			_, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{Waiting: func() { close(waiting) }})
			rekeyed <- err
		}()
		for f.openedEvents(t, first) > 0 {
			select {
			case err := <-rekeyed:
				return fmt.Errorf("the replacement did not wait: %w", err)
			default:
			}
		}
		f.mustCheck(t, tx)
		select {
		case <-waiting: // the user is told why it takes so long
			return nil
		case err := <-rekeyed:
			return fmt.Errorf("the replacement did not wait: %w", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-rekeyed; err != nil || f.replaced(t) != 0 {
		t.Errorf("%v, %d replaced keys", err, f.replaced(t))
	}
	f.mustBeIntact(t)
}

// TestSupersededRekeyStops lets another process end a replacement and carry out the next one
// in the middle of the first. Intact values must not be reported as damaged.
func TestSupersededRekeyStops(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	other, _ := f.process(t)
	other.SetKeyWait(0)
	var once sync.Once
	got, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{
		Progress: func(int, int) {
			once.Do(func() {
				for range 2 {
					if _, err := other.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil {
						t.Error(err)
					}
				}
			})
		},
		Left: func(value string) { t.Errorf("left %s", value) },
	})
	if !errors.Is(err, events.ErrSuperseded) || got.Left != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	f.mustBeIntact(t)
}

// TestRekeyLeavesWhatIsDamaged replaces a key while an event has the members of another one.
// The earlier key must stay until the event is repaired.
func TestRekeyLeavesWhatIsDamaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetKeyWait(0)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	first, stream := f.key(t), events.JobStream(j.ID)
	var kept []byte
	if err := f.db.Owner.QueryRow(t.Context(), `select sealed from events where stream = $1 and version = 3`, stream).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	forged := first.Seal([]byte(`{"members":{"text":"\"other\"","tokens":[1]},"seed":""}`), fmt.Sprintf("event %s@3", stream))
	f.db.Damage(t, `update events set sealed = $1 where stream = $2 and version = 3`, forged, stream)
	f.db.Damage(t, `update history set sealed = '\x00' where job = $1`, j.ID)
	for range 2 {
		var left []string
		got, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{Left: func(value string) { left = append(left, value) }})
		if !errors.Is(err, events.ErrNotRekeyed) || got.Left != 2 || len(left) != 2 || !strings.HasPrefix(left[0], string(stream)+"@3: ") || !strings.Contains(left[1], j.ID.String()) {
			t.Errorf("%+v, %v, left %q", got, err, left)
		}
		if n := f.openedEvents(t, first); n != 1 || f.replaced(t) != 1 {
			t.Errorf("the earlier key opens %d events, %d replaced keys", n, f.replaced(t))
		}
	}
	f.db.Damage(t, `update events set sealed = $1 where stream = $2 and version = 3`, kept, stream) // restored from a backup
	if _, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil || got.Events != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if f.opened(t, first) != 0 || f.replaced(t) != 0 {
		t.Error("the earlier key is left")
	}
	f.mustBeIntact(t)
}

// TestRekeyKeepsTheKeyOfSchema1 replaces the key of an owner with events whose ciphertext
// cannot change, twice.
func TestRekeyKeepsTheKeyOfSchema1(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, _ := f.useSchema1(t)
	f.SetKeyWait(0)
	j, err := f.Job(t.Context(), id)
	if err == nil {
		j, err = f.put(t.Context(), j, completedFacts()[1:]...)
	}
	if err != nil {
		t.Fatal(err)
	}
	first := f.key(t)
	for n := range 2 {
		if got, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil || got.Kept != 1 || got.Events < 2 {
			t.Errorf("replaced %d times: %+v, %v", n, got, err)
		}
		if again, err := f.Job(t.Context(), id); err != nil || !cmp.Equal(again, j) {
			t.Errorf("%v\n%s", err, cmp.Diff(j, again))
		}
		if f.openedEvents(t, first) != 0 || f.replaced(t) != 1 {
			t.Errorf("%d replaced keys", f.replaced(t))
		}
	}
	// An erased job needs the key no more.
	f.erase(t, j)
	if got, err := f.Rekey(t.Context(), f.db.Owner, f.owner, events.RekeyObserver{}); err != nil || got.Kept != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestCiphertextChangesOnlyDuringARekey changes events as the owner of the table and as the
// service while a key is replaced.
func TestCiphertextChangesOnlyDuringARekey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	const byTrigger, byRole = "23001", "42501"
	try := func(change, owner, service string) {
		t.Helper()
		for pool, want := range map[*pgxpool.Pool]string{f.db.Owner: owner, f.db.App: service} {
			_, err := pool.Exec(t.Context(), change)
			var got string
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
				got = pgErr.Code
			}
			if got != want {
				t.Errorf("%s: %v, want SQLSTATE %q", change, err, want)
			}
		}
	}
	const change = `update events set sealed = sealed || '' where sealed is not null`
	p, err := f.vault.Replace(t.Context(), f.db.Owner, f.owner)
	if err != nil {
		t.Fatal(err)
	}
	try(change, byTrigger, byTrigger) // processes may seal with the earlier key
	if err := p.StopSealing(t.Context()); err != nil {
		t.Fatal(err)
	}
	try(change, "", byTrigger)
	try(`update events set sealed = null where sealed is not null`, byTrigger, byTrigger)
	try(`update events set sealed = '' where sealed is null`, byTrigger, byTrigger)
	try(`update events set sealed = sealed || '', payload = '' where sealed is not null`, byTrigger, byRole)
	try(`update events set sealed = sealed || '', owner = gen_random_uuid() where sealed is not null`, byTrigger, byRole)
	try(`insert into replaced_keys (owner, key_number, wrapped) select owner, 9, '' from owner_keys`, "23505", byRole)
	try(`update replaced_keys set state = 'sealing'`, "", byRole)
	try(`update replaced_keys set state = 'reading'`, "", byRole)
	if err := p.End(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	try(change, byTrigger, byTrigger)
}
