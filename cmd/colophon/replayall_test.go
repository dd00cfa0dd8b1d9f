package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"colophon/events"
	"colophon/jobs"
)

// TestReplayAuditCountsAndBoundsReasons counts results of all kinds. The number of reasons
// that are counted one by one must be bounded.
func TestReplayAuditCountsAndBoundsReasons(t *testing.T) {
	t.Parallel()
	equal := jobs.Replay{Job: events.Job{State: events.Completed}, Equal: 3}
	empty := jobs.Replay{Job: events.Job{State: events.Cancelled}}
	erased := jobs.Replay{Job: events.Job{State: events.Completed, Erased: true}, Unknown: []string{"the prompt and the text were erased"}}
	differs := jobs.Replay{Difference: &jobs.Difference{Token: 3, Reason: "differs"}, Unknown: []string{"other weights"}}
	for _, c := range []struct {
		results []jobs.Replay
		status  int
		says    string
	}{
		{nil, 2, "no job was compared"},
		{[]jobs.Replay{empty}, 2, "no job was compared"},
		{[]jobs.Replay{equal, empty}, 0, ""},
		{[]jobs.Replay{equal, erased}, 0, ""},
		{[]jobs.Replay{erased}, 2, "no job was compared"},
		{[]jobs.Replay{equal, {Unknown: []string{"erased"}}}, 2, "1 of 2 jobs cannot be compared"},
		{[]jobs.Replay{equal, {Unknown: []string{"erased"}}, differs}, 1, "1 of 3 jobs differ"},
	} {
		a := replayAudit{chosen: len(c.results), reasons: map[string]int{}}
		for _, r := range c.results {
			a.count(r)
		}
		got, says := 0, ""
		if err := a.verdict(); err != nil {
			got, says = status(err), err.Error()
		}
		if got != c.status || !strings.Contains(says, c.says) {
			t.Errorf("%+v: status %d, %q, want %d, %q", a, got, says, c.status, c.says)
		}
	}
	a := replayAudit{ended: 900, chosen: 100, reasons: map[string]int{}}
	for i := range 100 {
		a.count(jobs.Replay{Unknown: []string{fmt.Sprintf("reason %d", i)}})
	}
	var out bytes.Buffer
	if err := a.show(&out, 0.1, false); err != nil || len(a.reasons) > maxReasons+1 {
		t.Errorf("%d reasons, %v", len(a.reasons), err)
	}
	for _, want := range []string{"interrupted", "900 jobs have ended. 100 of them were chosen at random, each with the probability 0.1, and replayed.", "     100  cannot be compared", "80  other reasons"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s", want, &out)
		}
	}
}
