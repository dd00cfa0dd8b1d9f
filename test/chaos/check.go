package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Harm is the damage that a broken promise does.
type Harm string

// The kinds of harm.
const (
	Lost       Harm = "lost"       // something that was accepted, or on record, is not there
	Changed    Harm = "changed"    // something differs from the undisturbed run
	Duplicated Harm = "duplicated" // something is there twice, or came back
	Stuck      Harm = "stuck"      // something waits and will never be done
)

// Violation is a promise that was not kept.
type Violation struct {
	Harm     Harm   `json:"harm"`
	Job      string `json:"job,omitempty"`
	Rule     string `json:"rule"`
	Expected string `json:"expected"`
	Seen     string `json:"seen"`
}

// String is the violation on one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s, job %s: %s: expected %s, seen %s", v.Harm, cmp.Or(v.Job, "-"), v.Rule, v.Expected, v.Seen)
}

// event is an event of a job, as it is on record or as a client received it.
type event struct {
	Version      int
	Type         string
	Attempt      int // of job.started and job.failed
	FromToken    int `json:"from_token"` // of job.started
	Tokens       []int
	Text         string
	FinishReason string `json:"finish_reason"`
	Final        bool   // of job.failed

	writer string // the process that put it on record, if known
}

// final reports whether nothing may follow the event.
func (e event) final() bool {
	return e.Type == "job.completed" || e.Type == "job.cancelled" || e.Type == "job.failed" && e.Final
}

// snapshot is a job resource as a client polled it.
type snapshot struct {
	Version      int
	State        string
	Completion   string
	FinishReason string `json:"finish_reason"`
}

// observation is all that one client has seen of one job, in order.
type observation struct {
	request   int
	job       string
	mode      string
	snapshots []snapshot
	events    []event
}

// faults collects violations of one job.
type faults struct {
	job   string
	found []Violation
}

func (f *faults) add(harm Harm, rule, expected, seen string, args ...any) {
	f.found = append(f.found, Violation{harm, f.job, rule, expected, fmt.Sprintf(seen, args...)})
}

