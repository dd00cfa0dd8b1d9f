package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
)

var jobID = uuid.MustParse("01a20693-0628-791e-89e9-2fa880aae0ce")

// reportOn returns the report on one request. The stored events and the observation of
// its job are correct until tamper changes them.
func reportOn(tamper func(*record, *[]observation)) *Report {
	stored := &record{
		streams:  map[string][]event{jobID.String(): recorded()},
		seeds:    map[string]uint64{jobID.String(): 7},
		finished: map[string]bool{jobID.String(): true},
	}
	o := streamedAndPolled()
	o.job = jobID.String()
	seen := []observation{o}
	tamper(stored, &seen)
	p := &Report{Clients: map[string]int{}}
	p.checkRules(stored, seen, []request{{Seed: 7}}, twoClasses())
	return p
}

func TestReportOfAnIntactJobHasNoViolations(t *testing.T) {
	p := reportOn(func(*record, *[]observation) {})
	if len(p.Violations) > 0 || p.Tokens != 5 || p.Attempts != 3 || p.Interrupted != 1 || p.Clients["sse"] != 1 {
		t.Errorf("%+v", p)
	}
}

func TestReportFindsEveryViolation(t *testing.T) {
	for name, c := range map[string]struct {
		tamper func(*record, *[]observation)
		harm   Harm
		rule   string
	}{
		"a lost job":            {func(r *record, _ *[]observation) { clear(r.streams) }, Lost, "an accepted job is stored"},
		"a job unfinished":      {func(r *record, _ *[]observation) { clear(r.finished) }, Stuck, "every job is final"},
		"a job never accepted":  {func(_ *record, s *[]observation) { (*s)[0].job = "" }, Lost, "every request is accepted in the end"},
		"a job without request": {func(r *record, _ *[]observation) { r.seeds[jobID.String()] = 8 }, Duplicated, "every stored job was requested"},
		"the job of another request": {func(r *record, s *[]observation) {
			other := uuid.NewString()
			r.streams[other], r.finished[other] = recorded(), true
			(*s)[0].job = other
		}, Changed, "the job of its request"},
		"two jobs of a request": {func(r *record, _ *[]observation) {
			other := uuid.NewString()
			r.streams[other], r.seeds[other], r.finished[other] = recorded(), 7, true
		}, Duplicated, "becomes one job"},
		"a wrong job without a client": {func(r *record, _ *[]observation) {
			other := uuid.NewString()
			r.streams[other], r.seeds[other], r.finished[other] = recorded(), 7, true
			r.streams[other][7].Tokens = []int{6}
		}, Changed, "the tokens on record"},
		"a client that waits": {func(_ *record, s *[]observation) { *s = nil }, Stuck, "every client finishes"},
		"a lease":             {func(r *record, _ *[]observation) { r.openLeases = 1 }, Stuck, "no lease is left"},
		"a queue entry":       {func(r *record, _ *[]observation) { r.openEntries = 1 }, Stuck, "no queue entry"},
		"a wrong row": {func(r *record, _ *[]observation) {
			r.wrongRows = []events.Difference{{Job: jobID, What: "the row is missing"}}
		}, Changed, "the history view"},
		"an event of a stranger": {func(r *record, _ *[]observation) {
			r.writes = map[string][]write{jobID.String(): {{kind: "job.started", version: 2, writer: "stranger.3"}}}
		}, Changed, "a worker with a wrong key takes no job"},
		"a lease of a stranger": {func(r *record, _ *[]observation) {
			r.leaseChanges = map[string][]leaseChange{jobID.String(): {{job: jobID, held: true, writer: "stranger.3"}}}
		}, Changed, "a worker with a wrong key takes no job"},
		"another text": {func(r *record, _ *[]observation) { r.streams[jobID.String()][6].Text = " too" }, Changed, "the text on record"},
		"an end that was sent and lost": {func(r *record, s *[]observation) {
			r.streams[jobID.String()] = recorded()[:8]
			(*s)[0].snapshots = nil
		}, Lost, "a sent event stays on record"},
		"an end that was polled and lost": {func(r *record, s *[]observation) {
			r.streams[jobID.String()] = recorded()[:8]
			(*s)[0].events = nil
		}, Lost, "a polled event stays on record"},
		"a piece twice": {func(_ *record, s *[]observation) {
			o := &(*s)[0]
			o.events = append(o.events[:3:3], o.events[2:]...)
		}, Duplicated, "no event twice"},
	} {
		t.Run(name, func(t *testing.T) {
			p := reportOn(c.tamper)
			if all := found(p.Violations); !strings.Contains(all, c.rule) || p.Harms[c.harm] == 0 {
				t.Errorf("not found: %s, %s; found %v:\n%s", c.harm, c.rule, p.Harms, all)
			}
		})
	}
}

