package main

import (
	"slices"
	"strings"
	"testing"
)

var wanted = text{Text: "one two three", Tokens: []int{1, 2, 3, 4, 5}, FinishReason: "length"}

// recorded returns a correct stream of events. In this stream the first worker was
// killed, and the engine of the second worker failed once.
func recorded() []event {
	return []event{
		{Version: 1, Type: "job.accepted", writer: "api-1.1"},
		{Version: 2, Type: "job.started", Attempt: 1, Kernel: "a/1", writer: "worker-1.1"},
		{Version: 3, Type: "job.advanced", Tokens: []int{1, 2}, Text: "one", writer: "worker-1.1"},
		{Version: 4, Type: "job.started", Attempt: 2, Kernel: "a/1", FromToken: 2, writer: "worker-2.1"},
		{Version: 5, Type: "job.failed", Attempt: 2, writer: "worker-2.1"},
		{Version: 6, Type: "job.started", Attempt: 3, Kernel: "a/1", FromToken: 2, writer: "worker-2.1"},
		{Version: 7, Type: "job.advanced", Tokens: []int{3, 4}, Text: " two", writer: "worker-2.1"},
		{Version: 8, Type: "job.advanced", Tokens: []int{5}, Text: " three", writer: "worker-2.1"},
		{Version: 9, Type: "job.completed", FinishReason: "length", writer: "worker-2.1"},
	}
}

// streamedAndPolled returns the observation of a client that read the events of recorded
// over two connections. The client also polled the job.
func streamedAndPolled() observation {
	return observation{job: "j", mode: "sse", events: recorded(), snapshots: polled().snapshots}
}

// polled returns the observation of a client that only polled the job.
func polled() observation {
	return observation{job: "j", mode: "poll", snapshots: []snapshot{
		{Version: 1, State: "queued"},
		{Version: 3, State: "running", Completion: "one"},
		{Version: 3, State: "running", Completion: "one"},
		{Version: 5, State: "queued", Completion: "one"},
		{Version: 9, State: "completed", Completion: "one two three", FinishReason: "length"},
	}}
}

// found returns the violations, one per line.
func found(violations []Violation) string {
	var lines []string
	for _, v := range violations {
		lines = append(lines, v.String())
	}
	return strings.Join(lines, "\n")
}

func TestCheckersAcceptAnIntactJob(t *testing.T) {
	if got := checkStream("j", recorded(), wanted); len(got) > 0 {
		t.Errorf("on record:\n%s", found(got))
	}
	for _, o := range []observation{streamedAndPolled(), polled()} {
		if got := checkClient(o, recorded(), wanted); len(got) > 0 {
			t.Errorf("%s:\n%s", o.mode, found(got))
		}
	}
}

// renumber makes the versions contiguous after an insertion or a deletion.
func renumber(stream []event) []event {
	for i := range stream {
		stream[i].Version = i + 1
	}
	return stream
}

func TestTamperedStreamsAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		tamper func([]event) []event
		rule   string
	}{
		"a gap":                      {func(s []event) []event { return slices.Delete(s, 4, 5) }, "versions are contiguous"},
		"a version twice":            {func(s []event) []event { s[7].Version = 7; return s }, "versions are contiguous"},
		"a lost event":               {func(s []event) []event { return renumber(slices.Delete(s, 6, 7)) }, "the text on record"},
		"a lost token":               {func(s []event) []event { s[6].Tokens = []int{3}; return s }, "the tokens on record"},
		"another token":              {func(s []event) []event { s[7].Tokens = []int{6}; return s }, "the tokens on record"},
		"another text":               {func(s []event) []event { s[7].Text = " tree"; return s }, "the text on record"},
		"tokens repeated":            {func(s []event) []event { return renumber(slices.Insert(s, 7, s[6])) }, "the tokens on record"},
		"a start from the beginning": {func(s []event) []event { s[3].FromToken = 0; return s }, "continues at the next token"},
		"an attempt twice":           {func(s []event) []event { s[5].Attempt = 2; return s }, "attempts are counted"},
		"a zombie":                   {func(s []event) []event { s[6].writer = "worker-1.1"; return s }, "only the latest attempt writes"},
		"a zombie's end":             {func(s []event) []event { s[8].writer = "worker-1.1"; return s }, "only the latest attempt writes"},
		"two ends":                   {func(s []event) []event { return renumber(append(s, s[8])) }, "a job ends once"},
		"an event after the end":     {func(s []event) []event { return renumber(append(s, s[7])) }, "no event follows the final one"},
		"no end":                     {func(s []event) []event { return s[:8] }, "a job ends"},
		"nothing":                    {func([]event) []event { return nil }, "a job ends"},
		"wrong finish reason":        {func(s []event) []event { s[8].FinishReason = "stop"; return s }, "the finish reason is the undisturbed one"},
		"a failure": {func(s []event) []event {
			s[8] = event{Version: 9, Type: "job.failed", Final: true, writer: "worker-2.1"}
			return s
		}, "a job is completed"},
		"a cancellation": {func(s []event) []event { s[8] = event{Version: 9, Type: "job.cancelled"}; return s }, "a job is completed"},
		"accepted twice": {func(s []event) []event { return renumber(slices.Insert(s, 1, s[0])) }, "begins with its only job.accepted"},
		"never started":  {func(s []event) []event { return renumber(slices.Delete(s, 1, 2)) }, "only a started job advances"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := found(checkStream("j", c.tamper(recorded()), wanted)); !strings.Contains(got, c.rule) {
				t.Errorf("not found: %s; found:\n%s", c.rule, got)
			}
		})
	}
}

func TestTamperedObservationsAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		from   observation
		tamper func(*observation)
		rule   string
	}{
		"a gap":                   {streamedAndPolled(), func(o *observation) { o.events = slices.Delete(o.events, 4, 5) }, "sent every event"},
		"a repeated piece":        {streamedAndPolled(), func(o *observation) { o.events = slices.Insert(o.events, 3, o.events[2]) }, "no event twice"},
		"a reset":                 {streamedAndPolled(), func(o *observation) { o.events = append(o.events[:6:6], o.events...) }, "sent no earlier event"},
		"a lost token":            {streamedAndPolled(), func(o *observation) { o.events[6].Tokens = []int{3} }, "the tokens of the pieces"},
		"another text":            {streamedAndPolled(), func(o *observation) { o.events[6].Text = " too" }, "the text of the pieces"},
		"other than stored":       {streamedAndPolled(), func(o *observation) { o.events[6].Text, o.events[7].Text = " two three", "" }, "sent the stored event"},
		"no end":                  {streamedAndPolled(), func(o *observation) { o.events = o.events[:8] }, "sent the final event"},
		"a text that shrinks":     {polled(), func(o *observation) { o.snapshots[3].Completion = "" }, "a text only grows"},
		"a text that changes":     {polled(), func(o *observation) { o.snapshots[4].Completion = "One two three" }, "a text only grows"},
		"a lost end":              {polled(), func(o *observation) { o.snapshots[4].Completion = "one two" }, "the polled text"},
		"an earlier version":      {polled(), func(o *observation) { o.snapshots[3].Version = 2 }, "the version of a job never decreases"},
		"an end that changes":     {polled(), func(o *observation) { o.snapshots[1].State = "completed" }, "a job ends once"},
		"never an end":            {polled(), func(o *observation) { o.snapshots = o.snapshots[:4] }, "a client sees a final state"},
		"wrong finish reason":     {polled(), func(o *observation) { o.snapshots[4].FinishReason = "stop" }, "the finish reason is the undisturbed one"},
		"an intact job refused":   {polled(), func(o *observation) { o.snapshots, o.refused = o.snapshots[:4], true }, "only a damaged job is refused"},
		"a wrong start of a text": {polled(), func(o *observation) { o.snapshots = []snapshot{{Version: 3, State: "running", Completion: "two"}} }, "begins the undisturbed one"},
		"a wrong piece":           {streamedAndPolled(), func(o *observation) { o.events = o.events[:3]; o.events[2].Text = "two" }, "the pieces so far"},
		"a wrong token":           {streamedAndPolled(), func(o *observation) { o.events = o.events[:3]; o.events[2].Tokens = []int{9} }, "the pieces so far"},
		"nothing":                 {polled(), func(o *observation) { o.snapshots = nil }, "a client sees its job"},
	} {
		t.Run(name, func(t *testing.T) {
			c.tamper(&c.from)
			if got := found(checkClient(c.from, recorded(), wanted)); !strings.Contains(got, c.rule) {
				t.Errorf("not found: %s; found:\n%s", c.rule, got)
			}
		})
	}
}
