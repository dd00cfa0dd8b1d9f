package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Report is the result of a run.
type Report struct {
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
	Workers int     `json:"workers"`
	APIs    int     `json:"apis"`
	Logs    string  `json:"logs"`

	Requests    int            `json:"requests"`    // that clients made
	Jobs        int            `json:"jobs"`        // on record
	Tokens      int            `json:"tokens"`      // on record
	Attempts    int            `json:"attempts"`    // starts of jobs
	Interrupted int            `json:"interrupted"` // jobs that were started more than once
	Clients     map[string]int `json:"clients"`     // by how they followed

	Kinds map[string]int `json:"kinds"` // blows by kind: kills, freezes, restarts, cuts
	Blows map[string]int `json:"blows"` // by what was struck and how

	Resubmitted int         `json:"resubmitted"`
	Resumed     int         `json:"resumed"`
	Broken      int         `json:"broken"`   // calls without an answer
	Statuses    map[int]int `json:"statuses"` // answers of 500 and more

	Recoveries []Distribution `json:"recoveries"`
	Notes      []string       `json:"notes"` // what a supervisor had to repair
	Violations []Violation    `json:"violations"`

	Harms map[Harm]int `json:"harms"` // how many jobs came to which harm
}

// check compares what clients have seen and what is on record with texts that it
// generates in this process.
func (r *run) check(ctx context.Context) (*Report, error) {
	store, err := r.open()
	if err != nil {
		return nil, err
	}
	r.postgres.pool.Reset() // its connections may be those to a server that has crashed
	found, err := read(ctx, r.postgres.pool, store)
	if err != nil {
		return nil, fmt.Errorf("read what is on record: %w", err)
	}
	requests := newRequests(r.Jobs, r.Seed)
	texts, err := r.texts(ctx, requests)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	report := &Report{
		Seed: r.Seed, Seconds: time.Since(r.begin).Seconds(), Workers: r.Workers, APIs: r.APIs, Logs: r.Logs,
		Requests: len(requests), Jobs: len(found.streams), Clients: map[string]int{},
		Kinds: r.ledger.kinds, Blows: map[string]int{},
		Resubmitted: int(r.count.resubmitted.Load()), Resumed: int(r.count.resumed.Load()),
		Broken: int(r.count.broken.Load()), Statuses: r.count.refusals(),
		Recoveries: recoveries(found, r.ledger.blows), Notes: r.ledger.notes, Violations: r.wrong,
	}
	for _, b := range r.ledger.blows {
		name, network, _ := strings.Cut(b.target, "/")
		name, _, _ = strings.Cut(name, "-")
		report.Blows[strings.TrimSpace(fmt.Sprintf("%s %s %s", b.act, name, network))]++
	}
	report.judge(found, r.seen, requests, texts)
	return report, nil
}

// texts generates the text that each request must end with.
func (r *run) texts(ctx context.Context, requests []request) ([]text, error) {
	texts := make([]text, len(requests))
	errs := make([]error, len(requests))
	var wg sync.WaitGroup
	next := make(chan int)
	for range 4 { // at a time, as one batch
		wg.Go(func() {
			for i := range next {
				texts[i], errs[i] = undisturbed(ctx, r.Engine, requests[i])
			}
		})
	}
	for i := range requests {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// judge finds the broken promises.
func (p *Report) judge(found *record, seen []observation, requests []request, texts []text) {
	bySeed := map[uint64]int{}
	for i, r := range requests {
		bySeed[r.Seed] = i
	}
	jobsOf := map[int][]string{}
	for id, stream := range found.streams {
		i, ok := bySeed[found.seeds[id]]
		if !ok {
			p.violate(Violation{Duplicated, id, "only what was asked for is on record", "a request with its seed", fmt.Sprint(found.seeds[id])})
			continue
		}
		jobsOf[i] = append(jobsOf[i], id)
		p.course(stream)
		p.violate(checkStream(id, stream, texts[i])...)
		if !found.finished[id] {
			p.violate(Violation{Stuck, id, "every job is final", "a final state", found.entries[id]})
		}
	}
	for i, ids := range jobsOf {
		// However often a request was sent, its key was the same.
		if len(ids) > 1 {
			p.violate(Violation{Duplicated, ids[0], "a request becomes one job", fmt.Sprintf("one for request %d", i), strings.Join(ids, ", ")})
		}
	}
	for _, o := range seen {
		p.Clients[o.mode]++
		if o.job == "" {
			p.violate(Violation{Lost, "", "a request is accepted in the end", fmt.Sprintf("a job for request %d", o.request), "none"})
			continue
		}
		if found.streams[o.job] == nil {
			p.violate(Violation{Lost, o.job, "an accepted job is on record", "its events", "none"})
			continue
		}
		if !slices.Contains(jobsOf[o.request], o.job) {
			p.violate(Violation{Changed, o.job, "a client gets the job that it asked for", fmt.Sprintf("one with seed %d", requests[o.request].Seed), fmt.Sprint(found.seeds[o.job])})
		}
		p.violate(checkClient(o, found.streams[o.job], texts[o.request])...)
	}
	if n := len(requests) - len(seen); n > 0 {
		p.violate(Violation{Stuck, "", "every client comes back", "all of them", fmt.Sprintf("%d still wait", n)})
	}
	for _, id := range found.wrong {
		p.violate(Violation{Changed, id.String(), "the history view is what the events say", "the row that a rebuild makes", "another"})
	}
	if found.leases > 0 {
		p.violate(Violation{Stuck, "", "no lease is left", "0", fmt.Sprint(found.leases)})
	}
	if found.stuck > 0 {
		p.violate(Violation{Stuck, "", "no queue entry is left", "0", fmt.Sprint(found.stuck)})
	}
	p.Harms = harms(p.Violations)
	slices.SortFunc(p.Violations, func(a, b Violation) int { return strings.Compare(a.Job+a.Rule, b.Job+b.Rule) })
}

// course counts what a job went through.
func (p *Report) course(stream []event) {
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

// violate notes violations.
func (p *Report) violate(all ...Violation) { p.Violations = append(p.Violations, all...) }

// harms counts the jobs that each kind of harm was done to. A violation without a
// job counts by itself.
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
