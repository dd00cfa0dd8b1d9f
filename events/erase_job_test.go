package events_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
)

// erase appends JobErased to an ended job.
func (f *fixture) erase(t *testing.T, j events.Job) events.Job {
	t.Helper()
	j, err := f.AppendJob(t.Context(), j, events.JobErased{By: "owner", CompletionTokens: len(j.Tokens), APIKey: j.APIKey})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// reservedFacts returns the facts of a completed job that has reserved a part of the budget.
func reservedFacts() []events.Fact {
	facts := completedFacts()
	accepted := facts[0].(events.JobAccepted)
	accepted.Reserved = events.Reservation{Day: time.Now().UTC().Format(time.DateOnly), Tokens: 50}
	accepted.APIKey = uuid.UUID{1}
	return append([]events.Fact{accepted}, facts[1:]...)
}

// endedJobs appends jobs that ended in every state and after every number of events.
func (f *fixture) endedJobs(t *testing.T) (jobs []events.Job) {
	t.Helper()
	facts := reservedFacts()
	lives := [][]events.Fact{facts}
	for n := 1; n < len(facts); n++ {
		for _, last := range []events.Fact{events.JobCancelled{By: "owner"}, events.JobFailed{Attempt: 1, Reason: "r", Final: true}} {
			lives = append(lives, slices.Concat(facts[:n], []events.Fact{last}))
		}
	}
	for _, life := range lives {
		j, err := f.put(t.Context(), f.newJob(), life...)
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// mustBeTombstone fails the test unless a job has its record and no secret.
func mustBeTombstone(t *testing.T, j, before events.Job) {
	t.Helper()
	want := before
	want.Version, want.Hash, want.ChangedAt = j.Version, j.Hash, j.ChangedAt
	want.Erased, want.ErasedAt, want.ErasedTokens = true, j.ChangedAt, len(before.Tokens)
	want.Prompt, want.Text, want.Tokens, want.TokensBy = "", "", nil, ""
	want.Params.Stop = nil
	if !cmp.Equal(j, want) || j.ErasedAt.IsZero() {
		t.Errorf("erased job: %s", cmp.Diff(want, j))
	}
	if j.Generated() != before.Generated() || j.Spent() != before.Spent() {
		t.Errorf("%d tokens, %d spent, want %d and %d as before", j.Generated(), j.Spent(), before.Generated(), before.Spent())
	}
}

// TestErasedJobKeepsItsRecord erases jobs that ended in every way. The writer, other readers
// and the history view must agree on what is left, also after a rebuild.
func TestErasedJobKeepsItsRecord(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := events.NewStore(f.db.App, v, slog.New(slog.DiscardHandler))
	before := f.endedJobs(t)
	kept, err := f.put(t.Context(), f.newJob(), reservedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	_, others := f.ciphertexts(t, f.owner)
	var erased []events.Job
	for _, j := range before {
		if _, err := elsewhere.Job(t.Context(), j.ID); err != nil { // the other process has the owner's key in memory
			t.Fatal(err)
		}
		erased = append(erased, f.erase(t, j))
	}
	if n, _ := f.ciphertexts(t, f.owner); n != 4+len(erased) {
		t.Errorf("%d events have a ciphertext, want one of the account, three of the other job, and one of each erasure", n)
	}
	var unchanged string
	err = f.db.Owner.QueryRow(t.Context(), `select md5(string_agg((to_jsonb(events) - 'sealed')::text, ',' order by position))
		from events where type <> 'job.erased'`).Scan(&unchanged)
	if err != nil || unchanged != others {
		t.Errorf("other columns changed, %v", err)
	}
	agree := func(when string) {
		t.Helper()
		f.mustAgree(t)
		for i, j := range erased {
			for _, s := range []*events.Store{f.Store, elsewhere} {
				got, err := s.Job(t.Context(), j.ID)
				if err != nil || !cmp.Equal(got, j) {
					t.Errorf("%s: %v\n%s", when, err, cmp.Diff(j, got))
				}
				for after := range j.Version {
					page, err := s.Page(t.Context(), events.JobStream(j.ID), after, 1)
					if err != nil || len(page) != 1 || strings.Contains(fmt.Sprint(page[0].Fact), "secret") || page[0].Erased != (len(page[0].Secret()) > 0 && page[0].Fact.Type() != "job.erased") {
						t.Errorf("%s: event %d: %+v, %v", when, after+1, page, err)
					}
				}
			}
			mustBeTombstone(t, j, before[i])
		}
		records, err := f.History(t.Context(), f.owner, uuid.UUID{}, 10)
		if err != nil || len(records) != 2 || records[0].Text != kept.Text || records[0].Erased ||
			records[1].Job != erased[0].ID || !records[1].Erased || records[1].Prompt+records[1].Text != "" ||
			!records[1].ErasedAt.Equal(erased[0].ErasedAt) || records[1].CompletionTokens != 3 {
			t.Errorf("%s: history %+v, %v", when, records, err)
		}
	}
	agree("after the erasure")
	f.db.Damage(t, `update history set erased_at = null, completion_tokens = 99, sealed = '\x00'`)
	f.db.Damage(t, `delete from budgets`)
	if _, err := f.RebuildHistory(t.Context(), events.Observer{}); err != nil {
		t.Fatal(err)
	}
	agree("after a rebuild")
	if got := f.quarantine(t); len(got) != 0 {
		t.Errorf("in quarantine: %v, want none", got)
	}
	// The erasure of the owner must also leave nothing of the tombstones in the history.
	f.closeOwner(t)
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	if records, err := f.History(t.Context(), f.owner, uuid.UUID{}, 10); err != nil || len(records) != 0 {
		t.Errorf("history of an erased owner: %+v, %v", records, err)
	}
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 || len(r.Damaged) > 0 {
		t.Errorf("%d rows wrong, %v", r.Wrong, err)
	}
	if _, err := elsewhere.Job(t.Context(), erased[0].ID); err != nil {
		t.Error(err)
	}
}

// TestErasureOfAJobIsNeverHalf lets the emptying fail, as if the process were killed before
// it. The stream must be as before.
func TestErasureOfAJobIsNeverHalf(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	n, others := f.ciphertexts(t, f.owner)
	f.db.Damage(t, `create function fail() returns trigger language plpgsql as $$ begin raise exception 'killed'; end $$`)
	for _, table := range []string{"events", "history"} { // before the emptying, and after it
		f.db.Damage(t, `create trigger fail before update on `+table+` for each row execute function fail()`)
		erased := events.JobErased{By: "owner", CompletionTokens: 3}
		if _, err := f.AppendJob(t.Context(), j, erased); err == nil {
			t.Fatal("the erasure succeeded")
		}
		err := f.Write(t.Context(), func(tx *events.Tx) error {
			_, err := tx.AppendJob(t.Context(), j, erased)
			return err
		})
		if err == nil {
			t.Fatal("the erasure succeeded")
		}
		f.db.Damage(t, `drop trigger fail on `+table)
		if again, err := f.Job(t.Context(), j.ID); err != nil || !cmp.Equal(again, j) {
			t.Errorf("%v\n%s", err, cmp.Diff(j, again))
		}
		if got, after := f.ciphertexts(t, f.owner); got != n || after != others {
			t.Errorf("%d ciphertexts, want %d", got, n)
		}
	}
	f.erase(t, j)
}

// TestEventsOfAnErasedJobHaveNoCiphertext puts a ciphertext back. Readers and the check of
// the log must find it.
func TestEventsOfAnErasedJobHaveNoCiphertext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err != nil {
		t.Fatal(err)
	}
	stream := events.JobStream(j.ID)
	f.db.Damage(t, `create table kept as select version, sealed from events where stream = $1`, stream)
	f.erase(t, j)
	f.db.Damage(t, `update events set sealed = kept.sealed from kept where stream = $1 and events.version = 3 and kept.version = 3`, stream)
	var r events.Row
	var previous events.Row
	for version, to := range map[int]*events.Row{2: &previous, 3: &r} {
		err := f.db.Owner.QueryRow(t.Context(), `select stream, version, owner, type, schema, at, payload, sealed from events where stream = $1 and version = $2`, stream, version).
			Scan(&to.Stream, &to.Version, &to.Owner, &to.Type, &to.Schema, &to.At, &to.Payload, &to.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		to.Erased = true
	}
	for sealed, want := range map[string]string{string(r.Sealed): "not emptied", "": ""} {
		if r.Sealed = []byte(sealed); sealed == "" {
			r.Sealed = nil
		}
		if err := f.CheckRow(t.Context(), r, &previous); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("check: %v, want %q", err, want)
		}
	}
	if _, err := f.Job(t.Context(), j.ID); !errors.Is(err, events.ErrDamaged) {
		t.Errorf("read: %v, want ErrDamaged", err)
	}
}

// TestFollowersGetNoTextAfterAnErasure erases a job while a follower handles an earlier
// event. The follower must get the rest without texts, although its process has them in
// memory.
func TestFollowersGetNoTextAfterAnErasure(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	facts := completedFacts()
	j, err := f.put(t.Context(), f.newJob(), facts[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	var got []events.Event
	for batch, err := range f.Follow(t.Context(), events.JobStream(j.ID), 0, time.Minute) {
		if err != nil {
			t.Fatal(err)
		}
		if got == nil {
			if j, err = f.put(t.Context(), j, facts[2:]...); err != nil {
				t.Fatal(err)
			}
			f.erase(t, j)
		}
		if got = append(got, batch...); got[len(got)-1].Fact.Type() == "job.erased" {
			break
		}
	}
	if len(got) != 6 || got[0].Erased || !got[2].Erased || strings.Contains(fmt.Sprint(got[2:]), "secret") {
		t.Errorf("%+v", got)
	}
}

// TestRetainedJobsAreOldAndReadable lists the jobs whose texts were kept long enough.
func TestRetainedJobsAreOldAndReadable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	all := f.endedJobs(t)
	open, err := f.put(t.Context(), f.newJob(), completedFacts()[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	f.db.Damage(t, `update history set finished_at = finished_at - interval '2 hours' where job <> $1`, all[1].ID)
	f.erase(t, all[2])
	f.db.Damage(t, `update history set finished_at = finished_at - interval '2 hours' where job = $1`, all[2].ID)
	if err := f.SetAside(t.Context(), &events.Damage{Stream: events.JobStream(all[3].ID), Version: 1, Owner: f.owner, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	retained := func(limit int) (ids []uuid.UUID) {
		t.Helper()
		for last := (events.Ended{}); ; {
			page, err := f.Retained(t.Context(), time.Hour, last, limit)
			if err != nil || len(page) > limit {
				t.Fatal(page, err)
			}
			for _, e := range page {
				ids = append(ids, e.Job)
			}
			if len(page) == 0 {
				return ids
			}
			last = page[len(page)-1]
		}
	}
	want := []uuid.UUID{all[0].ID}
	for _, j := range all[4:] {
		want = append(want, j.ID)
	}
	for _, limit := range []int{1, 4, 100} {
		if got := retained(limit); !slices.Equal(got, want) || slices.Contains(got, open.ID) {
			t.Errorf("in pages of %d: %v, want %v", limit, got, want)
		}
	}
	f.closeOwner(t)
	if got := retained(10); len(got) != 0 {
		t.Errorf("jobs of a closed owner: %v", got)
	}
}

// TestFeedShowsErasedJobs erases a job, whose events must stay in the feed without their
// texts, and whose stream must not be set aside.
func TestFeedShowsErasedJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job, err := f.put(t.Context(), f.newJob(), completedFacts()...)
	if err == nil {
		_, err = f.AppendJob(t.Context(), job, events.JobErased{By: "owner", CompletionTokens: job.Generated()})
	}
	if err != nil {
		t.Fatal(err)
	}
	f.sequence(t)
	feed, err := f.Feed(t.Context(), f.owner, -1, events.FeedPage)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, e := range feed {
		if e.Stream != events.JobStream(job.ID) {
			continue
		}
		types = append(types, e.Type)
		if secret := e.Type == "job.accepted" || e.Type == "job.advanced"; e.Damaged || e.Erased != secret {
			t.Errorf("%s: damaged %v, erased %v", e.Type, e.Damaged, e.Erased)
		}
	}
	if want := []string{"job.accepted", "job.started", "job.advanced", "job.advanced", "job.completed", "job.erased"}; !cmp.Equal(types, want) {
		t.Error(cmp.Diff(want, types))
	}
	if got := f.quarantine(t); len(got) != 0 {
		t.Errorf("in quarantine: %v", got)
	}
}
