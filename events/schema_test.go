package events_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/events"
	"colophon/internal/vault"
)

// mustBeChained fails the test unless each payload of the stream has the hash of the
// payload before it. The events before the version from may have no hash.
func (f *fixture) mustBeChained(t *testing.T, stream events.Stream, from int) {
	t.Helper()
	rows, _ := f.db.Owner.Query(t.Context(), `select payload from events where stream = $1 order by version`, stream)
	payloads, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil || len(payloads) < 2 {
		t.Fatalf("%s has %d events, %v", stream, len(payloads), err)
	}
	for i, payload := range payloads {
		var p struct {
			Prev   string
			Schema int
		}
		if err := json.Unmarshal(payload, &p); err != nil {
			t.Fatal(err)
		}
		want := ""
		if i > 0 && i+1 >= from {
			hash := sha256.Sum256(payloads[i-1])
			want = hex.EncodeToString(hash[:])
		}
		if p.Prev != want {
			t.Errorf("event %d of %s names %q as the hash of the event before it, want %q", i+1, stream, p.Prev, want)
		}
	}
}

// TestEventsAreChained appends to a job and to an account, one fact at a time and several
// facts at once.
func TestEventsAreChained(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.AppendJob(t.Context(), f.newJob(), completedFacts()[:3]...)
	if err == nil {
		j, err = f.put(t.Context(), j, completedFacts()[3:]...)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.mustBeChained(t, events.JobStream(j.ID), 1)
	err = f.Write(t.Context(), func(tx *events.Tx) error {
		for range 2 {
			if err := tx.AppendAccount(t.Context(), f.owner, events.AccountSignInFailed{}, events.AccountSignedIn{Session: uuid.New()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.mustBeChained(t, events.AccountStream(f.owner), 1)
}

// useSchema1 gives the fixture the owner and the key of the golden file of schema 1, and stores
// the event job.accepted of that file. It returns the job, and a function that stores another
// event of the file.
func (f *fixture) useSchema1(t *testing.T) (job uuid.UUID, store func(stream events.Stream, kind string)) {
	t.Helper()
	var golden struct {
		WrappedKey []byte            `json:"wrapped_key"`
		Payloads   map[string]string `json:"payloads"`
	}
	raw, err := os.ReadFile("testdata/stored.schema1.json")
	if err == nil {
		err = json.Unmarshal(raw, &golden)
	}
	v, err2 := vault.New(bytes.Repeat([]byte{0x42}, vault.MasterKeySize))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	f.Store, f.vault = events.NewStore(f.db.App, v, slog.New(slog.DiscardHandler)), v
	f.owner = uuid.MustParse("01a205f5-d3cb-7edf-b4b0-4999c136b1eb")
	f.db.Damage(t, `insert into owner_keys (owner, wrapped) values ($1, $2)`, f.owner, golden.WrappedKey)
	store = func(stream events.Stream, kind string) {
		payload := []byte(golden.Payloads[kind])
		f.db.Damage(t, `insert into events (stream, version, owner, type, at, schema, payload)
			select $1, (p->>'version')::int, $2, $3, (p->>'at')::timestamptz, 1, $4 from (select convert_from($4, 'UTF8')::json as p) as payload`,
			stream, f.owner, kind, payload)
	}
	store(events.JobStream(f.owner), "job.accepted")
	return f.owner, store
}

// TestStreamsOfSchema1GoOn stores events in the form of the first schema, and appends
// events to their streams. The new events must name the hashes of the old ones, and both
// must be readable.
func TestStreamsOfSchema1GoOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, store := f.useSchema1(t)
	job := events.JobStream(id)
	j, err := f.Job(t.Context(), job.ID())
	if err != nil {
		t.Fatal(err)
	}
	prompt := j.Prompt
	if _, err := f.put(t.Context(), j, completedFacts()[1:]...); err != nil {
		t.Fatal(err)
	}
	f.mustBeChained(t, job, 2)
	if j, err = f.Job(t.Context(), job.ID()); err != nil || j.State != events.Completed || j.Prompt != prompt || j.Text != "the text is secret too" || j.Params.MaxTokens != 41 {
		t.Errorf("%+v, %v, want the job with its prompt and text", j, err)
	}

	// Its ciphertext is part of a hashed payload, so it stays. Nobody gets the text from it.
	j = f.erase(t, j)
	if again, err := f.Job(t.Context(), job.ID()); err != nil || again.Prompt+again.Text != "" || !cmp.Equal(again, j) {
		t.Errorf("%v\n%s", err, cmp.Diff(j, again))
	}

	account := events.AccountStream(f.owner)
	store(account, "account.signed_in")
	err = f.Write(t.Context(), func(tx *events.Tx) error {
		return tx.AppendAccount(t.Context(), f.owner, events.AccountSignInFailed{}, events.AccountErased{})
	})
	if err != nil {
		t.Fatal(err)
	}
	f.mustBeChained(t, account, 2)
	if all, err := f.Page(t.Context(), account, 0, 10); err != nil || len(all) != 3 {
		t.Errorf("%d events, %v, want 3", len(all), err)
	}

	// A program of an earlier release does not name the schema.
	_, err = f.db.App.Exec(t.Context(), `insert into events (stream, version, owner, type, at, payload) values ($1, 1, $2, 'job.accepted', now(), '')`,
		events.JobStream(uuid.New()), f.owner)
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "23502" {
		t.Errorf("append of an earlier release: %v, want a violation of not null", err)
	}
}

// ciphertexts returns the number of the owner's events with a ciphertext, and a digest of
// all other columns of the table.
func (f *fixture) ciphertexts(t *testing.T, owner uuid.UUID) (n int, others string) {
	t.Helper()
	err := f.db.Owner.QueryRow(t.Context(), `select count(*) filter (where owner = $1 and sealed is not null),
		md5(string_agg((to_jsonb(events) - 'sealed')::text, ',' order by position)) from events`, owner).Scan(&n, &others)
	if err != nil {
		t.Fatal(err)
	}
	return n, others
}

// TestErasureEmptiesTheCiphertext erases one of two owners, in batches. Another process
// still has the erased owner's key in its memory when it reads the events.
func TestErasureEmptiesTheCiphertext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetEmptyBatch(3)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := events.NewStore(f.db.App, v, slog.New(slog.DiscardHandler))
	erased, other := f.owner, uuid.Must(uuid.NewV7())
	f.register(t, other)
	var jobs []events.Job
	for _, owner := range []uuid.UUID{erased, other, erased, erased, other} {
		f.owner = owner
		j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
		if err == nil {
			_, err = elsewhere.Job(t.Context(), j.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	f.owner = erased
	f.closeOwner(t)
	if n, _ := f.ciphertexts(t, erased); n != 10 {
		t.Fatalf("%d events have a ciphertext, want one of the account and three of each job", n)
	}
	kept, before := f.ciphertexts(t, other)
	for range 2 {
		if err := f.Erase(t.Context(), erased); err != nil {
			t.Fatal(err)
		}
	}
	if n, after := f.ciphertexts(t, erased); n != 0 || after != before {
		t.Errorf("%d events of the erased owner have a ciphertext, want none; other columns changed: %v", n, after != before)
	}
	var rows int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from history where owner = $1 and sealed is not null`, erased).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows of the history have a ciphertext, %v, want none", rows, err)
	}
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
		t.Errorf("%d rows of the history differ from the events, %v, want none", r.Wrong, err)
	}
	if n, _ := f.ciphertexts(t, other); n != kept {
		t.Errorf("%d events of the other owner have a ciphertext, want %d", n, kept)
	}
	for _, j := range jobs {
		for _, s := range []*events.Store{f.Store, elsewhere} {
			got, err := s.Job(t.Context(), j.ID)
			if err != nil || got.Erased != (j.Owner == erased) || got.State != events.Completed || got.Usage != j.Usage {
				t.Errorf("%+v, %v, want a completed job, erased: %v", got, err, j.Owner == erased)
			}
		}
	}
	if got := f.quarantine(t); len(got) != 0 {
		t.Errorf("in quarantine: %v, want none", got)
	}
}

// An erasure may end after the key is destroyed and before the ciphertext is emptied. The
// owner must stay among the owners to erase until nothing is left.
func TestInterruptedErasureIsFinished(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	f.closeOwner(t)
	if err := f.vault.Erase(t.Context(), f.db.App, f.owner); err != nil {
		t.Fatal(err)
	}
	if owners, err := f.ClosedOwners(t.Context(), 10); err != nil || len(owners) != 1 {
		t.Fatalf("owners to erase: %v, %v, want %v", owners, err, f.owner)
	}
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	if n, _ := f.ciphertexts(t, f.owner); n != 0 {
		t.Errorf("%d events have a ciphertext, want none", n)
	}
	if owners, err := f.ClosedOwners(t.Context(), 10); err != nil || len(owners) != 0 {
		t.Errorf("owners to erase: %v, %v, want none", owners, err)
	}
}

// TestOnlyTheCiphertextOfErasedOwnersCanBeEmptied changes events as the owner of the table
// and as the service.
func TestOnlyTheCiphertextOfErasedOwnersCanBeEmptied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	const refusedByTrigger, refusedByRole = "23001", "42501"
	mustRefuse := func(when, change string, codes map[string]string) {
		t.Helper()
		for role, pool := range map[string]interface {
			Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
		}{"owner": f.db.Owner, "service": f.db.App} {
			_, err := pool.Exec(t.Context(), change)
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != codes[role] {
				t.Errorf("%s: %s as the %s: %v, want SQLSTATE %s", when, change, role, err, codes[role])
			}
		}
	}
	changes := map[string]map[string]string{
		`update events set sealed = ''`:                                            {"owner": refusedByTrigger, "service": refusedByTrigger},
		`update events set payload = ''`:                                           {"owner": refusedByTrigger, "service": refusedByRole},
		`update events set sealed = null, payload = ''`:                            {"owner": refusedByTrigger, "service": refusedByRole},
		`update events set sealed = null, at = now()`:                              {"owner": refusedByTrigger, "service": refusedByRole},
		`update events set sealed = null, schema = 3`:                              {"owner": refusedByTrigger, "service": refusedByRole},
		`update events set sealed = null, owner = gen_random_uuid()`:               {"owner": refusedByTrigger, "service": refusedByRole},
		`update events set sealed = null, version = 9 where type = 'job.advanced'`: {"owner": refusedByTrigger, "service": refusedByRole},
		`delete from events`:                                                       {"owner": refusedByTrigger, "service": refusedByRole},
		`truncate events cascade`:                                                  {"owner": refusedByTrigger, "service": refusedByRole},
	}
	for change, codes := range changes {
		mustRefuse("before an erasure", change, codes)
	}
	mustRefuse("before an erasure", `update events set sealed = null`, map[string]string{"owner": refusedByTrigger, "service": refusedByTrigger})
	// The erasure of one job allows nothing for another one.
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	f.erase(t, j)
	mustRefuse("after the erasure of a job", `update events set sealed = null`, map[string]string{"owner": refusedByTrigger, "service": refusedByTrigger})
	if _, err := f.db.App.Exec(t.Context(), `update events set sealed = null where stream = $1`, events.JobStream(j.ID)); err != nil {
		t.Errorf("emptied again: %v", err)
	}
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	for change, codes := range changes {
		mustRefuse("after an erasure", change, codes)
	}
}
