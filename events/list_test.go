package events_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"colophon/events"
)

// jobsInEachState appends a job in each state, and an erased one, from the oldest to the
// newest. The queued job has the model "other".
func (f *fixture) jobsInEachState(t *testing.T) map[string]events.Job {
	t.Helper()
	facts := completedFacts()
	accepted := facts[0].(events.JobAccepted)
	accepted.Model = "other"
	made := map[string]events.Job{}
	for _, k := range []struct {
		name  string
		facts []events.Fact
	}{
		{"completed", facts},
		{"failed", append(slices.Clone(facts[:3]), events.JobFailed{Attempt: 1, Reason: "secret reason", Final: true})},
		{"cancelled", append(slices.Clone(facts[:1]), events.JobCancelled{By: "owner"})},
		{"erased", facts},
		{"damaged", facts[:3]},
		{"running", facts[:3]},
		{"queued", []events.Fact{accepted}},
	} {
		j, err := f.put(t.Context(), events.Job{ID: f.NewID(), Owner: f.owner}, k.facts...)
		if err != nil {
			t.Fatal(err)
		}
		made[k.name] = j
	}
	made["erased"] = f.erase(t, made["erased"])
	f.alter(t, events.JobStream(made["damaged"].ID), 2, replace(`"fact"`, `"FACT!`))
	if _, err := f.Job(t.Context(), made["damaged"].ID); err == nil {
		t.Fatal("the damaged job can be read")
	}
	return made
}

// listed returns the jobs of a list, page by page.
func (f *fixture) listed(t *testing.T, filter events.JobFilter, limit int) (all []events.Record) {
	t.Helper()
	for last := (uuid.UUID{}); ; {
		page, err := f.Jobs(t.Context(), f.owner, filter, last, limit)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if len(page) < limit {
			return all
		}
		last = page[limit-1].Job
	}
}

func TestJobsAreListedInEachState(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if found := f.listed(t, events.JobFilter{}, 3); len(found) != 0 {
		t.Errorf("before the first job: %+v", found)
	}
	made := f.jobsInEachState(t)
	other := uuid.Must(uuid.NewV7())
	f.register(t, other)
	if _, err := f.put(t.Context(), events.Job{ID: f.NewID(), Owner: other}, completedFacts()...); err != nil {
		t.Fatal(err)
	}
	newest := []string{"queued", "running", "damaged", "erased", "cancelled", "failed", "completed"}
	failed := made["failed"].AcceptedAt
	for name, k := range map[string]struct {
		filter events.JobFilter
		want   []string
	}{
		"all":              {events.JobFilter{}, newest},
		"completed":        {events.JobFilter{States: []events.State{events.Completed}}, []string{"erased", "completed"}},
		"not ended":        {events.JobFilter{States: []events.State{events.Running, events.Queued}}, []string{"queued", "running"}},
		"the same twice":   {events.JobFilter{States: []events.State{events.Failed, events.Failed}}, []string{"failed"}},
		"damaged":          {events.JobFilter{States: []events.State{events.StateDamaged}}, []string{"damaged"}},
		"model":            {events.JobFilter{Model: "other"}, []string{"queued"}},
		"model and state":  {events.JobFilter{Model: "m", States: []events.State{events.Queued, events.Running}}, []string{"running"}},
		"unknown model":    {events.JobFilter{Model: "unknown"}, nil},
		"since":            {events.JobFilter{Since: failed}, newest[:6]},
		"just after":       {events.JobFilter{Since: failed.Add(time.Microsecond)}, newest[:5]},
		"until":            {events.JobFilter{Until: failed}, newest[6:]},
		"until just after": {events.JobFilter{Until: failed.Add(time.Microsecond)}, newest[5:]},
		"no time":          {events.JobFilter{Since: failed, Until: failed}, nil},
		"long ago":         {events.JobFilter{Until: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)}, nil},
		"far in time":      {events.JobFilter{Since: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}, nil},
		"at all times":     {events.JobFilter{Since: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), Until: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}, newest},
	} {
		var want []uuid.UUID
		for _, w := range k.want {
			want = append(want, made[w].ID)
		}
		for _, limit := range []int{1, 2, 100} {
			var got []uuid.UUID
			for _, r := range f.listed(t, k.filter, limit) {
				got = append(got, r.Job)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s in pages of %d: %s", name, limit, diff)
			}
		}
	}
	for i, r := range f.listed(t, events.JobFilter{}, 100) {
		name := newest[i]
		state, texts := name, "the prompt is secret"
		switch name {
		case "erased":
			state, texts = "completed", ""
		case "damaged":
			texts = ""
		case "completed", "failed":
			texts += "the text is secret too"[:len(made[name].Text)]
		}
		if string(r.State) != state || r.Prompt+r.Text != texts || r.PromptTokens != 4 || r.ErasedAt.IsZero() == (name == "erased") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestListPassesDamagedRows damages the ciphertext of rows, and the events of one of their
// jobs. That job must be listed as damaged, also in the history.
func TestListPassesDamagedRows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var made []events.Job
	for range 3 {
		j, err := f.put(t.Context(), events.Job{ID: f.NewID(), Owner: f.owner}, completedFacts()...)
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, j)
	}
	f.db.Damage(t, `update history set sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)`)
	f.alter(t, events.JobStream(made[1].ID), 3, func(p string) string { return p[1:] })
	history, err := f.History(t.Context(), f.owner, uuid.UUID{}, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]events.Record{f.listed(t, events.JobFilter{}, 2), history} {
		if len(list) != 3 || list[0].Job != made[2].ID || list[1].Job != made[1].ID || list[2].Job != made[0].ID ||
			list[1].State != events.StateDamaged || list[1].Prompt+list[1].Text != "" || list[0].Text != "the text is secret too" || list[2].State != events.Completed {
			t.Errorf("%+v", list)
		}
	}
}

func TestErasedOwnerHasNoJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	made := f.jobsInEachState(t)
	for _, name := range []string{"running", "queued"} {
		if _, err := f.AppendJob(t.Context(), made[name], events.JobCancelled{By: "service"}); err != nil {
			t.Fatal(err)
		}
	}
	f.closeOwner(t)
	if err := f.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	if found := f.listed(t, events.JobFilter{}, 100); len(found) != 0 {
		t.Errorf("%+v", found)
	}
}

// TestUsageIsCountedByDay compares the usage with the jobs of a list, and moves jobs to the
// ends of days.
func TestUsageIsCountedByDay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	day := time.Date(2026, 8, 14, 0, 0, 0, 0, time.UTC)
	usage := func(from, to time.Time) []events.DayUsage {
		t.Helper()
		days, err := f.UsageByDay(t.Context(), f.owner, uuid.UUID{}, from, to)
		if err != nil {
			t.Fatal(err)
		}
		return days
	}
	if found := usage(day, day); len(found) != 0 {
		t.Errorf("before the first job: %+v", found)
	}
	made := f.jobsInEachState(t)
	want := events.DayUsage{Jobs: len(made)}
	for _, r := range f.listed(t, events.JobFilter{}, 100) {
		want.PromptTokens += int64(r.PromptTokens)
		want.CompletionTokens += int64(r.CompletionTokens)
	}
	accepted := made["completed"].AcceptedAt.Truncate(24 * time.Hour)
	var got events.DayUsage
	for _, d := range usage(accepted, accepted.AddDate(0, 0, 1)) { // the jobs may be of two days
		got.Jobs, got.PromptTokens, got.CompletionTokens = got.Jobs+d.Jobs, got.PromptTokens+d.PromptTokens, got.CompletionTokens+d.CompletionTokens
	}
	if got != want || want.CompletionTokens < 6 {
		t.Errorf("%+v, want %+v", got, want)
	}
	// A time zone of the session must not matter.
	if _, err := f.db.Owner.Exec(t.Context(), `do $$ begin execute format('alter database %I set timezone = ''Pacific/Auckland''', current_database()); end $$`); err != nil {
		t.Fatal(err)
	}
	f.db.App.Reset()
	f.generate(t, day.Add(-time.Microsecond), 0, 1)
	f.generate(t, day, 0, 2)
	f.generate(t, day.Add(24*time.Hour-time.Microsecond), 0, 3)
	f.generate(t, day.Add(24*time.Hour), 0, 4)
	counted := func(n int, at time.Time) events.DayUsage {
		return events.DayUsage{Day: at, Jobs: n, PromptTokens: int64(n), CompletionTokens: 2 * int64(n)}
	}
	before, after := day.AddDate(0, 0, -1), day.AddDate(0, 0, 1)
	for _, k := range []struct {
		from, to time.Time
		want     []events.DayUsage
	}{
		{day, day, []events.DayUsage{counted(5, day)}},
		{before, day, []events.DayUsage{counted(1, before), counted(5, day)}},
		{day.AddDate(0, 0, -20), after, []events.DayUsage{counted(1, before), counted(5, day), counted(4, after)}},
		{day.AddDate(0, 0, 2), day.AddDate(0, 0, 9), nil},
		{time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1000, 1, 9, 0, 0, 0, 0, time.UTC), nil},
	} {
		if diff := cmp.Diff(k.want, append([]events.DayUsage(nil), usage(k.from, k.to)...)); diff != "" {
			t.Errorf("%s to %s: %s", k.from, k.to, diff)
		}
	}
}

