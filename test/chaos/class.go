package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A kernel class is a set of workers that generate the same bits. Its name is the field
// kernel of the event job.started.

// oracle holds the expected texts of requests by kernel class and by index of the request.
type oracle map[string]map[int]text

// generatedBy returns the kernel class of a job. This is the class of the attempt that
// recorded the first tokens. Without tokens, it is the class of the latest attempt.
// mixedAt is the index of the first event with tokens of another class. It is len(stream)
// if there is no such event.
func generatedBy(stream []event) (class string, mixedAt int) {
	running, generated := "", false
	for i, e := range stream {
		switch {
		case e.starts():
			running = e.Kernel
			if !generated {
				class = running
			}
		case len(e.Tokens) == 0:
		case running != class:
			return class, i
		default:
			generated = true
		}
	}
	return class, len(stream)
}

// shortestWait is the shortest time after which a worker of another class may continue a
// job with tokens. The service waits 60 s. A fault may have set the clock 15 s forward,
// and an event may be stored some seconds after its time.
const shortestWait = 30 * time.Second

// expect returns the expected text of a stored job, and the violations of the rules for
// kernel classes. told reports whether the service has told the owner that several
// classes generated the text. The text of such a job cannot be predicted, so expect returns
// the stored text and checks its part of the first class.
func (o oracle) expect(job string, request int, stream []event, writes []write, told bool) (text, []Violation) {
	c := &checker{job: job}
	c.checkWaits(stream, writes)
	class, mixedAt := generatedBy(stream)
	if !slices.ContainsFunc(stream, event.starts) {
		return o.any(request), c.found // checkStream reports this job
	}
	want, ok := o[class][request]
	if !ok {
		c.add(Changed, "a kernel class of the fleet generates a text", strings.Join(slices.Sorted(maps.Keys(o)), " or "), "%s", class)
		return recordedText(stream), c.found
	}
	mixed := mixedAt < len(stream)
	if mixed != told {
		c.add(Changed, "the owner is told whether kernels are mixed", fmt.Sprint(mixed), "%v", told)
	}
	if !mixed {
		return want, c.found
	}
	if first := recordedText(stream[:mixedAt]); !want.begins(first) {
		c.add(Changed, "the text before the other kernels begins the undisturbed one", quoteDifference(want.Text, first.Text), "%s", quoteDifference(first.Text, want.Text))
	}
	return recordedText(stream), c.found
}

// expectSeen returns the expected text of a job whose events cannot be read. The
// observation of the job's client must name its class, or begin the text of any class. The
// rest of a text of several classes cannot be predicted.
func (o oracle) expectSeen(seen observation) text {
	class, mixedAt := generatedBy(seen.events)
	if want, ok := o[class][seen.request]; ok && mixedAt == len(seen.events) {
		return want
	}
	so := recordedText(seen.events)
	if len(seen.snapshots) > 0 && len(seen.events) == 0 {
		last := seen.snapshots[len(seen.snapshots)-1]
		so = text{Text: last.Completion, FinishReason: last.FinishReason}
		for _, class := range slices.Sorted(maps.Keys(o)) {
			if want, ok := o[class][seen.request]; ok && strings.HasPrefix(want.Text, so.Text) {
				return want
			}
		}
		if last.Mixed {
			return so
		}
	}
	if mixedAt < len(seen.events) && o[class][seen.request].begins(recordedText(seen.events[:mixedAt])) {
		return so
	}
	return o.any(seen.request)
}

// any returns the text of a request in the first class that has one.
func (o oracle) any(request int) text {
	for _, class := range slices.Sorted(maps.Keys(o)) {
		if want, ok := o[class][request]; ok {
			return want
		}
	}
	return text{}
}

// differs reports whether several classes have a text of a request, and whether these
// texts are different.
func (o oracle) differs(request int) (several, different bool) {
	first := o.any(request)
	n := 0
	for _, texts := range o {
		if t, ok := texts[request]; ok {
			n++
			different = different || t.Text != first.Text || !slices.Equal(t.Tokens, first.Tokens)
		}
	}
	return n > 1, different
}

