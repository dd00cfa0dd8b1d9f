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

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
)

// fixture is a running store with one registered owner.
type fixture struct {
	*events.Store
	db    *pgtest.DB
	vault *vault.Vault
	owner uuid.UUID
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	db := pgtest.New(t, migrations.Up)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Store: events.NewStore(db.App, v, slog.New(slog.DiscardHandler)), db: db, vault: v, owner: uuid.Must(uuid.NewV7())}
	run(t, f.Store)
	f.register(t, f.owner)
	return f
}

// run starts a store, which runs until the test ends. It returns when the store listens
// for announcements.
func run(t testing.TB, s *events.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	ready := make(chan struct{})
	wg.Go(func() { s.Run(ctx, func() { close(ready) }) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	<-ready
}

func (f *fixture) register(t testing.TB, owner uuid.UUID) {
	t.Helper()
	err := f.Write(t.Context(), func(tx *events.Tx) error {
		return tx.AppendAccount(t.Context(), owner, events.AccountRegistered{Username: "test-user"})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// put appends each fact in a transaction of its own. It returns the job after the last
// fact.
func (f *fixture) put(ctx context.Context, j events.Job, facts ...events.Fact) (events.Job, error) {
	for _, fact := range facts {
		var err error
		if j, err = f.AppendJob(ctx, j, fact); err != nil {
			return j, err
		}
	}
	return j, nil
}

func (f *fixture) newJob() events.Job {
	return events.Job{ID: uuid.Must(uuid.NewV7()), Owner: f.owner}
}

// completedFacts returns the facts of a completed job. The job's prompt, stop string
// and text contain the word "secret". The job's tokens contain 4242.
func completedFacts() []events.Fact {
	return []events.Fact{
		events.JobAccepted{Prompt: "the prompt is secret", Stop: []string{"secret stop"}, PromptTokens: 4, Model: "m", Policy: "p"},
		events.JobStarted{Attempt: 1, Worker: "w", Weights: "x", Kernel: "k"},
		events.JobAdvanced{Tokens: []int{17, 4242}, Text: "the text is "},
		events.JobAdvanced{Tokens: []int{99}, Text: "secret too"},
		events.JobCompleted{FinishReason: "stop", Usage: events.Usage{PromptTokens: 4, CompletionTokens: 3, TotalTokens: 7}},
	}
}

func TestReadReturnsAppendedEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Job(t.Context(), want.ID)
	if err != nil || !cmp.Equal(got, want) {
		t.Fatalf("%v\n%s", err, cmp.Diff(want, got))
	}
	all, err := f.Read(t.Context(), events.JobStream(want.ID), 0)
	if err != nil {
		t.Fatal(err)
	}
	for after := range len(all) + 1 {
		tail, err := f.Read(t.Context(), events.JobStream(want.ID), after)
		if err != nil || !cmp.Equal(tail, all[after:]) {
			t.Fatalf("after %d: %v\n%s", after, err, cmp.Diff(all[after:], tail))
		}
	}
	if _, err := f.Job(t.Context(), uuid.New()); !errors.Is(err, events.ErrNotFound) {
		t.Fatalf("error for an unknown job: %v, want ErrNotFound", err)
	}
}

func TestOneWriterWinsEachVersion(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()[0])
	if err != nil {
		t.Fatal(err)
	}
	const writers = 8
	errs := make(chan error, writers)
	for i := range writers {
		go func() {
			_, err := f.put(t.Context(), j, events.JobStarted{Worker: fmt.Sprint(i), Weights: "x"})
			errs <- err
		}()
	}
	won := 0
	for range writers {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, events.ErrConflict):
			t.Errorf("error of a losing writer: %v, want ErrConflict", err)
		}
	}
	if won != 1 {
		t.Fatalf("%d writers won the version, want 1", won)
	}
}

// TestAppendAfterARolledBackWriteIsRefused appends to a job whose last event was rolled
// back. The append must be refused, because it would leave a gap in the versions.
func TestAppendAfterARolledBackWriteIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	rolledBack := errors.New("rolled back")
	ahead := j
	err = f.Write(t.Context(), func(tx *events.Tx) error {
		if ahead, err = tx.AppendJob(t.Context(), j, completedFacts()[2]); err != nil {
			return err
		}
		return rolledBack
	})
	if !errors.Is(err, rolledBack) || ahead.Version != j.Version+1 {
		t.Fatalf("rolled-back write: %v, version %d, want version %d", err, ahead.Version, j.Version+1)
	}
	if _, err := f.put(t.Context(), ahead, completedFacts()[3]); !errors.Is(err, events.ErrConflict) {
		t.Fatalf("append after a gap: %v, want ErrConflict", err)
	}
	if now, err := f.Job(t.Context(), j.ID); err != nil || now.Version != j.Version {
		t.Fatalf("job after the refused append: %+v, %v", now, err)
	}
}

