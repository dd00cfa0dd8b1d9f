package main

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Distribution summarises recovery times in seconds.
type Distribution struct {
	What string  `json:"what"`
	N    int     `json:"n"`
	P50  float64 `json:"p50_s"`
	P90  float64 `json:"p90_s"`
	P99  float64 `json:"p99_s"`
	Max  float64 `json:"max_s"`
}

// distribution summarises times and sorts them in place. Each quantile is one of these
// times.
func distribution(what string, times []time.Duration) Distribution {
	d := Distribution{What: what, N: len(times)}
	if len(times) == 0 {
		return d
	}
	slices.Sort(times)
	at := func(q float64) float64 {
		return times[max(0, int(math.Ceil(q*float64(len(times))))-1)].Seconds()
	}
	d.P50, d.P90, d.P99, d.Max = at(0.5), at(0.9), at(0.99), at(1)
	return d
}

// recoveries returns two distributions for each kind of fault that takes jobs from their
// worker. Both measure the time until the next tokens of a job were stored. The first
// covers all jobs. The second covers only the jobs that no other fault disturbed
// meanwhile.
func recoveries(r *record, faults []injectedFault) []Distribution {
	var all []Distribution
	for _, kind := range []struct {
		what string
		has  func(injectedFault) bool
	}{
		{"SIGKILL of a worker", func(f injectedFault) bool { return f.action == kill && strings.HasPrefix(f.target, "worker-") }},
		{"worker frozen past its leases", func(f injectedFault) bool {
			return f.action == freeze && strings.HasPrefix(f.target, "worker-") && f.lasts >= leaseLossFreeze
		}},
		{"Postgres crash", func(f injectedFault) bool { return f.action == crash || f.action == shoot }},
		{"promotion of the standby", func(f injectedFault) bool { return f.action == promote }},
	} {
		var times, alone []time.Duration
		for _, f := range faults {
			if !kind.has(f) {
				continue
			}
			for id := range r.leaseChanges {
				took, ok := r.recovery(id, f)
				if !ok {
					continue
				}
				times = append(times, took)
				if !r.disturbed(id, f, took, faults) {
					alone = append(alone, took)
				}
			}
		}
		all = append(all, distribution(kind.what, times), distribution(kind.what+", with no other fault", alone))
	}
	return all
}

// leaseLossFreeze is the shortest freeze that makes other workers take the jobs.
const leaseLossFreeze = 7 * time.Second

// recovery returns the time from a fault to the next stored tokens of a job. It returns
// false if the fault did not take the job from a worker.
func (r *record) recovery(id string, f injectedFault) (time.Duration, bool) {
	var last leaseChange
	for _, c := range r.leaseChanges[id] {
		if c.at.Before(f.injectedAt) {
			last = c
		}
	}
	if !last.held || f.writer != "" && last.writer != f.writer {
		return 0, false
	}
	for _, w := range r.writes[id] {
		if !w.at.After(f.injectedAt) || w.kind != "job.advanced" && w.kind != "job.completed" {
			continue
		}
		// Postgres may run a statement after the fault although the process sent it
		// before the fault. Such a write is not a recovery.
		sentBefore := f.action == kill || f.action == freeze && w.at.Before(f.injectedAt.Add(f.lasts))
		if w.writer == f.writer && sentBefore {
			if w.kind == "job.completed" {
				return 0, false
			}
			continue
		}
		return w.at.Sub(f.injectedAt), true
	}
	return 0, false
}

// disturbed reports whether another fault affected Postgres, or a worker that held the job,
// while the job recovered.
func (r *record) disturbed(id string, f injectedFault, took time.Duration, faults []injectedFault) bool {
	end := f.injectedAt.Add(took)
	holders := map[string]bool{}
	for _, c := range r.leaseChanges[id] {
		if c.held && c.at.Before(end) && c.at.After(f.injectedAt) {
			name, _, _ := strings.Cut(c.writer, ".")
			holders[name] = true
		}
	}
	return slices.ContainsFunc(faults, func(other injectedFault) bool {
		if other.injectedAt.Equal(f.injectedAt) || other.endedAt.Before(f.injectedAt) || other.injectedAt.After(end) {
			return false
		}
		name, _, _ := strings.Cut(other.target, "/")
		return name == "postgres" || name == poolerName || holders[name]
	})
}
