package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"colophon/events"
	"colophon/internal/policy"
)

// SubmitGroup accepts the jobs of one request for several texts, all or none of them, and
// returns them in the order of the requests. One job alone is a group without a name: its
// member Group is empty. The key is that of the whole group; the keys of the requests are
// not used.
//
// The errors are those of [Queue.Submit]. The limits count each job.
func (q *Queue) SubmitGroup(ctx context.Context, owner uuid.UUID, key *events.IdempotencyKey, requests []Request) ([]events.Job, error) {
	rules := q.rules()
	jobs, err := q.accept(ctx, owner, key, requests, rules)
	if first, repeated, err := q.repeated(ctx, key, err); repeated {
		return first, err
	}
	if refusal, ok := errors.AsType[policy.Refusal](err); ok {
		if err := q.recordRefusal(ctx, owner, events.PolicyRefused{Policy: rules.Version(), Rule: refusal.Rule}); err != nil {
			return nil, err
		}
	}
	return jobs, err
}

// repeated returns the jobs that the first request with the key of a failed request has made.
// Even if a request fails, an earlier request with the same key may have succeeded. repeated
// reports false if there are no such jobs, or if the request has not failed.
func (q *Queue) repeated(ctx context.Context, key *events.IdempotencyKey, failure error) (group []events.Job, repeated bool, err error) {
	if failure == nil {
		return nil, false, nil
	}
	return q.Repeated(ctx, key)
}

// Repeated returns the jobs that an earlier request with the key has made, in their current
// state. It reports false if there is none, or if the key is nil. The error may be
// events.ErrKeyReused.
func (q *Queue) Repeated(ctx context.Context, key *events.IdempotencyKey) (group []events.Job, repeated bool, err error) {
	if key == nil {
		return nil, false, nil
	}
	stream, err := q.store.Opened(ctx, *key)
	var first events.Job
	if err == nil {
		first, err = q.store.Job(ctx, stream.ID())
	}
	if err == nil {
		group, err = q.Group(ctx, first)
	}
	return group, !errors.Is(err, events.ErrNotFound), err
}

