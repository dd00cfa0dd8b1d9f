package jobs_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/jobs"
	"colophon/model"
)

// sampled is like request, with all parameters that change logits.
var sampled = jobs.Request{
	Prompt: "prompt", MaxNewTokens: 40, Temperature: 1, TopP: 0.95, Seed: new(uint64(11)), MinTokens: 30, MinP: 0.05, Logprobs: new(3),
	PresencePenalty: 0.5, FrequencyPenalty: -0.25, RepetitionPenalty: 1.2, LogitBias: map[int]float64{3: -100, 5: 1.5},
}

// logprobsOf submits a job for the log probabilities of the text of j, and runs it.
func (f *fixture) logprobsOf(j events.Job, n int) events.Job {
	f.t.Helper()
	submitted, err := f.queue.SubmitLogprobs(f.t.Context(), j, n, jobs.Request{})
	if err != nil {
		f.t.Fatal(err)
	}
	return f.until(submitted, final)
}

// mustHaveText fails the test unless j has the text and the end of want, and the given log
// probabilities.
func (f *fixture) mustHaveText(what string, j, want events.Job, probs []model.TokenLogprobs) {
	f.t.Helper()
	if j.State != events.Completed || !slices.Equal(j.Tokens, want.Tokens) || j.Text != want.Text || j.FinishReason != want.FinishReason || j.Usage != want.Usage {
		f.t.Errorf("%s: %s %s, %q, want %q", what, j.State, j.Reason, j.Text, want.Text)
	}
	if len(probs) != len(j.Tokens) || !slices.EqualFunc(j.Logprobs, probs, model.EqualLogprobs) {
		f.t.Errorf("%s: %d log probabilities, want the same %d that a stream records", what, len(j.Logprobs), len(probs))
	}
}

// TestLogprobsOfPastTextsAreThoseOfAStream runs jobs with and without log probabilities. Those
// that are computed afterwards must have the same bits as those that were recorded with the
// text, and take far fewer steps of the engine.
func TestLogprobsOfPastTextsAreThoseOfAStream(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.work(e)
	for what, change := range map[string]func(*jobs.Request){
		"temperature 0":  func(r *jobs.Request) { r.Temperature = 0 },
		"a stop string":  func(r *jobs.Request) { r.Stop = []string{"q", "ab"} },
		"all parameters": func(r *jobs.Request) { *r = sampled },
		"a watermark":    func(r *jobs.Request) { r.Watermark = true },
		"one token":      func(r *jobs.Request) { r.MaxNewTokens = 1 },
		"all of the context": func(r *jobs.Request) {
			r.Prompt, r.MaxNewTokens = strings.Repeat("p", 500), 500
		},
	} {
		r := request
		change(&r)
		r.Logprobs = new(5)
		streamed := f.until(f.submit(r), final)
		r.Logprobs = nil
		past := f.until(f.submit(r), final)
		if past.Logprobs != nil || !slices.Equal(past.Tokens, streamed.Tokens) {
			t.Fatalf("%s: %d log probabilities, and another text", what, len(past.Logprobs))
		}
		before := e.computed()
		j := f.logprobsOf(past, 5)
		f.mustHaveText(what, j, streamed, streamed.Logprobs)
		if parts := e.computed() - before; parts < 1 || parts > 2+len(past.Tokens)/jobs.ReplayAhead {
			t.Errorf("%s: %d tokens computed in %d parts", what, len(past.Tokens), parts)
		}
		if j.LogprobsOf != past.ID || j.ID == past.ID || *j.Params.Logprobs != 5 {
			t.Errorf("%s: a job of %s with %+v", what, j.LogprobsOf, j.Params)
		}
		f.mustBeEqual(what, j, newEngine())
		again := f.logprobsOf(j, 0) // the text of such a job is a past text too
		f.mustHaveText(what, again, streamed, slices.Collect(func(yield func(model.TokenLogprobs) bool) {
			for _, p := range streamed.Logprobs {
				if !yield(model.TokenLogprobs{Logprob: p.Logprob}) {
					return
				}
			}
		}))
	}
}

