package jobs

import (
	"context"
	"fmt"
	"time"

	"colophon/events"
)

// pace is how fast the queue moves.
type pace struct {
	at      time.Time     // when this was found out
	service time.Duration // how long jobs have run lately; 0 if none has
	running int           // how many run now
	queued  int           // how many wait
}

const (
	// paceTTL is how long a pace is good for.
	paceTTL = time.Second

	// paceTimeout bounds the query for it.
	paceTimeout = 10 * time.Second

	// The pace comes of so many of the last jobs that have ended, in no longer
	// than this.
	paceJobs   = 50
	paceWithin = time.Hour
)

// currentPace returns the pace of the queue, a second old at the most. Concurrent
// callers share one query.
func (q *Queue) currentPace(ctx context.Context) (pace, error) {
	if p := q.pace.Load(); p != nil && time.Since(p.at) < paceTTL {
		return *p, nil
	}
	return q.paces.Do(ctx, "pace", q.readPace)
}

func (q *Queue) readPace(ctx context.Context) (pace, error) {
	p := pace{at: time.Now()}
	var seconds float64
	err := q.pool.QueryRow(ctx, `
		select
			(select coalesce(extract(epoch from avg(finished_at - started_at)), 0) from (
				select started_at, finished_at from history
				where finished_at > clock_timestamp() - $1::interval and started_at is not null
				order by finished_at desc limit $2) as lately)::float8,
			(select count(*) from leases where expires_at > clock_timestamp()),
			(select count(*) from (select from history where state = 'queued' limit $3) as waiting)`,
		paceWithin, paceJobs, events.QueueShown).Scan(&seconds, &p.running, &p.queued)
	if err != nil {
		return pace{}, fmt.Errorf("look how fast the queue moves: %w", err)
	}
	p.service = time.Duration(seconds * float64(time.Second))
	q.pace.Store(&p)
	return p, nil
}

// start returns when the queued job at a place, 1 being the next, will probably
// be started; the zero time if nothing is known: no job has ended lately, or none
// runs. As many jobs as run now end in the time that one takes.
func (p pace) start(place int) time.Time {
	if p.service <= 0 || p.running == 0 {
		return time.Time{}
	}
	wait := time.Duration(float64(p.service) * float64(place) / float64(p.running))
	return p.at.Add(wait).Truncate(time.Second).Add(time.Second)
}

const (
	// Whoever polls is told to come back after so long.
	soonest = time.Second
	latest  = 30 * time.Second
)

// look returns after how long it is worth looking at a job again; of a queued
// one, place is its place in the queue.
func (p pace) look(job events.Job, place int) time.Duration {
	var d time.Duration
	if job.State == events.Running {
		d = p.service - time.Since(job.StartedAt)
	} else if start := p.start(place); !start.IsZero() {
		d = time.Until(start)
	}
	return min(max(d, soonest), latest)
}

// Outlook is what is known of the future of a job that has not ended.
type Outlook struct {
	Place int           // in the queue, 1 being the next; 0 if the job is not queued
	Start time.Time     // when it will probably be started, to the second; zero if nothing is known
	Look  time.Duration // after which it is worth looking again
}

// Outlook returns what is known of the future of a job.
func (q *Queue) Outlook(ctx context.Context, job events.Job) (Outlook, error) {
	p, err := q.currentPace(ctx)
	if err != nil {
		return Outlook{}, err
	}
	var o Outlook
	if job.State == events.Queued {
		if o.Place, err = q.store.QueuePosition(ctx, job.ID); err != nil {
			return o, err
		}
		o.Start = p.start(o.Place)
	}
	o.Look = p.look(job, o.Place)
	return o, nil
}

// Look returns after how long it is worth looking at a job that has just been
// accepted. It costs less than an Outlook: the job counts as the last in the queue.
func (q *Queue) Look(ctx context.Context, job events.Job) (time.Duration, error) {
	p, err := q.currentPace(ctx)
	return p.look(job, p.queued+1), err
}