// Group returns the jobs of the request that made a job, in the order of its texts. A job
// that was alone is its own group.
func (q *Queue) Group(ctx context.Context, job events.Job) ([]events.Job, error) {
	if len(job.Group) == 0 {
		return []events.Job{job}, nil
	}
	jobs := make([]events.Job, len(job.Group))
	for i, id := range job.Group {
		if id == job.ID {
			jobs[i] = job
			continue
		}
		var err error
		if jobs[i], err = q.store.Job(ctx, id); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// CancelGroup cancels a job and the other jobs of its request, and returns the job's new
// state. It does not change final jobs. It tries every job, even if another one cannot be
// cancelled.
func (q *Queue) CancelGroup(ctx context.Context, job events.Job, fact events.JobCancelled) (events.Job, error) {
	ended, failed := q.Cancel(ctx, job, fact)
	for _, id := range job.Group {
		if id == job.ID {
			continue
		}
		other, err := q.store.Job(ctx, id)
		if err == nil {
			_, err = q.Cancel(ctx, other, fact)
		}
		failed = errors.Join(failed, err)
	}
	return ended, failed
}

// draft is a job to accept. The fact still lacks what the queue decides when it is the
// owner's turn: the API key, the priority, the reservation, the deadline, and the watermark of
// a new text.
type draft struct {
	request Request
	fact    events.JobAccepted
}

// draft checks a request and returns its draft.
func (q *Queue) draft(r Request, rules *policy.Rules) (draft, error) {
	prompt, err := r.prompt(rules)
	if err != nil {
		return draft{}, err
	}
	promptTokens, err := q.promptTokens(r, prompt)
	if err != nil {
		return draft{}, err
	}
	maxTokens, err := q.room(r, promptTokens)
	if err != nil {
		return draft{}, err
	}
	params, err := q.params(r, maxTokens)
	if err != nil {
		return draft{}, err
	}
	return draft{r, events.JobAccepted{
		Prompt:       prompt,
		Stop:         r.Stop,
		Params:       params,
		PromptTokens: promptTokens,
		Model:        q.model.Name,
		Weights:      q.model.Weights,
		Policy:       rules.Version(),
		Template:     r.Template,
		Request:      r.Record,
		Batch:        r.Batch,
		EraseAtEnd:   r.EraseAtEnd,
		Response:     r.Response,
	}}, nil
}

// PromptTokens returns the number of tokens of a request's prompt as the rules leave it. The
// errors are those of [Queue.Submit] for a prompt that breaks the rules. Nothing is put on
// record.
func (q *Queue) PromptTokens(r Request) (int, error) {
	prompt, err := r.prompt(q.rules())
	if err != nil {
		return 0, err
	}
	return q.promptTokens(r, prompt)
}

// promptTokens returns the number of tokens of the prompt of a request. The error is
// ErrNoToken if the model cannot read the prompt.
func (q *Queue) promptTokens(r Request, prompt string) (int, error) {
	tokens := encodePrompt(q.model.Encode, 0, r.Template, prompt) // the id of the end-of-text token does not matter
	return len(tokens), q.model.check(tokens)
}

// accept checks requests and makes their jobs. It returns events.ErrClaimed if an earlier
// request has used the key.
func (q *Queue) accept(ctx context.Context, owner uuid.UUID, key *events.IdempotencyKey, requests []Request, rules *policy.Rules) ([]events.Job, error) {
	group := make([]draft, len(requests))
	for i, r := range requests {
		var err error
		if group[i], err = q.draft(r, rules); err != nil {
			return nil, err
		}
	}
	return q.put(ctx, owner, group, claim(owner, key))
}

// claim returns a function for put that records that a request has used its key, if it has one.
func claim(owner uuid.UUID, key *events.IdempotencyKey) func(context.Context, *events.Tx, []uuid.UUID) error {
	return func(ctx context.Context, tx *events.Tx, ids []uuid.UUID) error {
		if key == nil {
			return nil
		}
		return tx.Claim(ctx, *key, owner, events.JobStream(ids[0]))
	}
}

// put makes the jobs of a group in one transaction, within the limits. The function first runs
// in the same transaction, with the ids of the jobs, before they are made. Its error ends the
// transaction.
func (q *Queue) put(ctx context.Context, owner uuid.UUID, group []draft, first func(context.Context, *events.Tx, []uuid.UUID) error) ([]events.Job, error) {
	release, err := q.submits.acquire(ctx, owner)
	if err != nil {
		return nil, err
	}
	defer release()
	reserved, accepted := 0, false
	defer func() {
		for range reserved {
			q.depth.settle(accepted)
		}
	}()
	for i, d := range group {
		// A line of a batch begins only while half of the queue is free. Its other jobs follow,
		// so that a line with many texts does not wait for more room than a small queue has.
		yields := i == 0 && d.request.Batch != (events.BatchLine{})
		if err := q.depth.reserve(ctx, yields); err != nil {
			return nil, err
		}
		reserved++
		if d.fact.LogprobsOf != (uuid.UUID{}) {
			continue // the text has the mark of the job that generated it
		}
		if group[i].fact.Watermark, err = q.watermark(ctx, owner, d.request); err != nil {
			return nil, err
		}
	}
	jobs := make([]events.Job, len(group))
	err = q.store.Write(ctx, func(tx *events.Tx) error {
		if of := group[0].fact.LogprobsOf; of != (uuid.UUID{}) {
			if held, err := tx.HoldText(ctx, of); err != nil || !held {
				return cmp.Or(err, ErrNoRepeatableText)
			}
		}
		needed, err := q.reserve(ctx, tx, owner, group)
		if err != nil {
			return err
		}
		// The ids are made after the wait for a connection, so that ids sort in the order
		// of acceptance.
		ids := make([]uuid.UUID, len(group))
		for i := range ids {
			ids[i] = q.store.NewID()
		}
		if err := first(ctx, tx, ids); err != nil {
			return err
		}
		for i, d := range group {
			if len(ids) > 1 {
				d.fact.Group = ids
			}
			if jobs[i], err = tx.AppendJob(ctx, events.Job{ID: ids[i], Owner: owner}, d.fact); err != nil {
				return err
			}
			_, err = q.river.InsertTx(ctx, tx.Tx, generateArgs{Job: ids[i]}, &river.InsertOpts{MaxAttempts: maxAttempts, Priority: d.fact.Priority})
			if err != nil {
				return err
			}
		}
		tx.Announce(newEntry)
		return q.checkQuota(ctx, tx, owner, group[0].request, needed)
	})
	accepted = err == nil
	if err != nil {
		return nil, fmt.Errorf("submit a job: %w", err)
	}
	return jobs, nil
}