// TestLogprobsSurviveAStoppedWorker stops the worker of such a job in the middle of the text.
func TestLogprobsSurviveAStoppedWorker(t *testing.T) {
	t.Parallel()
	f, first := newFixture(t), newEngine()
	r := request
	r.MaxNewTokens, r.Logprobs = 120, new(3)
	stop := f.work(first)
	streamed := f.until(f.submit(r), final)
	first.mu.Lock()
	first.pause[6+2*jobs.ReplayAhead-1] = make(chan struct{}) // never closed
	first.mu.Unlock()
	submitted, err := f.queue.SubmitLogprobs(t.Context(), streamed, 3, jobs.Request{})
	if err != nil {
		t.Fatal(err)
	}
	f.until(submitted, tokens(1))
	stop()
	f.work(newEngine())
	j := f.until(submitted, final)
	if f.mustHaveText("stopped", j, streamed, streamed.Logprobs); j.Attempts != 2 {
		t.Errorf("%d starts, want 2", j.Attempts)
	}
}

func TestTextsThatCannotBeRepeatedHaveNoLogprobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	refuse := func(what string, j events.Job) {
		t.Helper()
		if _, err := f.queue.SubmitLogprobs(t.Context(), j, 1, jobs.Request{}); !errors.Is(err, jobs.ErrNoRepeatableText) {
			t.Errorf("%s: %v, want ErrNoRepeatableText", what, err)
		}
	}
	j := f.submit(request)
	refuse("a queued job", j)
	stop := f.work(newEngine())
	j = f.until(j, final)
	mixed := j
	mixed.Mixed = true
	refuse("a text of two kinds of arithmetic", mixed)
	if _, err := f.queue.SubmitLogprobs(t.Context(), j, 21, jobs.Request{}); !errors.Is(err, model.ErrParams) {
		t.Errorf("21 alternatives: %v", err)
	}

	// An erasure may come before the worker.
	stop()
	submitted, err := f.queue.SubmitLogprobs(t.Context(), j, 1, jobs.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if j, err = f.queue.EraseJob(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	refuse("an erased job", j)
	f.work(newEngine())
	if got := f.until(submitted, final); got.State != events.Failed || !strings.Contains(got.Reason, "erased") || got.Attempts > 1 {
		t.Errorf("%s %q", got.State, got.Reason)
	}
}

// TestLogprobsNeedTheArithmeticOfTheText runs workers with other arithmetic and with another
// model of the same names. The first must leave the job, and the second must not invent
// numbers for a text that it would not write.
func TestLogprobsNeedTheArithmeticOfTheText(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.work(newEngine())
	j := f.until(f.submit(request), final)
	stop()
	waiting, err := f.queue.SubmitLogprobs(t.Context(), j, 1, jobs.Request{})
	if err != nil {
		t.Fatal(err)
	}
	other := newEngine()
	other.kernel = "other"
	stop = f.work(other)
	f.until(f.submit(request), final) // the worker works, and the job waits
	stop()
	if got, err := f.store.Job(t.Context(), waiting.ID); err != nil || got.State != events.Queued || got.Attempts != 0 {
		t.Fatalf("%+v, %v, want a job that no worker has started", got, err)
	}
	liar := newEngine()
	liar.says = strings.Repeat("another{text{", 20)
	f.work(liar)
	if got := f.until(waiting, final); got.State != events.Failed || !strings.Contains(got.Reason, "another text") || got.Attempts != 1 {
		t.Errorf("%s %q after %d attempts", got.State, got.Reason, got.Attempts)
	}
}

// TestRepeatedRequestForLogprobsMakesOneJob sends the same request twice under one key.
func TestRepeatedRequestForLogprobsMakesOneJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.work(newEngine())
	past := f.until(f.submit(request), final)
	key := func(payload string) *events.IdempotencyKey {
		return &events.IdempotencyKey{Scope: "s", Key: "k", Payload: []byte(payload)}
	}
	var made [2]uuid.UUID
	for i := range made {
		j, err := f.queue.SubmitLogprobs(t.Context(), past, 1, jobs.Request{Key: key("p")})
		if err != nil {
			t.Fatal(err)
		}
		made[i] = j.ID
	}
	if made[0] != made[1] {
		t.Errorf("two jobs: %v", made)
	}
	if _, err := f.queue.SubmitLogprobs(t.Context(), past, 2, jobs.Request{Key: key("q")}); !errors.Is(err, events.ErrKeyReused) {
		t.Errorf("another request under the key: %v", err)
	}
}
