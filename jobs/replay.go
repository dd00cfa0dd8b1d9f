package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
	"colophon/model/watermark"
)

// ReplayAhead is the number of positions that a fast replay computes at once. It bounds the
// memory for logits: 32 positions of GPT-2 take 6 MB. More positions are not faster.
const ReplayAhead = 32

// A Replayer re-executes jobs from their recorded requests and compares every token, the
// text and the end. It runs the code that a [Worker] runs, so the rules of stop strings, the
// text policy and the largest number of tokens are the worker's. It is safe for concurrent
// use if Engine is.
type Replayer struct {
	// Engine returns an engine with the weights and the arithmetic of an attempt. It may
	// return another engine. Then the attempt is not compared, and the reason names both.
	Engine func(context.Context, events.JobStarted) (model.Engine, error)

	// WatermarkKey returns an owner's watermark key, as [events.Store.FindWatermarkKey] does.
	// Only marked texts need it.
	WatermarkKey func(ctx context.Context, owner uuid.UUID) (key watermark.Key, found bool, err error)

	Rules *policy.Rules // text policy of this program
	Ahead int           // number of positions computed at once, such as ReplayAhead; 1 decodes token by token, as a worker does
}

// Replay is the result of a replay.
type Replay struct {
	Job        events.Job
	Equal      int         // number of recorded tokens that are those of the re-execution
	Difference *Difference // first difference, or nil if there is none
	Unknown    []string    // reasons why the job, or parts of it, could not be compared
	Notes      []string    // what a reader should know that changes no result
}

// Empty reports whether nothing of the job is on record that could be compared. The job has
// neither tokens nor a text that the model has completed.
func (r Replay) Empty() bool { return len(r.Job.Tokens) == 0 && r.Job.State != events.Completed }

// Difference is the first difference between a record and its re-execution. It contains no
// part of the text, because messages may end up in a log.
type Difference struct {
	Token  int // position of the token among the generated tokens, from 1; 0 if no token differs
	Reason string
}

func (d Difference) String() string {
	if d.Token == 0 {
		return d.Reason
	}
	return fmt.Sprintf("token %d %s", d.Token, d.Reason)
}

// stretch is what one attempt has recorded.
type stretch struct {
	start     events.JobStarted
	before    events.Job // the job when the attempt started
	recorded  model.Delta
	completed *events.JobCompleted // nil if the attempt did not complete the job
}

// Job re-executes a job, whose events from the first on are given. Attempts are compared one
// by one, each with the engine and the rules that it was run with: an attempt's tokens depend
// only on the prompt, the parameters and the tokens before it. So attempts that this program
// cannot run do not hide a difference in the others. Of a job that has not been completed,
// the recorded tokens are compared. A marked text is executed with its owner's watermark key.
// An error is that of ctx or of WatermarkKey.
func (r *Replayer) Job(ctx context.Context, stored []events.Event) (Replay, error) {
	result, attempts := divide(stored)
	if result.Difference != nil {
		return result, nil
	}
	if result.Job.Erased {
		result.Unknown = []string{"the prompt and the text were erased"}
		return result, nil
	}
	mark, err := watermarkKey(ctx, r.WatermarkKey, result.Job)
	switch w := result.Job.Watermark; {
	case errors.Is(err, errWatermarkKey):
		result.Unknown = []string{fmt.Sprintf("the text is marked with the watermark key %s, which the database no longer has: nobody can execute the text again without it", w.Key)}
		return result, nil
	case errors.Is(err, errWatermarkScheme):
		result.Unknown = []string{fmt.Sprintf("the watermark is %s on record, and this program knows %s", w.Parameters, watermark.Parameters)}
		return result, nil
	case err != nil:
		return result, err
	}
	if j := result.Job; j.Weights != "" && j.AcceptedFor != "" && !strings.HasPrefix(j.Weights, j.AcceptedFor+"/") {
		result.Notes = append(result.Notes, fmt.Sprintf("the job was accepted for the weights %s, and started with %s", j.AcceptedFor, j.Weights))
	}
	for _, s := range attempts {
		if len(s.recorded.Tokens) == 0 && s.completed == nil {
			continue // the next attempt began at the same token
		}
		if err := r.attempt(ctx, s, mark, &result); err != nil {
			return result, err
		}
		if result.Difference != nil {
			break
		}
	}
	return result, nil
}

