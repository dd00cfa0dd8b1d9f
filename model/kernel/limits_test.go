package kernel

import (
	"testing"
	"time"
)

// The numbers themselves are the machine's affair; a slow or busy one still
// does more than these, and none does more than the others.
func TestMeasure(t *testing.T) {
	start := time.Now()
	l := Measure(2, 50*time.Millisecond)
	t.Logf("%+v in %v", l, time.Since(start))
	for name, c := range map[string]struct{ got, least float64 }{
		"GFLOP/s of FMA": {l.FMAGFLOP, 0.1},
		"GOP/s of int8":  {l.Int8GOP, 0.1},
	} {
		if !(c.got > c.least && c.got < 1e5) {
			t.Errorf("%s: %g", name, c.got)
		}
	}
}

// Every loop says how much it did.
func TestLoops(t *testing.T) {
	for name, l := range map[string]loops{"here": newLoops(), "portable": portableLoops()} {
		for what, f := range map[string]func() int{"fma": l.fma, "int8": l.int8} {
			start := time.Now()
			if n := f(); n <= 0 {
				t.Errorf("%s, %s: %d operations", name, what, n)
			}
			t.Logf("%s, %s: %v", name, what, time.Since(start))
		}
	}
}

func TestRateCountsAllThreads(t *testing.T) {
	// Work that takes a time and not a processor is done by all at once.
	wait := func() int { time.Sleep(time.Millisecond); return 1e6 }
	one, four := rate(1, 50*time.Millisecond, wait), rate(4, 50*time.Millisecond, wait)
	if !(one > 0 && one <= 1 && four > 1.5*one && four <= 4) {
		t.Errorf("%g by one thread, %g by four", one, four)
	}
}

func TestReadReadsPanels(t *testing.T) {
	for _, f := range []Format{F32, F16, Int8} {
		const inputs, outputs = 70, 50
		m := NewMatrix(f, inputs, outputs)
		if first, rest := m.Read(0, 1), m.Read(1, m.Panels()); first*m.Panels() != m.Bytes() || first+rest != m.Bytes() {
			t.Errorf("%v: %d and %d of %d bytes", f, first, rest, m.Bytes())
		}
	}
}
