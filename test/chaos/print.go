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

// verdict returns the lines with the result.
func verdict(r *Report) []string {
	return []string{
		fmt.Sprintf("%d jobs under %d kills, %d freezes, %d restarts and %d cuts in %.0f s", r.Jobs, r.Kinds["kills"], r.Kinds["freezes"], r.Kinds["restarts"], r.Kinds["cuts"], r.Seconds),
		fmt.Sprintf("%d lost, %d changed, %d duplicated, %d stuck; %d violations of any kind", r.Harms[Lost], r.Harms[Changed], r.Harms[Duplicated], r.Harms[Stuck], len(r.Violations)),
	}
}

// course returns the lines with what happened during the run.
func course(r *Report) []string {
	lines := []string{
		fmt.Sprintf("%d API and %d worker processes at a time, seed %d", r.APIs, r.Workers, r.Seed),
		fmt.Sprintf("%d requests became %d jobs with %d tokens; %d were started more than once, %d starts in all", r.Requests, r.Jobs, r.Tokens, r.Interrupted, r.Attempts),
		fmt.Sprintf("clients followed by %s; they resumed %d streams, sent %d submits again and had %d calls without an answer", counted(r.Clients), r.Resumed, r.Resubmitted, r.Broken),
		fmt.Sprintf("answers of 500 and more: %s", counted(r.Statuses)),
	}
	return append(lines, "struck: "+counted(r.Blows))
}

// cpuName returns the processor's name, as far as the system says.
func cpuName() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // Linux has it
	if name := regexp.MustCompile(`model name\s*: (.+)`).FindSubmatch(info); name != nil {
		return string(name[1])
	}
	return runtime.GOARCH
}

// counted lists counts in a fixed order.
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

func recoveryTable(r *Report) [][]string {
	t := [][]string{{"after", "jobs", "p50 s", "p90 s", "p99 s", "max s"}}
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

func markdown(b *strings.Builder, c *command, r *Report) {
	fmt.Fprintf(b, "# Accepted means finished, shown\n\nWritten by `go run ./test/chaos --jobs %d --kills %d --for %v --workers %d --apis %d --seed %d --markdown` on %s.\n\n",
		c.Jobs, c.Kills, c.For, c.Workers, c.APIs, c.Seed, time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(b, "- %s, %d threads, %s %s/%s\n", cpuName(), runtime.GOMAXPROCS(0), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, line := range append(verdict(r), course(r)...) {
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
		fmt.Fprintf(b, "\n## Notes\n\nWhat a supervisor had to repair: processes that gave up before they were ready, and were started again.\n\n")
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

const rulesText = `Every job on record is final. Its text and token ids are those that the engine generates undisturbed, in one
process and without a service. The versions of its events are contiguous from 1; attempts are counted, and each goes
on at the token after those on record; once a later attempt has started, nothing of an earlier one is on record
(triggers in the database noted which process wrote each event); there is one final event, the last. What each client
put together from its pieces, over all its connections, is that text, with no event missing, repeated or out of order,
and what each polled only grew. No lease and no queue entry is left, and the history view has the rows that a
rebuild would make.`

const recoveryText = `From the moment a blow had taken effect to the moment that the next tokens of a job were put on record which its
worker held: once for each job. Every process is a simulated network away from Postgres, and most blows are not alone:
in the rows that say so, no other blow met Postgres or a worker that held the job before its next tokens came.`
