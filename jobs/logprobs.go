package jobs

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/errcode"
	"colophon/model"
)

var (
	// ErrNoRepeatableText is returned for a job whose text cannot be computed again.
	ErrNoRepeatableText = errcode.New("no_repeatable_text", "the job has no complete text, its text is not to be kept, or parts of it were generated with different arithmetic")

	// errTextGone ends a job that computes the log probabilities of a text that was erased.
	errTextGone = errors.New("the text was erased or cannot be read")

	// errOtherText ends a job whose model computes other tokens than those of the text.
	errOtherText = errors.New("the model computes another text than the one on record")
)

// SubmitLogprobs accepts a job that computes the log probabilities of the text of another job
// of the same owner, with those of n alternatives at each position. The new job has the same
// prompt and the same parameters, and ends with the same text and the log probabilities that
// the other job would have recorded. Its worker computes the tokens of the text at once, as a
// prefill, so it takes a fraction of the time of the text.
//
// Of the request, only the API key and the idempotency key matter.
//
// SubmitLogprobs returns ErrNoRepeatableText unless the job of has completed with one
// arithmetic, and was not erased and is not to be, also if it is erased meanwhile. Other errors
// are those of Submit. The text of the new job is kept for as long as that of the job of.
func (q *Queue) SubmitLogprobs(ctx context.Context, of events.Job, n int, r Request) (events.Job, error) {
	if of.State != events.Completed || of.Erased || of.EraseAtEnd || of.Mixed {
		return events.Job{}, ErrNoRepeatableText
	}
	accepted := events.JobAccepted{
		Prompt:       of.Prompt,
		Stop:         of.Params.Stop,
		Params:       of.Params,
		PromptTokens: of.PromptTokens,
		Model:        of.Model,
		Weights:      of.Needs(),
		Policy:       of.Policy,
		Watermark:    of.Watermark,
		LogprobsOf:   of.ID,
		TextAt:       of.RetainedFrom(),
		Template:     of.Template,
	}
	accepted.Params.Logprobs = &n
	if err := accepted.Params.Validate(); err != nil {
		return events.Job{}, err
	}
	group, err := q.put(ctx, of.Owner, []draft{{r, accepted}}, claim(of.Owner, r.Key))
	if first, repeated, failure := q.repeated(ctx, r.Key, err); repeated {
		group, err = first, failure
	}
	if err != nil {
		return events.Job{}, err
	}
	return group[0], nil
}

// TokenLogprob is a token with its log probability.
type TokenLogprob struct {
	Bytes   []byte // what the token adds to the text; they may begin or end inside a character
	Logprob float32
}

// TokenLogprobs are the log probabilities at the position of a token of a text.
type TokenLogprobs struct {
	TokenLogprob
	Offset int            // of the character of the text that the token begins with or in
	Top    []TokenLogprob // the likeliest tokens at this position, highest first
}

// Logprobs returns the log probabilities of the tokens of a job's text so far, without the
// first skip tokens. A token that begins where the text has ended, before a stop string, is not
// one of them. Later events of the job add tokens and change none.
//
// Logprobs reports false if the job did not ask for log probabilities, or if [Queue.Decode]
// does not know the texts of its tokens.
func (q *Queue) Logprobs(job events.Job, skip int) (list []TokenLogprobs, ok bool) {
	if _, ok := q.Decode(job, nil); !ok || job.Params.Logprobs == nil {
		return nil, false
	}
	pieces := make([][]byte, min(len(job.Tokens), len(job.Logprobs)))
	for i := range pieces {
		pieces[i] = q.model.Decode(job.Tokens[i : i+1])
	}
	length := utf8.RuneCountInString(job.Text)
	for i, offset := range model.Offsets(pieces) {
		if offset >= length {
			break
		}
		if i < skip {
			continue
		}
		p := TokenLogprobs{TokenLogprob: TokenLogprob{pieces[i], job.Logprobs[i].Logprob}, Offset: offset}
		for _, top := range job.Logprobs[i].Top {
			p.Top = append(p.Top, TokenLogprob{q.model.Decode([]int{top.Token}), top.Logprob})
		}
		list = append(list, p)
	}
	return list, true
}

// known is the text of another job, which a job computes again.
type known struct {
	tokens          []int
	weights, kernel string // those that generated the tokens
}

// runsOn reports whether an engine gives the bits with which the text was generated.
func (k *known) runsOn(info model.Info) bool {
	return k == nil || k.weights == info.Weights && (k.kernel == "" || k.kernel == info.Kernel)
}

// knownText returns the text that a job computes again, or nil for a job with a text of its
// own. The error is errTextGone, or one of the database.
func (w *Worker) knownText(ctx context.Context, job events.Job) (*known, error) {
	if job.LogprobsOf == (uuid.UUID{}) {
		return nil, nil
	}
	of, err := w.store.Job(ctx, job.LogprobsOf)
	switch {
	case errors.Is(err, events.ErrNotFound), errors.Is(err, events.ErrDamaged), err == nil && (of.Erased || of.Owner != job.Owner):
		return nil, errTextGone
	case err != nil:
		return nil, fmt.Errorf("read the text of job %s: %w", job.LogprobsOf, err)
	}
	return &known{tokens: of.Tokens, weights: of.Weights, kernel: of.TokensBy}, nil
}

// engine returns the engine that generates the rest of a job's text. If the text is known, the
// engine computes its tokens at once.
func (k *known) engine(e model.Engine, job events.Job) model.Engine {
	if k == nil {
		return e
	}
	rest := k.tokens[min(len(job.Tokens), len(k.tokens)):]
	return &foresight{Engine: e, recorded: foreseeable(rest, job), ahead: ReplayAhead}
}

// foreseeable returns the tokens of the rest of a job's text that are worth computing at once.
// No logits are needed after the last token that the parameters allow.
func foreseeable(rest []int, job events.Job) []int {
	return rest[:min(len(rest), max(0, job.Params.MaxTokens-len(job.Tokens)-1))]
}
