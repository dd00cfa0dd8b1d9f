package jobs_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
)

func TestRefusedRequestLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	with := func(change func(*jobs.Request)) jobs.Request {
		r := request
		change(&r)
		return r
	}
	for name, r := range map[string]jobs.Request{
		"empty prompt":                 with(func(r *jobs.Request) { r.Prompt = "" }),
		"prompt of removed characters": with(func(r *jobs.Request) { r.Prompt = " <>{}; " }),
		"refused word":                 with(func(r *jobs.Request) { r.Prompt = "such violence" }),
		"no room":                      with(func(r *jobs.Request) { r.MaxNewTokens, r.MaxLength = 0, 6 }),
		"prompt too long":              with(func(r *jobs.Request) { r.Prompt = strings.Repeat("p", 501) }),
		"too many bytes in the allowed characters": with(func(r *jobs.Request) { r.Prompt = strings.Repeat("é", 501) }),
	} {
		_, err := f.queue.Submit(t.Context(), f.owner, r)
		_, refused := errors.AsType[policy.Refusal](err)
		_, noRoom := errors.AsType[*jobs.NoRoomError](err)
		if !refused && !noRoom {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if _, err := f.queue.Submit(t.Context(), uuid.New(), request); !errors.Is(err, vault.ErrErased) {
		t.Errorf("unknown owner: %v, want ErrErased", err)
	}
	var rows int
	err := f.db.Owner.QueryRow(t.Context(), `
		select (select count(*) from events where type like 'job.%') + (select count(*) from history) + (select count(*) from `+migrations.RiverJobs+`)`).Scan(&rows)
	if err != nil || rows != 0 {
		t.Errorf("%d rows left, %v, want none", rows, err)
	}
}

// TestTextThatTheModelCannotReadIsRefused submits prompts to a model that has only the
// tokens 0 to 9 of the texts, and none for one byte.
func TestTextThatTheModelCannotReadIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m := jobs.Model{Name: "fake", Context: 1000, Vocab: 10, Encode: func(text string) []int {
		var ids []int
		for _, b := range []byte(text) {
			ids = append(ids, int(b)-'a')
		}
		return ids
	}}
	queue, err := jobs.NewQueue(f.db.App, f.store, m, policy.Default, jobs.Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for prompt, readable := range map[string]bool{"abc": true, "jj": true, "abk": false, "Aab": false} {
		r := request
		r.Prompt, r.Template = prompt, ""
		_, err := queue.Submit(t.Context(), f.owner, r)
		if _, counted := queue.PromptTokens(r); errors.Is(err, jobs.ErrNoToken) == readable || errors.Is(counted, jobs.ErrNoToken) == readable || readable && err != nil {
			t.Errorf("%s: %v, %v", prompt, err, counted)
		}
		if _, err := m.Tokens(prompt); errors.Is(err, jobs.ErrNoToken) == readable {
			t.Errorf("%s: %v", prompt, err)
		}
	}
}

// TestFailedSubmitLeavesNothing lets each of the tables that a submit writes refuse its
// row. No event, no row of the view and no queue entry may be left, and the key of the
// request must stay unused.
func TestFailedSubmitLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := keyed(request, "a")
	exec := func(sql string) {
		t.Helper()
		if _, err := f.db.Owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	count := func() (rows [4]int) {
		t.Helper()
		err := f.db.Owner.QueryRow(t.Context(), `
			select (select count(*) from events where type like 'job.%'), (select count(*) from history), (select count(*) from `+migrations.RiverJobs+`),
				(select count(*) from idempotency_keys)`).Scan(&rows[0], &rows[1], &rows[2], &rows[3])
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	for _, table := range []string{"events", "history", migrations.RiverJobs, "idempotency_keys"} {
		exec(`alter table ` + table + ` add constraint refused check (false) not valid`)
		if j, err := f.queue.Submit(t.Context(), f.owner, r); err == nil {
			t.Errorf("without its row of %s the job is accepted as %+v", table, j)
		}
		exec(`alter table ` + table + ` drop constraint refused`)
		if rows := count(); rows != [4]int{} {
			t.Errorf("without its row of %s: %v rows are left", table, rows)
		}
	}
	f.submit(r)
	if rows := count(); rows != [4]int{1, 1, 1, 1} {
		t.Errorf("%v rows of an accepted job, want one of each", rows)
	}
}

// TestRoomIsCountedInTokens submits prompts of various lengths. The length limit must
// cover prompt and completion together, and a prompt that leaves no room must be refused.
//
// security: ASVS 2.2.3
func TestRoomIsCountedInTokens(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, c := range []struct {
		promptTokens, maxLength, maxNew, want int
	}{
		{6, 50, 0, 44},
		{6, 50, 10, 10},
		{49, 50, 0, 1},
		{500, 10, 600, 500}, // 500 tokens, because the model's context is 1,000 tokens
	} {
		r := jobs.Request{Prompt: strings.Repeat("p", c.promptTokens), MaxLength: c.maxLength, MaxNewTokens: c.maxNew, TopP: 1}
		if j := f.submit(r); j.Params.MaxTokens != c.want {
			t.Errorf("%+v: limit of %d tokens", c, j.Params.MaxTokens)
		}
	}
	_, err := f.queue.Submit(t.Context(), f.owner, jobs.Request{Prompt: strings.Repeat("p", 60), MaxLength: 50, TopP: 1})
	want := &jobs.NoRoomError{PromptTokens: 60, Limit: 50, LimitName: "max_length"}
	if got, ok := errors.AsType[*jobs.NoRoomError](err); !ok || *got != *want || !strings.Contains(err.Error(), "60") || !strings.Contains(err.Error(), "50") {
		t.Errorf("%v", err)
	}
}
