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
	// eraseEvery is how often owners are looked for whose erasing was not brought
	// to its end, by a process that died or a database that was away.
	eraseEvery = 5 * time.Second

	eraseBatch = 100
)

// Erase ends the outstanding jobs of an owner who is closed, and destroys the
// owner's key: nothing in these jobs and all before them can be read again. It
// may be called again, and is, by every queue that runs, until it has succeeded.
func (q *Queue) Erase(ctx context.Context, owner uuid.UUID) error {
	for {
		outstanding, err := q.store.Outstanding(ctx, owner, eraseBatch)
		if err != nil {
			return err
		}
		if len(outstanding) == 0 {
			return q.store.Erase(ctx, owner)
		}
		for _, id := range outstanding {
			job, err := q.store.Job(ctx, id)
			if err == nil {
				_, err = cancel(ctx, q.store, job, events.JobCancelled{By: "owner", Reason: "the account was erased"})
			}
			if err != nil {
				return fmt.Errorf("erase owner %s: %w", owner, err)
			}
		}
	}
}

// eraseClosed erases the owners who are closed and not erased.
func (q *Queue) eraseClosed(ctx context.Context) error {
	owners, err := q.store.Closed(ctx, eraseBatch)
	for _, owner := range owners {
		err = errors.Join(err, q.Erase(ctx, owner))
	}
	return err
}
