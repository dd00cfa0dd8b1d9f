package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"colophon/client"
)

// Harm says what a broken guarantee did to a job.
type Harm string

// The values of Harm.
const (
	Lost       Harm = "lost"       // something accepted or recorded is missing
	Changed    Harm = "changed"    // something differs from a run without faults
	Duplicated Harm = "duplicated" // something exists twice, or reappeared
	Stuck      Harm = "stuck"      // something never finishes
)

// Violation is a broken guarantee of the service.
type Violation struct {
	Harm     Harm   `json:"harm"`
	Job      string `json:"job,omitempty"`
	Rule     string `json:"rule"`
	Expected string `json:"expected"`
	Seen     string `json:"seen"`
}

// String returns the violation as one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s, job %s: %s: expected %s, seen %s", v.Harm, cmp.Or(v.Job, "-"), v.Rule, v.Expected, v.Seen)
}

// event is an event of a job, as it was stored or as a client received it.
type event struct {
	Version      int
	Type         string
	Attempt      int    // only in job.started and job.failed
	FromToken    int    `json:"from_token"` // only in job.started
	Kernel       string // only in job.started
	Tokens       []int
	Text         string
	FinishReason string `json:"finish_reason"`
	Final        bool   // only in job.failed

	writer string // the process that stored the event; empty if a client received the event
}

// final reports whether the event ends the job.
func (e event) final() bool {
	return e.Type == "job.completed" || e.Type == "job.cancelled" || e.Type == "job.failed" && e.Final
}

// starts reports whether the event begins an attempt.
func (e event) starts() bool { return e.Type == "job.started" }

// snapshot is the state of a job as a client read it.
type snapshot struct {
	Version      int
	State        string
	Completion   string
	FinishReason string `json:"finish_reason"`
	Mixed        bool   `json:"mixed_kernels"`
}

// observation holds everything that one client received about one job, in order.
type observation struct {
	request   int
	job       string
	mode      string
	snapshots []snapshot
	events    []event
	refused   bool // the last answer said that the job is damaged
}

// checker collects violations of one job.
type checker struct {
	job   string
	found []Violation
}

func (c *checker) add(harm Harm, rule, expected, seen string, args ...any) {
	c.found = append(c.found, Violation{harm, c.job, rule, expected, fmt.Sprintf(seen, args...)})
}

// checkStream checks the stored events of a job. It checks the order of the events, their
// writers, and the text and tokens of all events together.
func checkStream(job string, stream []event, want text) []Violation {
	c := &checker{job: job}
	attempts, writer, finals := 0, "", 0
	var tokens []int
	var text strings.Builder
	for i, e := range stream {
		if e.Version != i+1 {
			c.add(Lost, "versions are contiguous", fmt.Sprintf("version %d", i+1), "version %d", e.Version)
		}
		if (e.Type == "job.accepted") != (i == 0) {
			c.add(Duplicated, "a stream begins with its only job.accepted", "job.accepted at version 1 only", "%s at version %d", e.Type, e.Version)
		}
		if finals > 0 {
			c.add(Duplicated, "no event follows the final one", "no event", "%s at version %d", e.Type, e.Version)
		}
		switch e.Type {
		case "job.started":
			if e.Attempt != attempts+1 {
				c.add(Duplicated, "attempts are counted", fmt.Sprintf("attempt %d", attempts+1), "attempt %d at version %d", e.Attempt, e.Version)
			}
			if e.FromToken != len(tokens) {
				c.add(Changed, "an attempt continues at the next token", fmt.Sprintf("from token %d", len(tokens)), "from token %d at version %d", e.FromToken, e.Version)
			}
			attempts, writer = attempts+1, e.writer
		case "job.advanced", "job.completed", "job.failed":
			if attempts == 0 {
				c.add(Lost, "only a started job advances", "job.started", "%s at version %d", e.Type, e.Version)
			}
			// After a later attempt has started, the worker of an earlier attempt may not
			// write.
			if e.writer != writer {
				c.add(Duplicated, "only the latest attempt writes", "events of "+writer, "%s of %s at version %d", e.Type, e.writer, e.Version)
			}
			tokens = append(tokens, e.Tokens...)
			text.WriteString(e.Text)
		}
		if e.final() {
			finals++
		}
	}
	switch finals {
	case 0:
		c.add(Stuck, "a job ends", "a final event", "none among %d events", len(stream))
		return c.found
	case 1:
	default:
		c.add(Duplicated, "a job ends once", "one final event", "%d among %d events", finals, len(stream))
	}
	if end := stream[len(stream)-1]; end.Type != "job.completed" {
		c.add(Changed, "a job is completed", "job.completed", "%s", end.Type)
	} else if end.FinishReason != want.FinishReason {
		c.add(Changed, "the finish reason is the undisturbed one", want.FinishReason, "%s", end.FinishReason)
	}
	c.compareText("on record", text.String(), tokens, want)
	return c.found
}

func (c *checker) compareText(where, text string, tokens []int, want text) {
	if text != want.Text {
		c.add(Changed, "the text "+where+" is the undisturbed one", quoteDifference(want.Text, text), "%s", quoteDifference(text, want.Text))
	}
	if !slices.Equal(tokens, want.Tokens) {
		c.add(Changed, "the tokens "+where+" are the undisturbed ones", fmt.Sprint(want.Tokens), "%v", tokens)
	}
}

