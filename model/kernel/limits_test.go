package kernel

import (
	"testing"
	"testing/synctest"
	"time"
)

// The test accepts any rate that a slow or busy machine may have.
func TestMeasureGivesPlausibleRates(t *testing.T) {
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

func TestLoopsCountTheirOperations(t *testing.T) {
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

// The rates must be exact, because the clock of a synctest bubble measures them.
func TestRateAddsUpAllThreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		work := func() int { time.Sleep(time.Millisecond); return 1e6 } // a rate of 1e9 per second
		one, four := rate(1, 50*time.Millisecond, work), rate(4, 50*time.Millisecond, work)
		if one != 1 || four != 4 {
			t.Errorf("rate is %g with one thread, %g with four, want 1 and 4", one, four)
		}
	})
}

func TestReadCountsTheBytesOfPanels(t *testing.T) {
	for _, f := range []Format{F32, F16, Int8} {
		const inputs, outputs = 70, 50
		m := NewMatrix(f, inputs, outputs)
		if first, rest := m.Read(0, 1), m.Read(1, m.Panels()); first*m.Panels() != m.Bytes() || first+rest != m.Bytes() {
			t.Errorf("%v: %d and %d of %d bytes", f, first, rest, m.Bytes())
		}
	}
}
