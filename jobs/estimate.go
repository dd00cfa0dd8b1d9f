package jobs

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"colophon/events"
	"colophon/internal/periodic"
)

// serviceRate is a measurement of the speed at which the workers take queued jobs.
type serviceRate struct {
	at      time.Time     // time of the measurement, by this process's clock
	now     time.Time     // time of the measurement, by the database's clock
	meanRun time.Duration // mean duration of the latest runs, or 0 without any run
	running int           // number of running jobs
	queued  int           // number of queued jobs, without those that wait for other weights than new jobs get
}

const (
	// refreshEvery is the interval at which a queue refreshes its snapshot.
	refreshEvery = time.Second

	// refreshTimeout bounds a refresh. After a timeout, the next refresh uses another
	// connection.
	refreshTimeout = 2 * time.Second

	// The mean run time is taken over the last rateJobs jobs that ended within
	// rateWindow.
	rateJobs   = 50
	rateWindow = time.Hour
)

// runRefresh refreshes the snapshot until ctx is done. No request runs these queries, so
// no request waits for them.
func (q *Queue) runRefresh(ctx context.Context) {
	const failure = "queue not measured, earlier estimates used"
	if err := q.refresh(ctx); err != nil && ctx.Err() == nil {
		q.log.WarnContext(ctx, failure, "err", err)
	}
	periodic.Run(ctx, refreshEvery, q.log, failure, q.refresh)
}

// refresh counts the queued jobs and measures the service rate.
func (q *Queue) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	r := serviceRate{at: time.Now(), now: q.store.Clock().Now()}
	q.depth.beginCount()
	var err error
	if r.queued, err = q.store.Queued(ctx, q.model.Weights, max(q.depth.limit, events.MaxQueuePosition)); err != nil {
		return err
	}
	q.depth.endCount(r.queued)
	var seconds float64
	err = q.pool.QueryRow(ctx, `
		select
			(select coalesce(extract(epoch from avg(finished_at - started_at)), 0) from (
				select started_at, finished_at from history
				where finished_at > clock_timestamp() - $1::interval and started_at is not null
				order by finished_at desc limit $2) as latest)::float8,
			(select count(*) from leases where expires_at > clock_timestamp())`,
		rateWindow, rateJobs).Scan(&seconds, &r.running)
	if err != nil {
		return fmt.Errorf("measure the service rate: %w", err)
	}
	r.meanRun = time.Duration(seconds * float64(time.Second))
	q.rate.Store(&r)
	return nil
}

// currentRate returns the latest service rate, or zero before the first one.
func (q *Queue) currentRate() serviceRate {
	if r := q.rate.Load(); r != nil {
		return *r
	}
	return serviceRate{}
}

// start estimates the start time of the job at a queue position. Positions count from
// 1. start assumes that r.running jobs end in each period of r.meanRun. It returns the
// zero time if no job has ended lately or no job is running.
func (r serviceRate) start(position int) time.Time {
	if r.meanRun <= 0 || r.running == 0 {
		return time.Time{}
	}
	wait := time.Duration(float64(r.meanRun) * float64(position) / float64(r.running))
	return r.now.Add(wait).Truncate(time.Second).Add(time.Second)
}

// Clients are told to poll after at least minPoll and at most maxPoll.
const (
	minPoll = time.Second
	maxPoll = 30 * time.Second
)

// pollAfter returns the time after which a client should poll a job again. If the job
// is queued, position is its position in the queue.
func (r serviceRate) pollAfter(job events.Job, position int) time.Duration {
	now := r.now.Add(time.Since(r.at))
	var d time.Duration
	if job.State == events.Running {
		d = r.meanRun - now.Sub(job.StartedAt)
	} else if start := r.start(position); !start.IsZero() {
		d = start.Sub(now)
	}
	return min(max(d, minPoll), maxPoll)
}

// Outlook estimates when a job that has not ended will start, and when to poll it.
type Outlook struct {
	Position  int           // position in the queue of the job's weights, from 1, or 0 if the job is not queued
	Start     time.Time     // estimated start, to the second, or zero if unknown
	PollAfter time.Duration // time that the client should wait before its next poll
}

// Outlook estimates a job's start and the time after which the client should poll the
// job.
func (q *Queue) Outlook(ctx context.Context, job events.Job) (Outlook, error) {
	r := q.currentRate()
	var o Outlook
	if job.State == events.Queued {
		var err error
		if o.Position, err = q.store.QueuePosition(ctx, job.ID, cmp.Or(job.Needs(), q.model.Weights)); err != nil {
			return o, err
		}
		if q.WaitsForModel(job) { // the service rate is that of workers with other weights
			o.PollAfter = maxPoll
			return o, nil
		}
		o.Start = r.start(o.Position)
	}
	o.PollAfter = r.pollAfter(job, o.Position)
	return o, nil
}

// PollAfter returns the time after which a client should poll a job that has just
// been accepted. It costs less than Outlook, because it assumes that the job is the
// last in the queue.
func (q *Queue) PollAfter(job events.Job) time.Duration {
	r := q.currentRate()
	return r.pollAfter(job, r.queued+1)
}