// checkStream compares the events on record of a job with the text that the job
// must have.
func checkStream(job string, stream []event, want text) []Violation {
	f := &faults{job: job}
	attempts, writer, finals := 0, "", 0
	var tokens []int
	var text strings.Builder
	for i, e := range stream {
		if e.Version != i+1 {
			f.add(Lost, "versions are contiguous", fmt.Sprintf("version %d", i+1), "version %d", e.Version)
		}
		if (e.Type == "job.accepted") != (i == 0) {
			f.add(Duplicated, "a stream begins with job.accepted, once", "that", "%s at version %d", e.Type, e.Version)
		}
		if finals > 0 {
			f.add(Duplicated, "nothing follows the end", "nothing", "%s at version %d", e.Type, e.Version)
		}
		switch e.Type {
		case "job.started":
			if e.Attempt != attempts+1 {
				f.add(Duplicated, "attempts are counted", fmt.Sprintf("attempt %d", attempts+1), "attempt %d at version %d", e.Attempt, e.Version)
			}
			if e.FromToken != len(tokens) {
				f.add(Changed, "an attempt goes on at the next token", fmt.Sprintf("from token %d", len(tokens)), "from token %d at version %d", e.FromToken, e.Version)
			}
			attempts, writer = attempts+1, e.writer
		case "job.advanced", "job.completed", "job.failed":
			if attempts == 0 {
				f.add(Lost, "only a started job advances", "job.started", "%s at version %d", e.Type, e.Version)
			}
			// A later attempt has started: a worker that had the job before is a zombie.
			if e.writer != writer {
				f.add(Duplicated, "only the latest attempt is heard", "events of "+writer, "%s of %s at version %d", e.Type, e.writer, e.Version)
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
		f.add(Stuck, "a job ends", "a final event", "none among %d events", len(stream))
		return f.found
	case 1:
	default:
		f.add(Duplicated, "a job ends once", "one final event", "%d among %d events", finals, len(stream))
	}
	if end := stream[len(stream)-1]; end.Type != "job.completed" {
		f.add(Changed, "a job is completed", "job.completed", "%s", end.Type)
	} else if end.FinishReason != want.FinishReason {
		f.add(Changed, "the text ends for the same reason", want.FinishReason, "%s", end.FinishReason)
	}
	f.compare("on record", text.String(), tokens, want)
	return f.found
}

func (f *faults) compare(where, text string, tokens []int, want text) {
	if text != want.Text {
		f.add(Changed, "the text "+where+" is the undisturbed one", differ(want.Text, text), "%s", differ(text, want.Text))
	}
	if !slices.Equal(tokens, want.Tokens) {
		f.add(Changed, "the tokens "+where+" are the undisturbed ones", fmt.Sprint(want.Tokens), "%v", tokens)
	}
}

// checkClient compares what a client has seen of a job with its stream and its text.
func checkClient(o observation, stream []event, want text) []Violation {
	f := &faults{job: o.job}
	f.pieces(o, stream, want)
	f.checkSnapshots(o, want)
	if len(o.events)+len(o.snapshots) == 0 {
		f.add(Lost, "a client sees its job", "anything", "nothing, as a %s client", o.mode)
	}
	return f.found
}

// pieces checks a text that came in pieces.
func (f *faults) pieces(o observation, stream []event, want text) {
	if len(o.events) == 0 {
		return
	}
	var tokens []int
	var text strings.Builder
	for i, e := range o.events {
		switch before := i; {
		case e.Version > before+1:
			f.add(Lost, "a client is sent every event", fmt.Sprintf("version %d", before+1), "version %d: a gap", e.Version)
			return
		case e.Version == before:
			f.add(Duplicated, "a client is sent no event twice", fmt.Sprintf("version %d", before+1), "version %d: a repeat", e.Version)
			return
		case e.Version < before:
			f.add(Duplicated, "a client is never sent back", fmt.Sprintf("version %d", before+1), "version %d: a reset", e.Version)
			return
		}
		if i < len(stream) && (e.Type != stream[i].Type || e.Text != stream[i].Text || !slices.Equal(e.Tokens, stream[i].Tokens)) {
			f.add(Changed, "a client is sent what is on record", fmt.Sprintf("%s %s at version %d", stream[i].Type, quote(stream[i].Text), i+1), "%s %s", e.Type, quote(e.Text))
		}
		tokens = append(tokens, e.Tokens...)
		text.WriteString(e.Text)
	}
	end := o.events[len(o.events)-1]
	if !end.final() {
		f.add(Stuck, "a client is sent the end", "a final event", "%s", end.Type)
	}
	if end.Type == "job.completed" {
		f.compare("of the pieces", text.String(), tokens, want)
	}
}

// checkSnapshots checks a text that was polled as it grew.
func (f *faults) checkSnapshots(o observation, want text) {
	var before snapshot
	for _, now := range o.snapshots {
		if now.Version < before.Version {
			f.add(Duplicated, "a job never goes back", fmt.Sprintf("version %d or later", before.Version), "version %d: a reset", now.Version)
		}
		if !strings.HasPrefix(now.Completion, before.Completion) {
			f.add(Changed, "a text only grows", "more than "+quote(before.Completion), "%s: a reset", quote(now.Completion))
		}
		if over(before.State) && now.State != before.State {
			f.add(Duplicated, "a job ends once", before.State, "%s afterwards", now.State)
		}
		before = now
	}
	if len(o.snapshots) == 0 || len(o.events) > 0 {
		return
	}
	if !over(before.State) {
		f.add(Stuck, "a client sees the end", "a final state", "%s", before.State)
	}
	if before.State == "completed" {
		if before.Completion != want.Text {
			f.add(Changed, "the text that was polled is the undisturbed one", differ(want.Text, before.Completion), "%s", differ(before.Completion, want.Text))
		}
		if before.FinishReason != want.FinishReason {
			f.add(Changed, "the text ends for the same reason", want.FinishReason, "%s", before.FinishReason)
		}
	}
}

// over reports whether a state is final.
func over(state string) bool {
	return state == "completed" || state == "failed" || state == "cancelled"
}

// differ quotes a text around the first byte that differs from another one.
func differ(text, other string) string {
	at := 0
	for at < min(len(text), len(other)) && text[at] == other[at] {
		at++
	}
	from := max(0, at-20)
	return fmt.Sprintf("%s at byte %d of %d", quote(text[from:]), from, len(text))
}

// quote quotes a text, the beginning of a long one.
func quote(text string) string {
	const most = 80
	if len(text) > most {
		return fmt.Sprintf("%q...", text[:most])
	}
	return fmt.Sprintf("%q", text)
}
