package jobs_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
)

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
