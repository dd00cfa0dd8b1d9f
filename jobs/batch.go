package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/errcode"
	"colophon/internal/policy"
)

// These are the reasons why jobs of batches are cancelled.
const (
	batchCancelled = "the batch was cancelled"
	batchExpired   = "the batch has expired"
)

// These errors say why a line of a batch has no answer. They are in no answer of an operation.
var (
	ErrBatchCancelled = errcode.New("batch_cancelled", "the batch was cancelled before the line had ended")
	ErrBatchExpired   = errcode.New("batch_expired", "the batch reached its deadline before the line had ended")
)

// SubmitLine accepts the jobs of the next line of a batch, all or none of them. In the same
// transaction it stores the line with its record. So a process may be killed at any point, and
// other processes may submit the same line: the line gets its jobs once. The error is then
// events.ErrLineTaken. The other errors are those of [Queue.SubmitGroup], except that
// refusals of the text policy are left to the caller to record.
func (q *Queue) SubmitLine(ctx context.Context, b events.Batch, number int, record []byte, requests []Request) error {
	group := make([]draft, len(requests))
	rules := q.rules()
	for i, r := range requests {
		r.Batch, r.Expires = events.BatchLine{ID: b.ID, Line: number}, b.ExpiresAt
		r.APIKey, r.APIKeyTokens = b.APIKey, b.APIKeyTokens
		var err error
		if group[i], err = q.draft(r, rules); err != nil {
			return err
		}
	}
	_, err := q.put(ctx, b.Owner, group, func(ctx context.Context, tx *events.Tx, ids []uuid.UUID) error {
		return tx.TakeLine(ctx, b, number, ids, record)
	})
	return err
}

// Refused returns the fact that records a refusal of the text policy, or nil for any other
// error.
func (q *Queue) Refused(err error) events.Fact {
	if refusal, ok := errors.AsType[policy.Refusal](err); ok {
		return events.PolicyRefused{Policy: q.rules().Version(), Rule: refusal.Rule}
	}
	return nil
}

// EndLines cancels the jobs of the running lines of a batch that is cancelled or has expired.
// Jobs that cannot be read are left to the search for overdue jobs.
func (q *Queue) EndLines(ctx context.Context, b events.Batch, limit int) error {
	lines, err := q.store.RunningLines(ctx, b, false, limit)
	if err != nil {
		return err
	}
	fact := events.JobCancelled{By: "owner", Reason: batchCancelled}
	if b.State != events.BatchCancelling {
		fact = events.JobCancelled{By: "service", Reason: batchExpired}
	}
	var failed error
	for _, line := range lines {
		for _, id := range line.Jobs {
			job, err := q.store.Job(ctx, id)
			if err == nil {
				_, err = q.Cancel(ctx, job, fact)
			}
			if _, damaged := errors.AsType[*events.Damage](err); damaged {
				continue
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("cancel line %d of batch %s: %w", line.Number, b.ID, err))
			}
		}
	}
	return failed
}

// EndOfLine returns ErrBatchCancelled or ErrBatchExpired for a job of a batch that was cancelled
// with its batch or at its deadline, and otherwise nil.
func EndOfLine(job events.Job) error {
	switch {
	case job.State != events.Cancelled:
	case job.Reason == batchCancelled:
		return ErrBatchCancelled
	case job.Reason == batchExpired, job.Reason == deadlinePassed().Reason:
		return ErrBatchExpired
	}
	return nil
}
