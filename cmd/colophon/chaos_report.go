//go:build chaos

package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"colophon/test/chaos"
)

// chaosVerdict is what was promised and came of it.
func chaosVerdict(r *chaos.Report) []string {
	return []string{
		fmt.Sprintf("%d jobs under %d kills, %d freezes, %d restarts and %d cuts in %.0f s", r.Jobs, r.Kinds["kills"], r.Kinds["freezes"], r.Kinds["restarts"], r.Kinds["cuts"], r.Seconds),
		fmt.Sprintf("%d lost, %d changed, %d duplicated, %d stuck; %d violations of any kind", r.Harms[chaos.Lost], r.Harms[chaos.Changed], r.Harms[chaos.Duplicated], r.Harms[chaos.Stuck], len(r.Violations)),
	}
}

// chaosCourse is what happened besides.
func chaosCourse(r *chaos.Report) []string {
	lines := []string{
		fmt.Sprintf("%d API and %d worker processes at a time, seed %d", r.APIs, r.Workers, r.Seed),
		fmt.Sprintf("%d requests became %d jobs with %d tokens; %d were started more than once, %d starts in all", r.Requests, r.Jobs, r.Tokens, r.Interrupted, r.Attempts),
		fmt.Sprintf("clients followed by %s; they resumed %d streams, sent %d submits again and had %d calls without an answer", counted(r.Clients), r.Resumed, r.Resubmitted, r.Broken),
		fmt.Sprintf("answers of 500 and more: %s", counted(r.Statuses)),
	}
	return append(lines, "struck: "+counted(r.Blows))
}

// counted lists what was counted in a fixed order.
func counted[K string | int](counts map[K]int) string {
	if len(counts) == 0 {
		return "none"
	}
	var all []string
	for what, n := range counts {
		all = append(all, fmt.Sprintf("%v: %d", what, n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func chaosRecoveries(r *chaos.Report) table {
	t := table{{"after", "jobs", "p50 s", "p90 s", "p99 s", "max s"}}
	for _, d := range r.Recoveries {
		cells := []string{d.What, fmt.Sprint(d.N)}
		for _, v := range []float64{d.P50, d.P90, d.P99, d.Max} {
			cell := "-"
			if d.N > 0 {
				cell = fmt.Sprintf("%.2f", v)
			}
			cells = append(cells, cell)
		}
		t = append(t, cells)
	}
	return t
}

func chaosMarkdown(b *strings.Builder, c *chaosCmd, r *chaos.Report) {
	fmt.Fprintf(b, "# Accepted means finished, shown\n\nWritten by `colophon chaos --jobs %d --kills %d --for %v --workers %d --apis %d --seed %d --markdown` on %s.\n\n",
		c.Jobs, c.Kills, c.For, c.Workers, c.APIs, c.Seed, time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(b, "- %s, %d threads, %s %s/%s\n", cpuName(), runtime.GOMAXPROCS(0), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, line := range append(chaosVerdict(r), chaosCourse(r)...) {
		fmt.Fprintf(b, "- %s\n", line)
	}
	fmt.Fprintf(b, "\n## What was checked\n\n%s\n", chaosRules)
	fmt.Fprintf(b, "\n## Recovery\n\n%s\n\n", chaosRecovery)
	for i, cells := range chaosRecoveries(r) {
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(b, "|%s\n", strings.Repeat(" --: |", len(cells)))
		}
	}
	if len(r.Notes) > 0 {
		fmt.Fprintf(b, "\n## Notes\n\nWhat a supervisor had to mend: processes that gave up before they were ready, and were started again.\n\n")
		for _, note := range r.Notes {
			fmt.Fprintf(b, "- %s\n", note)
		}
	}
	if len(r.Violations) > 0 {
		fmt.Fprintf(b, "\n## Violations\n\n")
		for _, v := range r.Violations {
			fmt.Fprintf(b, "- %s\n", v)
		}
	}
}

const chaosRules = `Every job on record is final. Its text and token ids are those that the engine generates undisturbed, in one
process and without a service. The versions of its events are contiguous from 1; attempts are counted, and each goes
on at the token after those on record; once a later attempt has started, nothing of an earlier one is on record
(triggers in the database noted which process wrote each event); there is one final event, the last. What each client
put together from its pieces, over all its connections, is that text, with no event missing, repeated or out of order,
and what each polled only grew. No lease and no place in the queue is left, and the history view has the rows that a
rebuild would make.`

const chaosRecovery = `From the moment a blow had taken effect to the moment that the next tokens of a job were put on record which its
worker held: once for each job. Every process is a simulated network away from Postgres, and most blows are not alone:
in the rows that say so, no other blow met Postgres or a worker that held the job before its next tokens came.`
