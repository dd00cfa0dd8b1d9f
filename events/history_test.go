package events_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"colophon/events"
)

func TestHistoryIsPagedNewestFirst(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var ids []uuid.UUID
	for range 5 {
		j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
		if err != nil {
			t.Fatal(err)
		}
		ids = append([]uuid.UUID{j.ID}, ids...)
	}
	if _, err := f.put(t.Context(), f.newJob(), completedFacts()[:3]...); err != nil { // History must not return this job, because it is not completed
		t.Fatal(err)
	}
	other := uuid.Must(uuid.NewV7())
	f.register(t, other)
	if _, err := f.put(t.Context(), events.Job{ID: uuid.Must(uuid.NewV7()), Owner: other}, completedFacts()...); err != nil {
		t.Fatal(err)
	}
	var got []uuid.UUID
	var last uuid.UUID
	for {
		page, err := f.History(t.Context(), f.owner, last, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			got, last = append(got, r.Job), r.Job
			if r.Prompt != "the prompt is secret" || r.Text != "the text is secret too" || r.CompletionTokens != 3 {
				t.Fatalf("unexpected record %+v", r)
			}
		}
	}
	if !cmp.Equal(got, ids) {
		t.Fatal(cmp.Diff(ids, got))
	}
}

// TestRebuildReproducesTheView appends random legal facts to jobs. The view rebuilt from
// the log must equal the view written by the appends.
func TestRebuildReproducesTheView(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	rows := func() map[uuid.UUID]string {
		found := map[uuid.UUID]string{}
		rows, _ := f.db.Owner.Query(t.Context(), `select job, (to_jsonb(history) - 'sealed')::text from history`)
		var id uuid.UUID
		var row string
		if _, err := pgx.ForEachRow(rows, []any{&id, &row}, func() error { found[id] = row; return nil }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	rapid.Check(t, func(rt *rapid.T) {
		id := uuid.Must(uuid.NewV7())
		_, facts := drawFacts(rt, id, f.owner)
		if _, err := f.put(t.Context(), events.Job{ID: id, Owner: f.owner}, facts...); err != nil {
			rt.Fatal(err)
		}
	})
	checked, err := f.CheckHistory(t.Context(), events.Observer{})
	if err != nil || checked.Wrong > 0 || checked.Jobs == 0 {
		t.Fatalf("check: %+v, %v", checked, err)
	}
	live := rows()
	if _, err := f.db.Owner.Exec(t.Context(), `truncate history`); err != nil {
		t.Fatal(err)
	}
	rebuilt, err := f.RebuildHistory(t.Context(), events.Observer{})
	if err != nil || rebuilt.Jobs != checked.Jobs || rebuilt.Wrong != checked.Jobs {
		t.Fatalf("rebuilt %d rows of %d jobs, want %d, %v", rebuilt.Wrong, rebuilt.Jobs, checked.Jobs, err)
	}
	if after := rows(); !cmp.Equal(live, after) {
		t.Fatal(cmp.Diff(live, after))
	}
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
		t.Fatalf("wrong rows after the rebuild: %v, %v", r.Wrong, err)
	}
}

func TestCheckFindsWrongRows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var ids []uuid.UUID
	for range 3 {
		j, err := f.put(t.Context(), f.newJob(), completedFacts()...)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, j.ID)
	}
	orphan := uuid.Must(uuid.NewV7())
	for _, change := range []struct {
		sql  string
		args []any
	}{
		{`update history set state = 'queued' where job = $1`, []any{ids[0]}},
		{`delete from history where job = $1`, []any{ids[1]}},
		{`insert into history select $1, owner, state, model, 0, 0, '', created_at, null, null, null from history where job = $2`, []any{orphan, ids[2]}},
	} {
		if _, err := f.db.Owner.Exec(t.Context(), change.sql, change.args...); err != nil {
			t.Fatal(err)
		}
	}
	want := map[uuid.UUID]string{
		ids[0]: "state is queued, and the events say completed",
		ids[1]: "the row is missing",
		orphan: "the job has no events",
	}
	for _, run := range []func(context.Context, events.Observer) (events.Report, error){f.CheckHistory, f.RebuildHistory} {
		got := map[uuid.UUID]string{}
		r, err := run(t.Context(), events.Observer{Differs: func(d events.Difference) { got[d.Job] = d.What }})
		if err != nil || r.Wrong != len(want) || !cmp.Equal(got, want) {
			t.Fatalf("%d rows wrong, %v\n%s", r.Wrong, err, cmp.Diff(want, got))
		}
		if first := (events.Difference{Job: ids[0], What: want[ids[0]]}); *r.First != first {
			t.Errorf("first %s, want %s", r.First, first)
		}
	}
	if r, err := f.CheckHistory(t.Context(), events.Observer{}); err != nil || r.Wrong > 0 {
		t.Fatalf("wrong rows after the rebuild: %v, %v", r.Wrong, err)
	}
}
