package console

import (
	"bytes"
	"strings"
	"testing"
)

func TestProgressIsABarOnATerminal(t *testing.T) {
	var w bytes.Buffer
	p := NewProgress(&w, "pocket")
	p.terminal = true
	p.Show(0, 0)
	for _, done := range []int64{0, 10e6, 50e6, 5e6, 100e6} {
		p.Show(done, 100e6)
		if done == 50e6 {
			p.Note("starting again")
		}
	}
	p.End()
	if got := w.String(); !strings.Contains(got, "pocket") || !strings.Contains(got, "10%") || !strings.Contains(got, "100%") || !strings.Contains(got, "\rstarting again\n") || !strings.HasSuffix(got, "\n") {
		t.Errorf("%q", got)
	}
}

func TestCounterWritesLinesElsewhere(t *testing.T) {
	var w bytes.Buffer
	p := NewCounter(&w, "replay", "events")
	for done := range int64(31) {
		p.Show(done, 30)
	}
	p.Above()
	p.End()
	lines := strings.Split(strings.TrimSpace(w.String()), "\n")
	if len(lines) != 10 || lines[0] != "replay: 3 of 30 events (10 %)" || lines[9] != "replay: 30 of 30 events (100 %)" {
		t.Errorf("%q", lines)
	}
}