// recordedText returns the text of a job's events.
func recordedText(stream []event) (t text) {
	for _, e := range stream {
		t.Text += e.Text
		t.Tokens = append(t.Tokens, e.Tokens...)
		if e.Type == "job.completed" {
			t.FinishReason = e.FinishReason
		}
	}
	return t
}

// begins reports whether the text and the tokens of first begin those of t.
func (t text) begins(first text) bool {
	n := len(first.Tokens)
	return strings.HasPrefix(t.Text, first.Text) && n <= len(t.Tokens) && slices.Equal(first.Tokens, t.Tokens[:n])
}

// checkWaits checks that workers of another class leave a job with tokens to the class
// that generated them, for a time.
func (c *checker) checkWaits(stream []event, writes []write) {
	at := map[int]time.Time{}
	for _, w := range writes {
		at[w.version] = w.at
	}
	running, generated := "", ""
	for _, e := range stream {
		if len(e.Tokens) > 0 {
			generated = running
		}
		if !e.starts() {
			continue
		}
		running = e.Kernel
		if waited := at[e.Version].Sub(at[e.Version-1]); generated != "" && running != generated && waited < shortestWait {
			c.add(Changed, "a job with tokens waits for its kernel class", fmt.Sprintf("no start by %s for a minute", running), "one after %v at version %d", waited, e.Version)
		}
	}
}

// Class counts what happened to the workers and the jobs of a kernel class.
type Class struct {
	Jobs          int `json:"jobs"`          // jobs whose first tokens the class generated
	Kills         int `json:"kills"`         // kills of workers
	Continuations int `json:"continuations"` // starts after a job's first start
	Mixed         int `json:"mixed"`         // jobs that another class continued
}

// countClasses counts a job and its continuations by class, and compares its texts.
func (p *Report) countClasses(stream []event, request int, texts oracle) {
	class, mixedAt := generatedBy(stream)
	if !slices.ContainsFunc(stream, event.starts) {
		return
	}
	of := p.class(class)
	of.Jobs++
	if mixedAt < len(stream) {
		of.Mixed++
	}
	starts := 0
	for _, e := range stream {
		if e.starts() {
			if starts++; starts > 1 {
				p.class(e.Kernel).Continuations++
			}
		}
	}
	several, different := texts.differs(request)
	if several {
		p.Compared++
	}
	if different {
		p.Different++
		if starts > 1 {
			p.DifferentInterrupted++
		}
	}
}

// countKills counts the kills of workers by class. classes are the classes of the two
// builds of the program.
func (p *Report) countKills(faults []injectedFault, classes [2]string) {
	for _, f := range faults {
		if number, ok := workerNumber(f.target); ok && f.action == kill {
			p.class(classes[buildOf(number)]).Kills++
		}
	}
}

func (p *Report) class(name string) *Class {
	if p.Classes == nil {
		p.Classes = map[string]*Class{}
	}
	if p.Classes[name] == nil {
		p.Classes[name] = &Class{}
	}
	return p.Classes[name]
}

// classLines returns the lines on the kernel classes.
func classLines(r *Report) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(r.Classes)) {
		c := r.Classes[name]
		lines = append(lines, fmt.Sprintf("kernel class %s: %d jobs, %d kills of workers, %d continuations, %d mixed jobs", name, c.Jobs, c.Kills, c.Continuations, c.Mixed))
	}
	if r.Different == 0 {
		return append(lines, fmt.Sprintf("%d jobs have expected texts of two kernel classes, and no text differs: this run does not show that the classes were kept apart", r.Compared))
	}
	return append(lines, fmt.Sprintf("%d jobs have expected texts of two kernel classes: the texts of %d differ, and %d of these were started more than once", r.Compared, r.Different, r.DifferentInterrupted))
}