// generate adds rows of completed jobs to the history view, without events. The jobs were
// accepted one after the other from a time on.
func (f *fixture) generate(t testing.TB, first time.Time, every time.Duration, jobs int) {
	t.Helper()
	_, err := f.db.Owner.Exec(t.Context(), `
		insert into history (job, owner, state, model, prompt_tokens, completion_tokens, finish_reason, created_at, finished_at, sealed)
		select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || '8' || substr(md5(random()::text), 1, 15))::uuid,
			$1, 'completed', 'm', 1, 2, 'stop', at, at, repeat('x', 500)::bytea
		from generate_series(0, $4 - 1) as n, lateral (select $2::timestamptz + n * $3::interval as at) as times`, f.owner, first, every, jobs)
	if err != nil {
		t.Fatal(err)
	}
}

// indexBlocks returns the number of blocks that the scans of history_of_owner in a plan have
// read. It counts the rows that such a scan has looked up in the table too.
func indexBlocks(t *testing.T, plan json.RawMessage) (blocks float64) {
	t.Helper()
	for _, s := range planSteps(t, plan) {
		if s.Index == "history_of_owner" {
			blocks += s.Hit + s.Read
		}
	}
	return blocks
}

// TestListsReadOnlyTheirJobs asks for the plans of the queries for an owner with many jobs.
// They must use the index, and read no more jobs than they answer with.
func TestListsReadOnlyTheirJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.jobsInEachState(t)
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	f.generate(t, begin, time.Minute, 40_000)
	if _, err := f.db.Owner.Exec(t.Context(), `analyze history`); err != nil {
		t.Fatal(err)
	}
	mustRead := func(what string, most float64, row pgx.Row) {
		t.Helper()
		var plan json.RawMessage
		if err := row.Scan(&plan); err != nil {
			t.Fatal(err)
		}
		if text := string(plan); !strings.Contains(text, "history_of_owner") || strings.Contains(text, `"Seq Scan"`) {
			t.Errorf("%s: %s", what, text)
		}
		if rows := mostRows(t, plan); rows > most {
			t.Errorf("%s: a step reads %v rows, at most %v are needed: %s", what, rows, most, plan)
		}
		// Entries of the index that a scan skips are not among its rows.
		if blocks := indexBlocks(t, plan); blocks > 100+most {
			t.Errorf("%s: the scans of the index read %v blocks: %s", what, blocks, plan)
		}
	}
	const explain = `explain (analyze, buffers, format json) `
	day := begin.AddDate(0, 0, 14)
	for what, k := range map[string]struct {
		filter events.JobFilter
		most   float64
	}{
		"newest":     {events.JobFilter{}, 60},
		"rare state": {events.JobFilter{States: []events.State{events.Failed}}, 10},
		"rare model": {events.JobFilter{Model: "other"}, 10},
		"no model":   {events.JobFilter{Model: "none"}, 10},
		"until":      {events.JobFilter{Until: day}, 60},
		"one minute": {events.JobFilter{Since: day, Until: day.Add(time.Minute)}, 10},
	} {
		mustRead(what, k.most, f.db.App.QueryRow(t.Context(), explain+events.ListQuery, events.ListArgs(f.owner, k.filter, uuid.UUID{}, 50)...))
	}
	mustRead("one day", 24*60, f.db.App.QueryRow(t.Context(), explain+events.UsageQuery, events.UsageArgs(f.owner, day, day)...))
}
