package jobs

import "time"

// timing holds the intervals of background work. Tests use shorter intervals.
type timing struct {
	renew        time.Duration // between two renewals of a worker's leases
	sweep        time.Duration // between two searches for expired leases
	retryLeased  time.Duration // delay before a job is tried again while another attempt has the job
	endOverdue   time.Duration // between two searches for overdue jobs
	overdueGrace time.Duration // time in which an overdue job's own worker may still end the job
}

func defaultTiming() timing {
	return timing{
		renew:        750 * time.Millisecond,
		sweep:        500 * time.Millisecond,
		retryLeased:  leaseTime,
		endOverdue:   time.Second,
		overdueGrace: 2 * time.Second,
	}
}
