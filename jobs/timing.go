package jobs

import "time"

// timing holds the intervals of background work. Tests use shorter intervals.
type timing struct {
	renew           time.Duration // time between two renewals of a worker's leases
	sweep           time.Duration // time between two searches for expired leases
	retryKernel     time.Duration // delay before a worker with other arithmetic looks at a started job again
	sameKernel      time.Duration // time for which a started job waits for a worker with the same arithmetic
	retryLeased     time.Duration // delay before the next try at a job that another attempt is running
	endOverdue      time.Duration // time between two searches for overdue jobs
	retryUnreadable time.Duration // delay after the first try at a job that cannot be read; it doubles with each try
	unreadableGrace time.Duration // time after a deadline in which another process may end a job that this process cannot read
	overdueGrace    time.Duration // time after a running job's deadline in which only the job's own worker ends the job

	crashWaits []time.Duration // delays after the first, second, … counted crash without a new token
}

func defaultTiming() timing {
	return timing{
		renew:           750 * time.Millisecond,
		sweep:           500 * time.Millisecond,
		retryKernel:     time.Second,
		sameKernel:      time.Minute,
		retryLeased:     leaseTime,
		endOverdue:      time.Second,
		overdueGrace:    2 * time.Second,
		retryUnreadable: time.Second,
		unreadableGrace: 30 * time.Second,
		// The first crash has no delay, because its cause is most often not the job. The
		// delays together are longer than a worker's restart or a short lack of memory.
		crashWaits: []time.Duration{0, 2 * time.Second, 10 * time.Second, 30 * time.Second},
	}
}
