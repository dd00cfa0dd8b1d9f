package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is the result of a run.
type Report struct {
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
	Workers int     `json:"workers"`
	APIs    int     `json:"apis"`
	Logs    string  `json:"logs"`

	Requests    int            `json:"requests"`    // number of requests of clients
	Jobs        int            `json:"jobs"`        // number of stored jobs
	Tokens      int            `json:"tokens"`      // number of stored tokens
	Attempts    int            `json:"attempts"`    // number of starts of jobs
	Interrupted int            `json:"interrupted"` // number of jobs that were started more than once
	Clients     map[string]int `json:"clients"`     // number of clients by mode

	Kinds  map[string]int `json:"kinds"`  // number of faults by kind
	Faults map[string]int `json:"faults"` // number of faults by action and target

	Classes              map[string]*Class `json:"classes"`               // counts by kernel class
	Compared             int               `json:"compared"`              // number of jobs with expected texts of several kernel classes
	Different            int               `json:"different"`             // number of these jobs whose texts differ
	DifferentInterrupted int               `json:"different_interrupted"` // number of these jobs that were started more than once

	Pooled int `json:"pooled"` // number of events that were written through the pooler

	Resubmitted int         `json:"resubmitted"`
	Resumed     int         `json:"resumed"`
	Broken      int         `json:"broken"`   // number of calls without an answer
	Statuses    map[int]int `json:"statuses"` // number of answers for each status from 500

	Recoveries []Distribution `json:"recoveries"`
	Notes      []string       `json:"notes"` // failed starts of processes, and kinds of faults that the run lacked
	Violations []Violation    `json:"violations"`

	Harms map[Harm]int `json:"harms"` // number of affected jobs by harm
}

// check compares the stored events and the observations of clients with the expected
// texts. It returns the report of the run.
func (r *run) check(ctx context.Context) (*Report, error) {
	store, err := r.openStore()
	if err != nil {
		return nil, err
	}
	r.postgres.pool.Reset() // a crash of Postgres may have broken the pool's connections
	harmed, err := r.readDamage(ctx)
	if err != nil {
		return nil, err
	}
	stored, err := readRecord(ctx, r.postgres.pool, store, harmed)
	if err != nil {
		return nil, fmt.Errorf("read the record: %w", err)
	}
	requests := newRequests(r.Jobs, r.Seed)
	if err := r.readMixed(ctx, requests, stored); err != nil {
		return nil, err
	}
	texts, found, err := r.expectedTexts(ctx, requests, stored)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faultLog.mu.Lock()
	defer r.faultLog.mu.Unlock()
	report := &Report{
		Seed: r.Seed, Seconds: time.Since(r.begin).Seconds(), Workers: r.Workers, APIs: r.APIs, Logs: r.Logs,
		Requests: len(requests), Jobs: len(stored.streams) + len(stored.damage.unreadable), Clients: map[string]int{},
		Kinds: r.faultLog.kinds, Faults: map[string]int{},
		Resubmitted: int(r.count.resubmitted.Load()), Resumed: int(r.count.resumed.Load()),
		Broken: int(r.count.broken.Load()), Statuses: r.count.statusCounts(),
		Recoveries: recoveries(stored, r.faultLog.faults), Notes: r.faultLog.notes, Violations: r.violations,
	}
	for _, f := range r.faultLog.faults {
		name, network, _ := strings.Cut(f.target, "/")
		name, _, _ = strings.Cut(name, "-")
		report.Faults[strings.TrimSpace(fmt.Sprintf("%s %s %s", f.action, name, network))]++
	}
	report.countKills(r.faultLog.faults, r.classes)
	report.add(found...)
	if r.pooler != nil {
		report.Pooled = stored.pooled
		report.add(checkPooler(stored.pooled)...)
	}
	report.checkRules(stored, r.seen, requests, texts)
	return report, nil
}