// divide folds the events of a job and divides them into attempts. The result has a difference
// if an event cannot follow the events before it.
func divide(stored []events.Event) (result Replay, attempts []stretch) {
	for _, e := range stored {
		after, err := result.Job.Apply(e)
		if err != nil {
			result.Difference = &Difference{Reason: fmt.Sprintf("event %d cannot follow the events before it", e.Version)}
			return result, nil
		}
		result.Job = after
		switch f := e.Fact.(type) {
		case events.JobStarted:
			attempts = append(attempts, stretch{start: f, before: after})
		case events.JobAdvanced:
			last := &attempts[len(attempts)-1].recorded
			last.Tokens, last.Text = append(last.Tokens, f.Tokens...), last.Text+f.Text
			last.Logprobs = append(last.Logprobs, f.Logprobs...)
		case events.JobCompleted:
			attempts[len(attempts)-1].completed = &f
		}
	}
	return result, attempts
}

// attempt compares one attempt, if there is an engine for it.
func (r *Replayer) attempt(ctx context.Context, s stretch, mark *watermark.Key, result *Replay) error {
	unknown := func(format string, a ...any) {
		result.Unknown = append(result.Unknown, fmt.Sprintf(format, a...))
	}
	e, err := r.Engine(ctx, s.start)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		unknown("no engine for the weights %s: %v", s.start.Weights, err)
		return nil
	}
	switch info := e.Info(); {
	case info.Weights != s.start.Weights:
		unknown("the weights are %s on record, and %s here", s.start.Weights, info.Weights)
		return nil
	case info.Kernel != s.start.Kernel:
		unknown("the arithmetic is %s on record, and %s here", s.start.Kernel, info.Kernel)
		return nil
	}
	c := comparison{stretch: s, rules: r.Rules, mark: mark}
	if v := r.Rules.Version(); v != s.start.Policy {
		c.rules, c.loose = noRules(), true
	}
	difference, err := c.run(ctx, e, r.Ahead)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		unknown("the model did not compute the text: %v", err)
		return nil
	case c.loose && difference == nil:
		unknown("the text policy is %q on record, and %q here, so the tokens are compared, but not what the policy does", s.start.Policy, r.Rules.Version())
	}
	result.Equal += c.equal
	result.Difference = difference
	return nil
}

// noRules returns rules that refuse no text.
func noRules() *policy.Rules {
	r, err := policy.Parse("name none")
	if err != nil {
		panic(err) // never happens, because a test parses these rules
	}
	return r
}

// errEnough ends the re-execution of an attempt that has not completed its job.
var errEnough = errors.New("all recorded tokens are compared")

// comparison is the re-execution of one attempt.
type comparison struct {
	stretch
	rules *policy.Rules
	mark  *watermark.Key // nil for a text without a mark
	loose bool           // the rules are not those of the attempt, so what they do is not compared

	got   model.Delta
	equal int
}