// TestFailedWriteLeavesNothing appends an event in a transaction that then fails. Neither
// the event nor a row of the history view may remain.
//
// security: ASVS 2.3.3
func TestFailedWriteLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, boom := f.newJob(), errors.New("boom")
	err := f.Write(t.Context(), func(tx *events.Tx) error {
		if _, err := tx.AppendJob(t.Context(), j, completedFacts()[0]); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if _, err := f.Job(t.Context(), j.ID); !errors.Is(err, events.ErrNotFound) {
		t.Fatalf("job of a failed transaction: %v, want ErrNotFound", err)
	}
	var rows int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from history`).Scan(&rows); err != nil || rows != 0 {
		t.Fatalf("%d rows in the view, %v, want none", rows, err)
	}
}

// TestFailedAppendLeavesNothing makes one statement of an append fail. Store.AppendJob
// sends a batch without begin and commit, but the batch must still be one transaction.
func TestFailedAppendLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.db.Owner.Exec(t.Context(), `alter table history add constraint full_up check (state <> 'completed')`); err != nil {
		t.Fatal(err)
	}
	for range 2 { // two rounds, because the second batch uses prepared statements
		if after, err := f.AppendJob(t.Context(), j, completedFacts()[2:]...); err == nil || after.Version != j.Version {
			t.Fatalf("failing append: version %d, %v, want version %d and an error", after.Version, err, j.Version)
		}
		if all, err := f.Read(t.Context(), events.JobStream(j.ID), 0); err != nil || len(all) != j.Version {
			t.Fatalf("%d events, want %d; %v", len(all), j.Version, err)
		}
	}
	if _, err := f.db.Owner.Exec(t.Context(), `alter table history drop constraint full_up`); err != nil {
		t.Fatal(err)
	}
	if after, err := f.AppendJob(t.Context(), j, completedFacts()[2:]...); err != nil || after.State != events.Completed {
		t.Fatalf("append without the constraint: %s, %v", after.State, err)
	}
}

func TestAppendOfNoFactsWritesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.AppendJob(t.Context(), f.newJob())
	if err != nil || j.Version != 0 {
		t.Errorf("job after no facts: version %d, %v, want 0", j.Version, err)
	}
	err = f.Write(t.Context(), func(tx *events.Tx) error {
		_, err := tx.AppendJob(t.Context(), j)
		return errors.Join(err, tx.AppendAccount(t.Context(), f.owner))
	})
	if err != nil {
		t.Error(err)
	}
	var n int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from events`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d events, %v, want only the registration", n, err)
	}
}

func TestConcurrentAppendsToAnAccountSucceed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const appends = 20
	errs := make(chan error, appends)
	for range appends {
		go func() {
			errs <- f.Write(t.Context(), func(tx *events.Tx) error {
				return tx.AppendAccount(t.Context(), f.owner, events.AccountSignInFailed{})
			})
		}()
	}
	for range appends {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	got, err := f.Read(t.Context(), events.AccountStream(f.owner), 0)
	if err != nil || len(got) != appends+1 {
		t.Fatalf("%d events, %v, want %d", len(got), err, appends+1)
	}
	if got[0].Fact != (events.AccountRegistered{Username: "test-user"}) {
		t.Fatalf("first event: %+v", got[0].Fact)
	}
}

// TestLogCannotBeRewritten tries to change and delete stored events in SQL. The database
// must refuse this to the service's own role and also to the owner of the table.
//
// security: ASVS 13.2.2, ASVS 16.4.2
func TestLogCannotBeRewritten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`update events set payload = ''`,
		`delete from events`,
		`truncate events`,
		`alter table events disable trigger append_only`,
		`drop table events`,
	} {
		if _, err := f.db.App.Exec(t.Context(), sql); code(err) != "42501" { // the code means insufficient_privilege
			t.Errorf("%s as the app role: %v", sql, err)
		}
	}
	for _, sql := range []string{`update events set payload = ''`, `delete from events`, `truncate events`} {
		if _, err := f.db.Owner.Exec(t.Context(), sql); code(err) != "23001" { // the code means restrict_violation, which the trigger raises
			t.Errorf("%s as the owner: %v", sql, err)
		}
	}
}

func code(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// TestSecretsAreStoredEncrypted reads the stored rows of a completed job. No row may
// contain the prompt, the tokens or the user name in plain text.
//
// security: ASVS 11.3.2, LLM02:2025
func TestSecretsAreStoredEncrypted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()...); err != nil {
		t.Fatal(err)
	}
	rows, _ := f.db.Owner.Query(t.Context(), `
		select convert_from(payload, 'UTF8') || coalesce(encode(sealed, 'escape'), '') from events
		union all select history::text || coalesce(encode(sealed, 'escape'), '') from history`)
	stored, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(stored) != len(completedFacts())+2 {
		t.Fatalf("%d rows, want %d", len(stored), len(completedFacts())+2)
	}
	for _, row := range stored {
		for _, secret := range []string{"secret", "17,4242", "test-user"} {
			if strings.Contains(row, secret) {
				t.Errorf("secret %q in the clear in %s", secret, row)
			}
		}
	}
}

func TestEventsOfAnErasedOwnerStillFold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	live, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.vault.Erase(t.Context(), f.db.App, f.owner); err != nil {
		t.Fatal(err)
	}
	j, err := f.Job(t.Context(), live.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !j.Erased || j.Prompt != "" || j.Text != "" || j.State != events.Completed || j.Usage != live.Usage {
		t.Fatalf("job after erasure: %+v", j)
	}
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()[0]); !errors.Is(err, vault.ErrErased) {
		t.Fatalf("new job of an erased owner: %v, want ErrErased", err)
	}
	if r, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil || r.Jobs != 1 {
		t.Fatalf("rebuilt %d rows, %v", r.Jobs, err)
	}
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
		t.Fatalf("wrong rows after the rebuild: %v, %v", r.Wrong, err)
	}
}
