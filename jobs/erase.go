package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"colophon/events"
)

const (
	// eraseEvery is the interval of the search for closed owners. The search finishes
	// erasures that a dead process or an unavailable database has interrupted.
	eraseEvery = 5 * time.Second

	eraseBatch = 100 // maximum number of owners or jobs that one query returns
)

// Erase cancels the outstanding jobs of a closed owner and destroys the owner's key.
// After that, nobody can read the owner's prompts and texts. Jobs that cannot be read are
// set aside, and the key is destroyed nevertheless. A caller may repeat Erase. Run also
// repeats a failed Erase until it succeeds.
func (q *Queue) Erase(ctx context.Context, owner uuid.UUID) error { return Erase(ctx, q.store, owner) }

// Erase erases an owner like Queue.Erase. It is for processes without a queue.
func Erase(ctx context.Context, store *events.Store, owner uuid.UUID) error {
	for {
		outstanding, err := store.Outstanding(ctx, owner, eraseBatch)
		if err != nil {
			return err
		}
		if len(outstanding) == 0 {
			return store.Erase(ctx, owner)
		}
		for _, id := range outstanding {
			job, err := store.Job(ctx, id)
			if err == nil {
				_, err = cancel(ctx, store, job, events.JobCancelled{By: "owner", Reason: "the account was erased"})
			}
			if d, ok := errors.AsType[*events.Damage](err); ok {
				err = store.SetAside(ctx, d)
			}
			if err != nil {
				return fmt.Errorf("erase owner %s: %w", owner, err)
			}
		}
	}
}

// EraseJob erases a job and returns its new state. A job that has not ended is cancelled in
// the same transaction. An erased job stays as it is, so a caller may repeat EraseJob.
func (q *Queue) EraseJob(ctx context.Context, job events.Job) (events.Job, error) {
	return eraseJob(ctx, q.store, job, "owner")
}

// eraseJob erases a job. The parameter by says why: "owner" or "retention".
func eraseJob(ctx context.Context, store *events.Store, job events.Job, by string) (events.Job, error) {
	after, err := appendTo(ctx, store, job, func(latest events.Job) []events.Fact {
		erased := events.JobErased{By: by, CompletionTokens: latest.Generated(), APIKey: latest.APIKey}
		switch {
		case !latest.ErasedAt.IsZero():
			return nil
		case !latest.State.Final():
			return []events.Fact{events.JobCancelled{By: by, Reason: "the job was erased"}, erased}
		}
		return []events.Fact{erased}
	})
	if err != nil {
		return after, fmt.Errorf("erase job %s: %w", job.ID, err)
	}
	return after, nil
}

// eraseClosed erases the owners who are closed but not yet erased.
func (q *Queue) eraseClosed(ctx context.Context) error {
	owners, err := q.store.ClosedOwners(ctx, eraseBatch)
	for _, owner := range owners {
		err = errors.Join(err, q.Erase(ctx, owner))
	}
	return err
}