// checkRules checks the record and the observations. It adds the counts and the
// violations to the report, and sorts the violations by job and rule.
func (p *Report) checkRules(stored *record, seen []observation, requests []request, texts oracle) {
	bySeed := indexBySeed(requests)
	jobsOf := map[int][]string{}
	for id, stream := range stored.streams {
		i, ok := bySeed[stored.seeds[id]]
		if !ok {
			p.add(Violation{Duplicated, id, "every stored job was requested", "a request with its seed", fmt.Sprint(stored.seeds[id])})
			continue
		}
		jobsOf[i] = append(jobsOf[i], id)
		p.countAttempts(stream)
		p.countClasses(stream, i, texts)
		want, found := texts.expect(id, i, stream, stored.writes[id], stored.mixed[id])
		p.add(found...)
		p.add(checkStream(id, stream, want)...)
		if !stored.finished[id] {
			p.add(Violation{Stuck, id, "every job is final", "a final state", stored.entries[id]})
		}
	}
	for i, ids := range jobsOf {
		// All tries of a request had the same idempotency key, so they create only one
		// job.
		if len(ids) > 1 {
			p.add(Violation{Duplicated, ids[0], "a request becomes one job", fmt.Sprintf("one for request %d", i), strings.Join(ids, ", ")})
		}
	}
	for _, o := range seen {
		p.Clients[o.mode]++
		if o.job == "" && o.refused {
			continue // checked by checkRefused
		}
		if o.job == "" {
			p.add(Violation{Lost, "", "every request is accepted in the end", fmt.Sprintf("a job for request %d", o.request), "none"})
			continue
		}
		if _, ok := stored.damage.altered[o.job]; ok && stored.streams[o.job] == nil {
			p.add(checkClient(o, nil, texts.expectSeen(o))...)
			continue
		}
		if stored.streams[o.job] == nil {
			p.add(Violation{Lost, o.job, "an accepted job is stored", "its events", "none"})
			continue
		}
		if !slices.Contains(jobsOf[o.request], o.job) {
			p.add(Violation{Changed, o.job, "a client gets the job of its request", fmt.Sprintf("one with seed %d", requests[o.request].Seed), fmt.Sprint(stored.seeds[o.job])})
		}
		// The violations of the job's events have been added above.
		want, _ := texts.expect(o.job, o.request, stored.streams[o.job], stored.writes[o.job], stored.mixed[o.job])
		p.add(checkClient(o, stored.streams[o.job], want)...)
	}
	if n := len(requests) - len(seen); n > 0 {
		p.add(Violation{Stuck, "", "every client finishes", "all of them", fmt.Sprintf("%d still wait", n)})
	}
	for _, d := range stored.wrongRows {
		p.add(Violation{Changed, d.Job.String(), "the history view agrees with the events", "the row of a rebuild", d.What})
	}
	p.add(checkDamage(stored.damage)...)
	p.add(stored.damage.checkRefused(seen)...)
	p.add(checkStrangers(stored)...)
	if stored.openLeases > 0 {
		p.add(Violation{Stuck, "", "no lease is left", "0", fmt.Sprint(stored.openLeases)})
	}
	if stored.openEntries > 0 {
		p.add(Violation{Stuck, "", "no queue entry is left", "0", fmt.Sprint(stored.openEntries)})
	}
	p.Harms = harms(p.Violations)
	slices.SortFunc(p.Violations, func(a, b Violation) int { return strings.Compare(a.Job+a.Rule, b.Job+b.Rule) })
}

// countAttempts adds the tokens and the attempts of a job.
func (p *Report) countAttempts(stream []event) {
	starts := 0
	for _, e := range stream {
		p.Tokens += len(e.Tokens)
		if e.Type == "job.started" {
			starts++
		}
	}
	p.Attempts += starts
	if starts > 1 {
		p.Interrupted++
	}
}

func (p *Report) add(all ...Violation) { p.Violations = append(p.Violations, all...) }

// harms returns the number of affected jobs by harm. A violation without a job counts as
// one job.
func harms(all []Violation) map[Harm]int {
	counts := map[Harm]int{Lost: 0, Changed: 0, Duplicated: 0, Stuck: 0}
	type pair struct {
		harm Harm
		job  string
	}
	seen := map[pair]bool{}
	for _, v := range all {
		if at := (pair{v.Harm, v.Job}); v.Job == "" || !seen[at] {
			seen[at] = true
			counts[v.Harm]++
		}
	}
	return counts
}
