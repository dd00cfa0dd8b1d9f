package jobs_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/model"
)

// replayer returns a replayer that has one of the engines for each arithmetic. Without an
// engine for an attempt, it takes the first one.
func replayer(ahead int, engines ...model.Engine) *jobs.Replayer {
	return &jobs.Replayer{
		Rules: policy.Default(), Ahead: ahead,
		Engine: func(_ context.Context, s events.JobStarted) (model.Engine, error) {
			for _, e := range engines {
				if e.Info().Kernel == s.Kernel {
					return e, nil
				}
			}
			return engines[0], nil
		},
	}
}

// replayer is like the function replayer, with the watermark keys of the fixture.
func (f *fixture) replayer(ahead int, engines ...model.Engine) *jobs.Replayer {
	r := replayer(ahead, engines...)
	r.WatermarkKey = f.store.FindWatermarkKey
	return r
}

func (f *fixture) stored(j events.Job) []events.Event {
	f.t.Helper()
	stored, err := f.store.Read(f.t.Context(), events.JobStream(j.ID), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return stored
}

func replay(t *testing.T, r *jobs.Replayer, stored []events.Event) jobs.Replay {
	t.Helper()
	result, err := r.Job(t.Context(), stored)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// mustBeEqual replays a job token by token and with several tokens at once. The record must be
// that of the re-execution.
func (f *fixture) mustBeEqual(what string, j events.Job, engines ...model.Engine) {
	f.t.Helper()
	stored := f.stored(j)
	for _, ahead := range []int{1, 2, 3, jobs.ReplayAhead} {
		result, err := f.replayer(ahead, engines...).Job(f.t.Context(), stored)
		if err != nil || result.Difference != nil || result.Unknown != nil || result.Equal != len(result.Job.Tokens) {
			f.t.Errorf("%s, %d ahead: %d of %d tokens are equal, difference %v, unknown %q, %v", what, ahead, result.Equal, len(result.Job.Tokens), result.Difference, result.Unknown, err)
		}
	}
}

// TestJobsReplayEqual runs jobs with many parameters, and replays each of them.
func TestJobsReplayEqual(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.work(e)
	running := map[string]events.Job{}
	for what, change := range map[string]func(*jobs.Request){
		"temperature 0":  func(r *jobs.Request) { r.Temperature = 0 },
		"temperature 1":  func(*jobs.Request) {},
		"top_k":          func(r *jobs.Request) { r.TopK, r.Seed = 3, new(uint64(7)) },
		"top_p":          func(r *jobs.Request) { r.TopP, r.Temperature, r.Seed = 0.7, 1.5, new(uint64(jobs.MaxSeed)) },
		"one token":      func(r *jobs.Request) { r.MaxNewTokens = 1 },
		"a stop string":  func(r *jobs.Request) { r.Stop = []string{"q", "ab", "xyz"} },
		"stop strings":   func(r *jobs.Request) { r.Stop = []string{"e", "ee"} },
		"a long text":    func(r *jobs.Request) { r.MaxNewTokens = 200 },
		"a long prompt":  func(r *jobs.Request) { r.Prompt = strings.Repeat("prompt ", 70) },
		"all parameters": func(r *jobs.Request) { *r = sampled },
		"min_tokens":     func(r *jobs.Request) { r.MinTokens, r.Stop = 30, []string{"e", "ee", "q"} },
		"several chunks": func(r *jobs.Request) { r.MaxNewTokens = 2*jobs.ReplayAhead + 1 },
	} {
		r := request
		change(&r)
		running[what] = f.submit(r)
	}
	reasons := map[string]int{}
	for what, j := range running {
		j = f.until(j, final)
		reasons[j.FinishReason]++
		f.mustBeEqual(what, j, newEngine())
	}
	if reasons["stop"] == 0 || reasons["length"] == 0 {
		t.Errorf("finish reasons %v, want stop and length", reasons)
	}
}

// TestRefusedTextReplaysEqual replays a job whose text the policy has ended. The tokens of
// the refused word are not on record.
func TestRefusedTextReplaysEqual(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	e.says = "the{lord{of{whatever{chateau{he{has{violence" + strings.Repeat("{and{so{on", 20)
	f.work(e)
	j := f.until(f.submit(jobs.Request{Prompt: "p", MaxNewTokens: 200, TopP: 1, Logprobs: new(2)}), final)
	if j.FinishReason != "content_filter" || len(j.Logprobs) != len(j.Tokens) {
		t.Fatalf("%+v", j)
	}
	f.mustBeEqual("refused text", j, e)

	r := replayer(jobs.ReplayAhead, e)
	var err error
	if r.Rules, err = policy.Parse("name other\nword lord"); err != nil {
		t.Fatal(err)
	}
	result := replay(t, r, f.stored(j))
	if result.Difference != nil || result.Equal != len(j.Tokens) || len(result.Unknown) != 1 || !strings.Contains(result.Unknown[0], policy.Default().Version()) {
		t.Errorf("under another policy: %d equal, %v, %q", result.Equal, result.Difference, result.Unknown)
	}
	stored := f.stored(j)
	change(stored, func(a *events.JobAdvanced) { a.Tokens[len(a.Tokens)-1]++ })
	if d := replay(t, r, stored).Difference; d == nil || d.Token == 0 {
		t.Errorf("a changed token under another policy: %v", d)
	}
}

// TestStopStringWithARefusedWordReplaysEqual replays a job whose text ends before a stop string
// that the policy refuses. The tokens that spell the word are not on record. Under another
// policy they do not count as a difference.
func TestStopStringWithARefusedWordReplaysEqual(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	const before = "the{lord{of{"
	e.says = before + "violence{and" + strings.Repeat("{so{on", 20)
	f.work(e)
	j := f.until(f.submit(jobs.Request{Prompt: "p", MaxNewTokens: 80, TopP: 1, Stop: []string{"violence{"}}), final)
	if j.FinishReason != "stop" || j.Text != before || len(j.Tokens) >= len(before+"violence{") {
		t.Fatalf("%+v", j)
	}
	f.mustBeEqual("stop string", j, e)
	r := replayer(jobs.ReplayAhead, e)
	var err error
	if r.Rules, err = policy.Parse("name other"); err != nil {
		t.Fatal(err)
	}
	if result := replay(t, r, f.stored(j)); result.Difference != nil || result.Equal != len(j.Tokens) || len(result.Unknown) != 1 {
		t.Errorf("under another policy: %d equal, %v, %q", result.Equal, result.Difference, result.Unknown)
	}
}

// TestUnfinishedJobsReplayEqual replays jobs that were stopped, cancelled and failed, and one
// that an attempt has continued.
func TestUnfinishedJobsReplayEqual(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	gate := make(chan struct{})
	e.pause[6+20], e.pause[60+9], e.pause[200] = gate, gate, gate
	stop := f.work(e)
	stopped := f.submit(request)
	r := request
	r.Prompt = strings.Repeat("p", 60)
	cancelled := f.submit(r)
	stopped, cancelled = f.until(stopped, tokens(8)), f.until(cancelled, tokens(8))
	f.mustBeEqual("running", stopped, newEngine())
	cancelled, err := f.queue.Cancel(t.Context(), cancelled, events.JobCancelled{By: "owner"})
	if err != nil {
		t.Fatal(err)
	}
	if cancelled.State != events.Cancelled || len(cancelled.Tokens) == 0 {
		t.Fatalf("%+v", cancelled)
	}
	f.mustBeEqual("cancelled", cancelled, newEngine())
	r.Prompt = strings.Repeat("p", 200)
	waiting, err := f.queue.Cancel(t.Context(), f.submit(r), events.JobCancelled{By: "owner"})
	if err != nil {
		t.Fatal(err)
	}
	if result := replay(t, replayer(1, newEngine()), f.stored(waiting)); !result.Empty() || result.Difference != nil || result.Unknown != nil {
		t.Errorf("cancelled before the first token: %+v", result)
	}
	stop()
	f.mustBeEqual("stopped", stopped, newEngine())

	again := newEngine()
	again.fail[6+30] = errBroken
	f.work(again)
	stopped = f.until(stopped, final)
	if stopped.Attempts != 3 || stopped.State != events.Completed {
		t.Errorf("%+v", stopped)
	}
	f.mustBeEqual("continued after a stop and a failure", stopped, newEngine())
}

// TestReplayOfMixedArithmetic replays a job that two kinds of workers have generated. Each
// attempt is compared with the engine of its arithmetic. What this program cannot compute is
// named, and does not hide differences in the rest.
func TestReplayOfMixedArithmetic(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.interrupted()
	a, b, other := newEngine(), newEngine(), newEngine()
	a.kernel, b.kernel, other.kernel = "a", "b", "c"
	f.workSlots(b, 8, func(w *jobs.Worker) { w.SameKernelFor(0) })
	j = f.until(j, final)
	f.mustBeEqual("mixed", j, a, b)

	first := len(f.stored(j)[2].Fact.(events.JobAdvanced).Tokens)
	result := replay(t, replayer(jobs.ReplayAhead, b), f.stored(j))
	if result.Difference != nil || result.Equal == 0 || result.Equal > len(j.Tokens)-first || len(result.Unknown) != 1 || result.Unknown[0] != "the arithmetic is a on record, and b here" {
		t.Errorf("without the first engine: %d equal, %v, %q", result.Equal, result.Difference, result.Unknown)
	}
	stored := f.stored(j)
	change(stored, func(a *events.JobAdvanced) { a.Tokens[len(a.Tokens)-1] ^= 1 })
	result = replay(t, replayer(jobs.ReplayAhead, b), stored)
	if result.Difference == nil || result.Difference.Token != len(j.Tokens) || len(result.Unknown) != 1 {
		t.Errorf("last token changed: %v, %q, want token %d", result.Difference, result.Unknown, len(j.Tokens))
	}
	if result := replay(t, replayer(1, other), f.stored(j)); result.Equal != 0 || result.Difference != nil || len(result.Unknown) != 2 || other.calls != 0 {
		t.Errorf("without both engines: %+v, after %d calls", result, other.calls)
	}
	other.kernel, other.weights = "a", "v/f32"
	if result := replay(t, replayer(1, other), f.stored(j)); len(result.Unknown) == 0 || result.Unknown[0] != "the weights are w/f32 on record, and v/f32 here" || other.calls != 0 {
		t.Errorf("other weights: %+v, after %d calls", result, other.calls)
	}
	none := replayer(1)
	none.Engine = func(context.Context, events.JobStarted) (model.Engine, error) { return nil, errBroken }
	if result := replay(t, none, f.stored(j)); len(result.Unknown) != 2 || !strings.Contains(result.Unknown[0], errBroken.Error()) {
		t.Errorf("no engine: %+v", result)
	}
	broken := newEngine()
	broken.kernel, broken.fail[len(small.Prompt)+len(j.Tokens)-1] = "b", errBroken
	if result := replay(t, replayer(1, a, broken), f.stored(j)); result.Difference != nil || len(result.Unknown) != 1 {
		t.Errorf("an engine that fails: %+v", result)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replayer(1, a, b).Job(ctx, f.stored(j)); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted replay: %v", err)
	}
}

// TestErasedJobIsNotReplayed erases the owner of a job.
func TestErasedJobIsNotReplayed(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.work(e)
	j := f.until(f.submit(request), final)
	f.close(f.owner)
	if err := f.store.Erase(t.Context(), f.owner); err != nil {
		t.Fatal(err)
	}
	result := replay(t, replayer(1, e), f.stored(j))
	if result.Difference != nil || result.Equal != 0 || !slices.Equal(result.Unknown, []string{"the prompt and the text were erased"}) {
		t.Errorf("%+v", result)
	}
}

// change changes the last fact of a type in a list of events.
func change[F events.Fact](stored []events.Event, fn func(*F)) {
	for i := range slices.Backward(stored) {
		if f, ok := stored[i].Fact.(F); ok {
			fn(&f)
			stored[i].Fact = f
			return
		}
	}
	panic("no such fact")
}

// lastFact returns a function that changes the last fact of a type.
func lastFact[F events.Fact](fn func(*F)) func([]events.Event) {
	return func(stored []events.Event) { change(stored, fn) }
}

// accepted returns a function that changes the recorded request.
func accepted(fn func(*events.JobAccepted)) func([]events.Event) { return lastFact(fn) }

// logprobs returns a function that changes the log probabilities of the last event that has
// some.
func logprobs(fn func([]model.TokenLogprobs)) func([]events.Event) {
	return lastFact(func(a *events.JobAdvanced) {
		a.Logprobs = slices.Clone(a.Logprobs) // concurrent readers share the events
		fn(a.Logprobs)
	})
}

// TestReplayFindsEveryChangeOfARecord changes the record of a job in many ways. The replay
// must find each change, and name the first token that differs.
func TestReplayFindsEveryChangeOfARecord(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	f.work(e)
	r := request
	r.Stop, r.Logprobs = []string{"zzz"}, new(2)
	j := f.until(f.submit(r), final)
	last := len(j.Tokens)
	for what, c := range map[string]struct {
		change func([]events.Event)
		token  int // position of the first token that differs; 0 if no token does; -1 if any token may
		says   string
	}{
		"the last token":                {lastFact(func(a *events.JobAdvanced) { a.Tokens[len(a.Tokens)-1] ^= 1 }), last, "differs"},
		"a token of no vocabulary":      {lastFact(func(a *events.JobAdvanced) { a.Tokens[len(a.Tokens)-1] = 1 << 40 }), last, "differs"},
		"a negative token":              {lastFact(func(a *events.JobAdvanced) { a.Tokens[len(a.Tokens)-1] = -1 }), last, "differs"},
		"the last token left out":       {lastFact(func(a *events.JobAdvanced) { a.Tokens = a.Tokens[:len(a.Tokens)-1] }), last, "goes on with it"},
		"a token more":                  {lastFact(func(a *events.JobAdvanced) { a.Tokens = append(a.Tokens, 1) }), last + 1, "ends before it"},
		"many tokens more":              {lastFact(func(a *events.JobAdvanced) { a.Tokens = append(a.Tokens, make([]int, 2000)...) }), last + 1, "ends before it"},
		"a log probability":             {logprobs(func(p []model.TokenLogprobs) { p[len(p)-1].Logprob += 1e-6 }), last, "log probabilities"},
		"an alternative":                {logprobs(func(p []model.TokenLogprobs) { p[len(p)-1].Top = p[len(p)-1].Top[:1] }), last, "log probabilities"},
		"no log probabilities":          {lastFact(func(a *events.JobAdvanced) { a.Logprobs = nil }), 0, "40 by the recorded request"},
		"none asked for":                {accepted(func(a *events.JobAccepted) { a.Params.Logprobs = nil }), 0, "and 0 by the recorded request"},
		"the text":                      {lastFact(func(a *events.JobAdvanced) { a.Text += "x" }), 0, "text differs"},
		"the finish reason":             {lastFact(func(c *events.JobCompleted) { c.FinishReason = "stop" }), 0, `"length", and "stop" is on record`},
		"the usage":                     {lastFact(func(c *events.JobCompleted) { c.Usage.TotalTokens++ }), 0, "usage"},
		"the prompt":                    {accepted(func(a *events.JobAccepted) { a.Prompt = "prompu" }), 1, "differs"},
		"the length of the prompt":      {accepted(func(a *events.JobAccepted) { a.Prompt += "t" }), 0, "the prompt has 7 tokens, and 6 on record"},
		"the seed":                      {accepted(func(a *events.JobAccepted) { a.Params.Seed++ }), -1, "differs"},
		"the temperature":               {accepted(func(a *events.JobAccepted) { a.Params.Temperature = 9 }), -1, "differs"},
		"a larger limit":                {accepted(func(a *events.JobAccepted) { a.Params.MaxTokens++ }), last + 1, "goes on with it"},
		"a smaller limit":               {accepted(func(a *events.JobAccepted) { a.Params.MaxTokens-- }), last, "ends before it"},
		"a limit above the context":     {accepted(func(a *events.JobAccepted) { a.Params.MaxTokens = 1000 }), 0, "refuses the recorded request"},
		"parameters that make no sense": {accepted(func(a *events.JobAccepted) { a.Params.TopP = 2 }), 0, "refuses the recorded request"},
		"a stop string in the text":     {accepted(func(a *events.JobAccepted) { a.Stop = []string{j.Text[4:8]} }), 9, "ends before it"},
		"an event that is left out":     {func(s []events.Event) { s[1].Version++ }, 0, "event 3 cannot follow"},
	} {
		stored := f.stored(j)
		for i := range stored {
			if a, ok := stored[i].Fact.(events.JobAdvanced); ok {
				a.Tokens = slices.Clone(a.Tokens) // concurrent readers share the events
				stored[i].Fact = a
			}
		}
		c.change(stored)
		for _, ahead := range []int{1, 5, jobs.ReplayAhead} {
			result := replay(t, replayer(ahead, newEngine()), stored)
			d := result.Difference
			if d == nil || c.token >= 0 && d.Token != c.token || c.token < 0 && d.Token == 0 || !strings.Contains(d.String(), c.says) {
				t.Errorf("%s, %d ahead: %v, want token %d, %q", what, ahead, d, c.token, c.says)
			}
			if d != nil && d.Token > 0 && result.Equal != d.Token-1 {
				t.Errorf("%s, %d ahead: %d tokens are equal, and token %d differs", what, ahead, result.Equal, d.Token)
			}
		}
	}
	if d := replay(t, replayer(1, newEngine()), f.stored(events.Job{ID: uuid.New()})); d.Difference != nil || !d.Empty() {
		t.Errorf("no events: %+v", d)
	}
}
