package main

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Distribution is how long recoveries took, in seconds.
type Distribution struct {
	What string  `json:"what"`
	N    int     `json:"n"`
	P50  float64 `json:"p50_s"`
	P90  float64 `json:"p90_s"`
	P99  float64 `json:"p99_s"`
	Max  float64 `json:"max_s"`
}

// distribution summarises times. The quantiles are times that occurred.
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

// recoveries returns, for each kind of blow that takes jobs from their worker, how
// long it took until the next tokens of each of these jobs were on record. It
// returns that for all jobs, and for those that no other blow disturbed meanwhile.
func recoveries(r *record, blows []struck) []Distribution {
	var all []Distribution
	for _, kind := range []struct {
		what string
		is   func(struck) bool
	}{
		{"SIGKILL of a worker", func(s struck) bool { return s.act == kill && strings.HasPrefix(s.target, "worker-") }},
		{"worker frozen past its leases", func(s struck) bool {
			return s.act == freeze && strings.HasPrefix(s.target, "worker-") && s.lasts >= pastLease
		}},
		{"Postgres crash", func(s struck) bool { return s.act == crash || s.act == shoot }},
	} {
		var times, alone []time.Duration
		for _, s := range blows {
			if !kind.is(s) {
				continue
			}
			for id := range r.holds {
				took, ok := r.recovery(id, s)
				if !ok {
					continue
				}
				times = append(times, took)
				if !r.disturbed(id, s, took, blows) {
					alone = append(alone, took)
				}
			}
		}
		all = append(all, distribution(kind.what, times), distribution(kind.what+", nothing else in the way", alone))
	}
	return all
}

// pastLease is the shortest freeze after which other workers have the jobs.
const pastLease = 7 * time.Second

// recovery returns how long a job took to get new tokens after a blow, or false if
// the blow took the job from no worker.
func (r *record) recovery(id string, s struck) (time.Duration, bool) {
	var last hold
	for _, h := range r.holds[id] {
		if h.at.Before(s.hit) {
			last = h
		}
	}
	if !last.held || s.writer != "" && last.writer != s.writer {
		return 0, false
	}
	for _, w := range r.writes[id] {
		if !w.at.After(s.hit) || w.kind != "job.advanced" && w.kind != "job.completed" {
			continue
		}
		// Statements that the process had sent before the blow may still have arrived.
		lastWords := s.act == kill || s.act == freeze && w.at.Before(s.hit.Add(s.lasts))
		if w.writer == s.writer && lastWords {
			if w.kind == "job.completed" {
				return 0, false
			}
			continue
		}
		return w.at.Sub(s.hit), true
	}
	return 0, false
}

// disturbed reports whether another blow hit Postgres, or a worker that held the
// job, while the job recovered.
func (r *record) disturbed(id string, s struck, took time.Duration, blows []struck) bool {
	end := s.hit.Add(took)
	holders := map[string]bool{}
	for _, h := range r.holds[id] {
		if h.held && h.at.Before(end) && h.at.After(s.hit) {
			name, _, _ := strings.Cut(h.writer, ".")
			holders[name] = true
		}
	}
	return slices.ContainsFunc(blows, func(other struck) bool {
		if other.hit.Equal(s.hit) || other.over.Before(s.hit) || other.hit.After(end) {
			return false
		}
		name, _, _ := strings.Cut(other.target, "/")
		return name == "postgres" || holders[name]
	})
}
