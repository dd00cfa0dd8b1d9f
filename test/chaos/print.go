package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// resultLines returns the lines of the report with the numbers of faults and violations.
func resultLines(r *Report) []string {
	var faults []string
	for _, kind := range kinds {
		faults = append(faults, fmt.Sprintf("%d %s", r.Kinds[kind], kind))
	}
	last := len(faults) - 1
	return []string{
		fmt.Sprintf("%d jobs under %s and %s in %.0f s", r.Jobs, strings.Join(faults[:last], ", "), faults[last], r.Seconds),
		fmt.Sprintf("%d lost, %d changed, %d duplicated, %d stuck; %d violations of any kind", r.Harms[Lost], r.Harms[Changed], r.Harms[Duplicated], r.Harms[Stuck], len(r.Violations)),
	}
}

// detailLines returns the lines of the report with the other counts of the run.
func detailLines(r *Report) []string {
	lines := []string{
		fmt.Sprintf("%d API and %d worker processes at a time, seed %d", r.APIs, r.Workers, r.Seed),
		fmt.Sprintf("%d requests became %d jobs with %d tokens; %d were started more than once, %d starts in all", r.Requests, r.Jobs, r.Tokens, r.Interrupted, r.Attempts),
		fmt.Sprintf("clients followed by %s; they resumed %d streams, sent %d submits again and had %d calls without an answer", formatCounts(r.Clients), r.Resumed, r.Resubmitted, r.Broken),
		fmt.Sprintf("answers with status 500 or more: %s", formatCounts(r.Statuses)),
	}
	lines = append(lines, classLines(r)...)
	lines = append(lines, fmt.Sprintf("%d events of jobs were written through the pooler", r.Pooled))
	return append(lines, "faults: "+formatCounts(r.Faults))
}

// cpuName returns the processor's name on Linux, and the processor's architecture on
// other systems.
func cpuName() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // the file exists only on Linux
	if name := regexp.MustCompile(`model name\s*: (.+)`).FindSubmatch(info); name != nil {
		return string(name[1])
	}
	return runtime.GOARCH
}

// formatCounts lists counts in alphabetical order.
func formatCounts[K string | int](counts map[K]int) string {
	if len(counts) == 0 {
		return "none"
	}
	var all []string
	for name, n := range counts {
		all = append(all, fmt.Sprintf("%v: %d", name, n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func recoveryTable(r *Report) [][]string {
	table := [][]string{{"after", "jobs", "p50 s", "p90 s", "p99 s", "max s"}}
	for _, d := range r.Recoveries {
		cells := []string{d.What, fmt.Sprint(d.N)}
		for _, v := range []float64{d.P50, d.P90, d.P99, d.Max} {
			cell := "-"
			if d.N > 0 {
				cell = fmt.Sprintf("%.2f", v)
			}
			cells = append(cells, cell)
		}
		table = append(table, cells)
	}
	return table
}

func markdown(b *strings.Builder, c *command, r *Report) {
	fmt.Fprintf(b, "# Accepted jobs are finished\n\nWritten by `go run ./test/chaos --jobs %d --kills %d --for %v --workers %d --apis %d --seed %d --markdown` on %s.\n\n",
		c.Jobs, c.Kills, c.For, c.Workers, c.APIs, c.Seed, time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(b, "- %s, %d threads, %s %s/%s\n", cpuName(), runtime.GOMAXPROCS(0), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, line := range append(resultLines(r), detailLines(r)...) {
		fmt.Fprintf(b, "- %s\n", line)
	}
	fmt.Fprintf(b, "\n## What was checked\n\n%s\n", rulesText)
	fmt.Fprintf(b, "\n## Recovery\n\n%s\n\n", recoveryText)
	for i, cells := range recoveryTable(r) {
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(b, "|%s\n", strings.Repeat(" --: |", len(cells)))
		}
	}
	if len(r.Notes) > 0 {
		fmt.Fprintf(b, "\n## Notes\n\nA process that ended before it was ready was started again, as a supervisor would do.\n\n")
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

const rulesText = `Every job on record is final. Its text and token ids are those that the engine generates undisturbed, in one process and
without a service. The versions of its events are contiguous from 1. Attempts are counted, and each continues at the token
after those on record. Once a later attempt has started, nothing of an earlier one is on record: triggers in the database
recorded which process wrote each event. There is one final event, and it is the last. The pieces that each client got,
over all its connections, make up that text, with no event missing, repeated or out of order. For clients that polled,
the text only grew. No lease and no queue entry is left, and a rebuild would make the same rows of the history view.

The workers are of two kernel classes, which generate different bits. The text of a job is that of the class of its first
tokens. Workers of the other class left a job with tokens alone for at least half a minute. A text by both classes begins
as that of the first, and the service has told the owner about it. The texts of portable Go come from an undisturbed
service.

No worker with a wrong master key became ready, wrote an event or held a lease. Each job whose event was damaged has been
set aside, is listed by ` + "`colophon history damaged`" + ` and was refused to its owner. The pieces that its client got before begin
the undisturbed text. No other job was set aside.`

const recoveryText = `The time from a fault that has taken effect until the next tokens of a job are on record, once for each job that an
affected worker held. Every process reaches Postgres over a simulated network, and most faults overlap. In the rows
"with no other fault", no other fault affected Postgres or a worker that held the job before its next tokens came.`
