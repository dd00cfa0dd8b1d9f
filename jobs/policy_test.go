package jobs_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
)

// refusals returns the refusals on record in the owner's account.
func (f *fixture) refusals() (facts []events.PolicyRefused) {
	f.t.Helper()
	list, err := f.store.Read(f.t.Context(), events.AccountStream(f.owner), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range list {
		if fact, ok := e.Fact.(events.PolicyRefused); ok {
			facts = append(facts, fact)
		}
	}
	return facts
}

// TestRefusedPromptIsOnRecord submits prompts that break rules. The account must have the
// rule of each, and nothing of the prompts.
func TestRefusedPromptIsOnRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	rules := policy.Default().Version()
	var want []events.PolicyRefused
	for _, c := range []struct{ prompt, rule string }{
		{"such violence", "prompt_word"}, {" <>{}; ", "prompt_blank"}, {"a\x00b", "prompt_control"}, {"\xff", "prompt_encoding"}, {"", "prompt_length"},
	} {
		r := request
		r.Prompt = c.prompt
		if _, err := f.queue.Submit(t.Context(), f.owner, r); !strings.Contains(code(err), c.rule) {
			t.Errorf("%q: %v", c.prompt, err)
		}
		want = append(want, events.PolicyRefused{Policy: rules, Rule: c.rule})
	}
	if diff := cmp.Diff(want, f.refusals()); diff != "" {
		t.Error(diff)
	}
	var found int
	err := f.db.Owner.QueryRow(t.Context(), `select count(*) from events where position(convert_to('violence', 'UTF8') in payload) > 0 or sealed is not null and type = 'policy.refused'`).Scan(&found)
	if err != nil || found > 0 {
		t.Errorf("%d events have a prompt, %v", found, err)
	}
	// A request that is refused for another reason is no refusal of the policy.
	r := request
	r.MaxNewTokens, r.MaxLength = 0, 1
	if _, err := f.queue.Submit(t.Context(), f.owner, r); err == nil || len(f.refusals()) != len(want) {
		t.Errorf("%v, %d refusals", err, len(f.refusals()))
	}
}

// code returns the code of an error, or "".
func code(err error) string {
	if coded, ok := errors.AsType[interface {
		error
		Code() string
	}](err); ok {
		return coded.Code()
	}
	return ""
}

// TestRefusalOfAnEarlierJobIsNotRecorded sends an accepted request again after the rules have
// changed. The answer must be the job, so there is no refusal.
func TestRefusalOfAnEarlierJobIsNotRecorded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := keyed(request, "a")
	first, err := f.queue.Submit(t.Context(), f.owner, r)
	if err != nil {
		t.Fatal(err)
	}
	strict, err := policy.Parse("name strict\nword " + request.Prompt)
	if err != nil {
		t.Fatal(err)
	}
	queue, err := jobs.NewQueue(f.db.App, f.store, jobs.Model{Context: 1000, Vocab: 26, Encode: newEngine().Encode}, func() *policy.Rules { return strict }, jobs.Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	again, err := queue.Submit(t.Context(), f.owner, r)
	if err != nil || again.ID != first.ID || len(f.refusals()) != 0 {
		t.Errorf("%v, job %s, want %s; %d refusals", err, again.ID, first.ID, len(f.refusals()))
	}
	r.Key.Key = "another key"
	if _, err := queue.Submit(t.Context(), f.owner, r); code(err) != "prompt_word" || len(f.refusals()) != 1 {
		t.Errorf("%v, %d refusals", err, len(f.refusals()))
	}
}

// TestClosedAccountGetsNoRefusal submits a refused prompt to a closed account.
func TestClosedAccountGetsNoRefusal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.close(f.owner)
	r := request
	r.Prompt = "such violence"
	if _, err := f.queue.Submit(t.Context(), f.owner, r); !errors.Is(err, vault.ErrErased) {
		t.Errorf("got %v", err)
	}
	if n := len(f.refusals()); n > 0 {
		t.Errorf("%d refusals", n)
	}
}

// TestRefusedTextEndsBeforeTheWord stops a worker in the middle of a refused word.
// Another worker continues the job. No part of the word may be recorded. The model must
// stop after the word.
func TestRefusedTextEndsBeforeTheWord(t *testing.T) {
	t.Parallel()
	f, first, second := newFixture(t), newEngine(), newEngine()
	const before = "the{lord{of{whatever{chateau{he{has{"
	first.says = before + "violence" + strings.Repeat("{and{so{on", 20)
	second.says = first.says
	first.pause[1+len(before+"viol")] = make(chan struct{}) // never closed, so the job stops here
	j := f.submit(jobs.Request{Prompt: "p", MaxNewTokens: 200, TopP: 1})
	stop := f.work(first)
	j = f.until(j, func(j events.Job) bool { return j.Text == before })
	stop()
	now, err := f.store.Job(t.Context(), j.ID)
	if err != nil || now.Text != before || now.State.Final() {
		t.Fatalf("stopped job: %+v, %v", now, err)
	}
	f.work(second)
	j = f.until(now, final)
	if j.State != events.Completed || j.FinishReason != "content_filter" || j.Text != before || j.Attempts != 2 {
		t.Errorf("%+v", j)
	}
	if n := len(before); len(j.Tokens) != n || j.Usage != (events.Usage{PromptTokens: 1, CompletionTokens: n, TotalTokens: n + 1}) {
		t.Errorf("%d tokens, usage %+v; want %d", len(j.Tokens), j.Usage, n)
	}
	if want := len("violence{"); second.calls != want {
		t.Errorf("%d calls of the model after the stop, want %d", second.calls, want)
	}
	list, err := f.store.Read(t.Context(), events.JobStream(j.ID), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		switch fact := e.Fact.(type) {
		case events.JobAccepted:
			if fact.Policy != policy.Default().Version() {
				t.Errorf("accepted under %q", fact.Policy)
			}
		case events.JobStarted:
			if fact.Policy != policy.Default().Version() {
				t.Errorf("started under %q", fact.Policy)
			}
		case events.JobAdvanced:
			if slices.Contains(fact.Tokens, 'i'-'a') {
				t.Errorf("event with tokens of the word: %v", fact.Tokens)
			}
		}
	}
	records, err := f.store.History(t.Context(), f.owner, uuid.UUID{}, 10)
	if err != nil || len(records) != 1 || records[0].Text != before || records[0].FinishReason != "content_filter" {
		t.Errorf("history: %+v, %v", records, err)
	}
}

// TestHeldBackTextIsNotLost generates allowed words that begin like refused words. The
// whole text must be on record.
func TestHeldBackTextIsNotLost(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.says = "hateful{hats{h{a{t{x{violences{hat"
	j := f.submit(jobs.Request{Prompt: "p", MaxNewTokens: len(e.says), TopP: 1})
	f.work(e)
	if j = f.until(j, final); j.Text != e.says || len(j.Tokens) != len(e.says) || j.FinishReason != "length" {
		t.Errorf("%q, %d tokens, %s", j.Text, len(j.Tokens), j.FinishReason)
	}
}