func TestWorkerWithAWrongKeyMustEndBecauseOfIt(t *testing.T) {
	output := "colophon: " + vault.ErrMasterKey.Error() + ": this process has the one of id 1"
	if found := checkRefusal(refusal{ended: true, output: output}); len(found) > 0 {
		t.Errorf("a refusal is a violation: %v", found)
	}
	for harm, r := range map[Harm][]refusal{
		Changed: {{ready: true}, {ended: true, output: "the database is down"}},
		Stuck:   {{output: "database unavailable, retrying"}},
	} {
		for _, r := range r {
			if found := checkRefusal(r); len(found) != 1 || found[0].Harm != harm {
				t.Errorf("%+v: found %v, want %s", r, found, harm)
			}
		}
	}
}

// TestRecoveryLastsUntilTheNextTokens measures the recovery of one job. worker-1 takes
// this job at 0 s and is killed at 1 s. The last write of worker-1 arrives at 1.1 s.
// worker-2 takes the job at 7 s and completes it at 7.5 s. The recovery must take 6.5 s.
func TestRecoveryLastsUntilTheNextTokens(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	id := jobID.String()
	r := &record{
		leaseChanges: map[string][]leaseChange{id: {{jobID, true, "worker-1.1", at(0)}, {jobID, false, "worker-3.1", at(6.5)}, {jobID, true, "worker-2.1", at(7)}}},
		writes: map[string][]write{id: {
			{"", 1, "job.accepted", "api-1.1", at(-1)}, {"", 2, "job.started", "worker-1.1", at(0)},
			{"", 3, "job.advanced", "worker-1.1", at(0.5)}, {"", 4, "job.advanced", "worker-1.1", at(1.1)},
			{"", 5, "job.started", "worker-2.1", at(7)}, {"", 6, "job.completed", "worker-2.1", at(7.5)},
		}},
	}
	killed := injectedFault{fault{target: "worker-1", action: kill}, "worker-1.1", at(1), at(2)}
	// find returns the two distributions for SIGKILL. The first covers all jobs, and the
	// second covers the jobs without another fault.
	find := func(faults ...injectedFault) [2]Distribution { return [2]Distribution(recoveries(r, faults)[:2]) }
	one := Distribution{N: 1, P50: 6.5, P90: 6.5, P99: 6.5, Max: 6.5}
	for name, c := range map[string]struct {
		faults []injectedFault
		alone  int
	}{
		"alone":                        {[]injectedFault{killed}, 1},
		"and an API":                   {[]injectedFault{killed, {fault{target: "api-1", action: kill}, "api-1.1", at(3), at(4)}}, 1},
		"and a worker without the job": {[]injectedFault{killed, {fault{target: "worker-3", action: freeze}, "worker-3.1", at(3), at(4)}}, 1},
		"and the next worker":          {[]injectedFault{killed, {fault{target: "worker-2/database", action: cut}, "", at(7.2), at(7.2)}}, 0},
		"and Postgres":                 {[]injectedFault{killed, {fault{target: "postgres", action: refresh}, "", at(5), at(6)}}, 0},
		"and Postgres, long before":    {[]injectedFault{killed, {fault{target: "postgres", action: refresh}, "", at(-5), at(-4)}}, 1},
	} {
		got := find(c.faults...)
		if got[1].N != c.alone {
			t.Errorf("%s: %d alone, want %d", name, got[1].N, c.alone)
		}
		got[0].What = ""
		if diff := cmp.Diff(one, got[0]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := find(injectedFault{fault{target: "worker-2", action: kill}, "worker-2.1", at(1), at(2)}); got[0].N != 0 {
		t.Error("the job recovered from the kill of a worker that did not have it")
	}
}

func TestQuantilesAreMeasuredTimes(t *testing.T) {
	var times []time.Duration
	for i := range 200 {
		times = append(times, time.Duration(200-i)*time.Second)
	}
	want := Distribution{"x", 200, 100, 180, 198, 200}
	if got := distribution("x", times); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := distribution("x", nil); got != (Distribution{What: "x"}) {
		t.Errorf("without times: %+v", got)
	}
}
