package api

import (
	"net/http"
	"testing"
	"time"
)

func TestPreferDecidesTheWait(t *testing.T) {
	const unsaid = 30 * time.Second
	for _, c := range []struct {
		header string
		want   preference
		on200  string // the expected Preference-Applied of an answer with the text
		on202  string // the expected Preference-Applied of an answer without the text
	}{
		{"", preference{wait: unsaid}, "", ""},
		{"respond-async", preference{async: true}, "", "respond-async"},
		{"Respond-Async, wait=10", preference{10 * time.Second, true, true}, "wait=10", "respond-async, wait=10"},
		{"wait=10, respond-async", preference{10 * time.Second, true, true}, "wait=10", "respond-async, wait=10"},
		{"wait=10", preference{10 * time.Second, true, false}, "wait=10", "wait=10"},
		{`wait="10"; x=y, foo`, preference{10 * time.Second, true, false}, "wait=10", "wait=10"},
		{" WAIT = 0 ", preference{0, true, false}, "wait=0", "wait=0"},
		{"wait=1, wait=2", preference{time.Second, true, false}, "wait=1", "wait=1"},
		{"wait=100000", preference{maxWait, true, false}, "wait=60", "wait=60"},
		{"wait=99999999999999999999", preference{wait: unsaid}, "", ""},
		{"wait=-1", preference{wait: unsaid}, "", ""},
		{"wait", preference{wait: unsaid}, "", ""},
		{"handling=lenient", preference{wait: unsaid}, "", ""},
	} {
		got := prefer(c.header, unsaid)
		if got != c.want || got.applied(http.StatusOK) != c.on200 || got.applied(http.StatusAccepted) != c.on202 {
			t.Errorf("%q: %+v, %q, %q", c.header, got, got.applied(http.StatusOK), got.applied(http.StatusAccepted))
		}
	}
}

func TestOnlyItsMediaTypeAcceptsAStream(t *testing.T) {
	for header, want := range map[string]bool{
		"":                              false,
		"*/*":                           false,
		"application/json":              false,
		"text/event-stream":             true,
		"Text/Event-Stream; q=1":        true,
		"text/html, text/event-stream ": true,
		"text/event-streams":            false,
		"text/event-stream;q=0":         false,
		"text/event-stream; Q=0.000":    false,
		"text/event-stream; q = 0":      false,
		"text/event-stream;v=1;q=0":     false,
		"text/event-stream;q=0.001":     true,
		"*/*, text/event-stream;q=0":    false,
	} {
		if got := accepts(header, "text/event-stream"); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}
