package jobs

import (
	"context"
	"encoding/json"
	"time"

	"github.com/riverqueue/river"

	"colophon/events"
)

// maxUnreadableDelay is the longest delay before the next try at a job that cannot be read.
// It is longer than maxDelay, which does no harm: such a job cannot run.
const maxUnreadableDelay = 30 * time.Second

// putBackUnreadable puts back the queue entry of a job that this process cannot read, because
// its owner's key does not open or a later version has written it. Another process may be
// able to run the job. If the job has been ended meanwhile, the entry is closed.
func (g *generate) putBackUnreadable(ctx context.Context, rj *river.Job[generateArgs], d *events.Damage) error {
	ended, err := g.store.Ended(ctx, rj.Args.Job)
	if err != nil {
		g.log.WarnContext(ctx, "job not read, retrying", "job", rj.Args.Job, "err", err)
		return river.JobSnooze(retryDatabase)
	}
	if ended {
		return river.JobCancel(d)
	}
	if due, others := g.rarely.due(d.Reason); due {
		g.log.WarnContext(ctx, "job unreadable, put back", "job", rj.Args.Job, "reason", d.Reason, "not_logged", others)
	}
	return river.JobSnooze(unreadableDelay(g.timing.retryUnreadable, rj.Metadata))
}

// unreadableDelay returns the delay before the next try at a job that cannot be read. It
// doubles each time that the queue entry is put back. River counts these times in the entry's
// metadata.
func unreadableDelay(first time.Duration, metadata []byte) time.Duration {
	var m struct {
		Snoozes int `json:"snoozes"`
	}
	_ = json.Unmarshal(metadata, &m) // without a count, the delay is the first one
	const maxDoubled = 16            // prevents an overflow, and is more than maxUnreadableDelay needs
	return min(first<<min(max(0, m.Snoozes), maxDoubled), maxUnreadableDelay)
}
