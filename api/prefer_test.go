package api

import (
	"testing"
	"time"
)

func TestPrefer(t *testing.T) {
	for _, c := range []struct {
		header  string
		byself  time.Duration
		wait    time.Duration
		applied string
	}{
		{"", 30 * time.Second, 30 * time.Second, ""},
		{"respond-async", 30 * time.Second, 0, "respond-async"},
		{"Respond-Async, wait=10", 30 * time.Second, 0, "respond-async"},
		{"wait=10", 0, 10 * time.Second, "wait=10"},
		{`wait="10"; x=y, foo`, 0, 10 * time.Second, "wait=10"},
		{" WAIT = 0 ", 30 * time.Second, 0, "wait=0"},
		{"wait=100000", 0, maxWait, "wait=60"},
		{"wait=99999999999999999999", 7, 7, ""},
		{"wait=-1", 7, 7, ""},
		{"wait", 7, 7, ""},
		{"handling=lenient", 7, 7, ""},
	} {
		if wait, applied := prefer(c.header, c.byself); wait != c.wait || applied != c.applied {
			t.Errorf("%q: %v %q", c.header, wait, applied)
		}
	}
}

func TestAccepts(t *testing.T) {
	for header, want := range map[string]bool{
		"":                              false,
		"*/*":                           false,
		"application/json":              false,
		"text/event-stream":             true,
		"Text/Event-Stream; q=1":        true,
		"text/html, text/event-stream ": true,
		"text/event-streams":            false,
	} {
		if got := accepts(header, "text/event-stream"); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}