// checkClient compares the observation of a client with the stored events and the
// expected text of the job. If the job is damaged, stream is nil.
func checkClient(o observation, stream []event, want text) []Violation {
	c := &checker{job: o.job}
	c.checkEvents(o, stream, want)
	c.checkSnapshots(o, stream, want)
	if o.refused && stream != nil {
		c.add(Lost, "only a damaged job is refused", "its end", "%s", client.CodeDamaged)
	}
	if len(o.events)+len(o.snapshots) == 0 && !o.refused {
		c.add(Lost, "a client sees its job", "an event or a state", "nothing, as a %s client", o.mode)
	}
	return c.found
}

// checkEvents checks the events that a client received. It stops at the first wrong version.
func (c *checker) checkEvents(o observation, stream []event, want text) {
	if len(o.events) == 0 {
		return
	}
	var tokens []int
	var text strings.Builder
	for i, e := range o.events {
		switch before := i; {
		case e.Version > before+1:
			c.add(Lost, "a client is sent every event", fmt.Sprintf("version %d", before+1), "version %d: a gap", e.Version)
			return
		case e.Version == before:
			c.add(Duplicated, "a client is sent no event twice", fmt.Sprintf("version %d", before+1), "version %d: a repeat", e.Version)
			return
		case e.Version < before:
			c.add(Duplicated, "a client is sent no earlier event", fmt.Sprintf("version %d", before+1), "version %d: a reset", e.Version)
			return
		}
		if stream != nil && i >= len(stream) {
			c.add(Lost, "a sent event stays on record", fmt.Sprintf("%s at version %d", e.Type, e.Version), "%d events", len(stream))
			return
		}
		if stream != nil && (e.Type != stream[i].Type || e.Text != stream[i].Text || !slices.Equal(e.Tokens, stream[i].Tokens)) {
			c.add(Changed, "a client is sent the stored event", fmt.Sprintf("%s %s at version %d", stream[i].Type, quote(stream[i].Text), i+1), "%s %s", e.Type, quote(e.Text))
		}
		tokens = append(tokens, e.Tokens...)
		text.WriteString(e.Text)
	}
	end := o.events[len(o.events)-1]
	if !end.final() && !o.refused {
		c.add(Stuck, "a client is sent the final event", "a final event", "%s", end.Type)
	}
	if end.Type == "job.completed" {
		c.compareText("of the pieces", text.String(), tokens, want)
	} else if n := len(tokens); !strings.HasPrefix(want.Text, text.String()) || n > len(want.Tokens) || !slices.Equal(tokens, want.Tokens[:n]) {
		c.add(Changed, "the pieces so far begin the undisturbed text", quoteDifference(want.Text, text.String()), "%s", quoteDifference(text.String(), want.Text))
	}
}

// checkSnapshots checks the states of a job that a client polled.
func (c *checker) checkSnapshots(o observation, stream []event, want text) {
	var before snapshot
	for _, now := range o.snapshots {
		if now.Version < before.Version {
			c.add(Duplicated, "the version of a job never decreases", fmt.Sprintf("version %d or later", before.Version), "version %d: a reset", now.Version)
		}
		if !strings.HasPrefix(now.Completion, before.Completion) {
			c.add(Changed, "a text only grows", "more than "+quote(before.Completion), "%s: a reset", quote(now.Completion))
		}
		if isFinal(before.State) && now.State != before.State {
			c.add(Duplicated, "a job ends once", before.State, "%s afterwards", now.State)
		}
		before = now
	}
	if stream != nil && before.Version > len(stream) {
		c.add(Lost, "a polled event stays on record", fmt.Sprintf("version %d", before.Version), "%d events", len(stream))
	}
	if len(o.snapshots) == 0 || len(o.events) > 0 {
		return
	}
	if !strings.HasPrefix(want.Text, before.Completion) {
		c.add(Changed, "the polled text begins the undisturbed one", quoteDifference(want.Text, before.Completion), "%s", quoteDifference(before.Completion, want.Text))
	}
	if !isFinal(before.State) && !o.refused {
		c.add(Stuck, "a client sees a final state", "a final state", "%s", before.State)
	}
	if before.State == "completed" {
		if before.Completion != want.Text {
			c.add(Changed, "the polled text is the undisturbed one", quoteDifference(want.Text, before.Completion), "%s", quoteDifference(before.Completion, want.Text))
		}
		if before.FinishReason != want.FinishReason {
			c.add(Changed, "the finish reason is the undisturbed one", want.FinishReason, "%s", before.FinishReason)
		}
	}
}

func isFinal(state string) bool {
	return state == "completed" || state == "failed" || state == "cancelled"
}

// quoteDifference quotes text from shortly before the first byte that differs from other.
func quoteDifference(text, other string) string {
	at := 0
	for at < min(len(text), len(other)) && text[at] == other[at] {
		at++
	}
	from := max(0, at-20)
	return fmt.Sprintf("%s at byte %d of %d", quote(text[from:]), from, len(text))
}

// quote quotes a text. It shortens a long text.
func quote(text string) string {
	const maxBytes = 80
	if len(text) > maxBytes {
		return fmt.Sprintf("%q...", text[:maxBytes])
	}
	return fmt.Sprintf("%q", text)
}