// run re-executes the attempt. An error is one of the engine.
func (c *comparison) run(ctx context.Context, e model.Engine, ahead int) (*Difference, error) {
	if n := len(encodePrompt(e.Encode, e.Info().EOS, c.before.Template, c.before.Prompt)); n != c.before.PromptTokens {
		return &Difference{Reason: fmt.Sprintf("the prompt has %d tokens, and %d on record", n, c.before.PromptTokens)}, nil
	}
	partial := c.completed == nil || c.loose && c.completed.FinishReason == model.FinishContentFilter
	out := generateText(ctx, &foresight{Engine: e, recorded: foreseeable(c.recorded.Tokens, c.before), ahead: ahead}, c.rules, c.mark, c.before, func(d model.Delta) error {
		c.add(d)
		if partial && len(c.got.Tokens) >= len(c.recorded.Tokens) {
			return errEnough
		}
		return nil
	})
	if wrong, ok := errors.AsType[*wrongToken](out.err); ok {
		c.equal = wrong.index
		return c.token(wrong.index, "differs"), nil
	}
	switch {
	case errors.Is(out.err, errEnough):
	case errors.Is(out.err, model.ErrParams), errors.Is(out.err, model.ErrPrompt), errors.Is(out.err, model.ErrToken), errors.Is(out.err, model.ErrContext):
		return &Difference{Reason: "the model refuses the recorded request"}, nil
	case out.err != nil:
		return nil, out.err
	default:
		c.add(out.last)
	}
	// A worker leaves out tokens of a stop string that spell a refused word.
	more := partial || c.loose && c.completed.FinishReason == model.FinishStop
	if d := c.compareTokens(more); d != nil {
		return d, nil
	}
	if d := c.compareLogprobs(); d != nil {
		return d, nil
	}
	return c.compareEnd(partial, out.finishReason), nil
}

func (c *comparison) add(d model.Delta) {
	c.got.Tokens, c.got.Text = append(c.got.Tokens, d.Tokens...), c.got.Text+d.Text
	c.got.Logprobs = append(c.got.Logprobs, d.Logprobs...)
}

// token returns a difference of the token with an index among those of the attempt.
func (c *comparison) token(index int, reason string) *Difference {
	return &Difference{Token: len(c.before.Tokens) + index + 1, Reason: reason}
}

// compareTokens compares the tokens. If more is true, the re-execution may have more of them.
func (c *comparison) compareTokens(more bool) *Difference {
	got, want := c.got.Tokens, c.recorded.Tokens
	for c.equal = 0; c.equal < min(len(got), len(want)); c.equal++ {
		if got[c.equal] != want[c.equal] {
			return c.token(c.equal, "differs")
		}
	}
	switch {
	case len(want) > len(got):
		return c.token(len(got), "is on record, and by the rules the text ends before it")
	case len(got) > len(want) && !more:
		return c.token(len(want), "is not on record, and by the rules the text goes on with it")
	}
	return nil
}

// compareLogprobs compares the log probabilities of the recorded tokens, bit for bit.
func (c *comparison) compareLogprobs() *Difference {
	want := len(c.recorded.Tokens)
	if c.before.Params.Logprobs == nil {
		want = 0
	}
	if n := len(c.recorded.Logprobs); n != want {
		return &Difference{Reason: fmt.Sprintf("%d tokens have log probabilities on record, and %d by the recorded request", n, want)}
	}
	for i, recorded := range c.recorded.Logprobs {
		if !model.EqualLogprobs(c.got.Logprobs[i], recorded) {
			c.equal = i
			return c.token(i, "has other log probabilities than those on record")
		}
	}
	return nil
}

// compareEnd compares the text and the completion, after the tokens.
func (c *comparison) compareEnd(partial bool, finishReason string) *Difference {
	got, want := c.got.Text, c.recorded.Text
	same := got == want
	switch {
	case partial && c.loose: // the policy may have ended the text anywhere
		same = strings.HasPrefix(got, want) || strings.HasPrefix(want, got)
	case partial && len(c.got.Tokens) > len(c.recorded.Tokens):
		same = strings.HasPrefix(got, want)
	}
	if !same {
		return &Difference{Reason: fmt.Sprintf("the text differs from that of its tokens, after %d equal tokens", len(c.before.Tokens)+c.equal)}
	}
	if partial {
		return nil
	}
	prompt, tokens := c.before.PromptTokens, len(c.before.Tokens)+len(c.recorded.Tokens)
	switch usage := (events.Usage{PromptTokens: prompt, CompletionTokens: tokens, TotalTokens: prompt + tokens}); {
	case finishReason != c.completed.FinishReason:
		return &Difference{Reason: fmt.Sprintf("the text ends by the rule %q, and %q is on record", finishReason, c.completed.FinishReason)}
	case usage != c.completed.Usage:
		return &Difference{Reason: "the recorded usage is not that of the tokens"}
	}
	return nil
}
