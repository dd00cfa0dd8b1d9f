package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/events"
)

// endedWindow is the number of entries that one query of EndedJobs reads.
const endedWindow = 10_000

// EndedJob is a job that has ended.
type EndedJob struct {
	Stream events.Stream
	Index  int64 // index in the log of the event that ended the job
	Size   int64 // size of the log when it was first read
}

// EndedJobs returns the jobs that have been completed, cancelled or failed for good, at the
// time since or later, in the order of the log. It reads the log up to its size at the
// beginning. Each job is returned once, because one event ends a job. The memory that it uses
// does not depend on the size of the log. Events without an index are not in the log yet.
func (l *Log) EndedJobs(ctx context.Context, since time.Time) iter.Seq2[EndedJob, error] {
	return l.endedJobs(ctx, since, endedWindow)
}

func (l *Log) endedJobs(ctx context.Context, since time.Time, window int64) iter.Seq2[EndedJob, error] {
	return func(yield func(EndedJob, error) bool) {
		var size int64
		err := l.pool.QueryRow(ctx, `select coalesce(max(idx) + 1, 0) from log_entries`).Scan(&size)
		for first := int64(0); err == nil && first < size; first += window {
			var ended []EndedJob
			if ended, err = l.ended(ctx, first, min(first+window, size), since); err != nil {
				break
			}
			for _, job := range ended {
				job.Size = size
				if !yield(job, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(EndedJob{}, fmt.Errorf("read the jobs that have ended: %w", err))
		}
	}
}

// ended returns the jobs that the entries with an index from first to end-1 ended.
func (l *Log) ended(ctx context.Context, first, end int64, since time.Time) (ended []EndedJob, err error) {
	rows, _ := l.pool.Query(ctx, `
		select idx, stream, case type when 'job.failed' then payload end from log_entries join events using (position)
		where idx >= $1 and idx < $2 and type in ('job.completed', 'job.cancelled', 'job.failed') and at >= $3
		order by idx`, first, end, since)
	var idx int64
	var stream events.Stream
	var failed []byte
	_, err = pgx.ForEachRow(rows, []any{&idx, &stream, &failed}, func() error {
		if failed == nil || isFinal(failed) {
			ended = append(ended, EndedJob{Stream: stream, Index: idx})
		}
		return nil
	})
	return ended, err
}

// isFinal reports whether the payload of a job.failed event ends the job. A payload that
// cannot be read counts, so that the job's damage is found by its reader.
func isFinal(payload []byte) bool {
	var event struct {
		Fact struct {
			Final bool `json:"final"`
		} `json:"fact"`
	}
	return json.Unmarshal(payload, &event) != nil || event.Fact.Final
}
