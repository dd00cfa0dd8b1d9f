package gpt2

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// alwaysDraft makes the trials of an engine stay eager.
func (e *Engine) alwaysDraft() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.speculation.trials {
		e.speculation.trials[i] = trial{mode: eager, better: eager, pairs: firstPairs, windows: math.MinInt}
	}
}

// TestTrialFindsTheFasterMode runs steps whose draft tokens make texts faster or slower by a known
// factor, which changes halfway. The times vary, and some steps are stalled. When it has had time to
// find the factor, a trial must be nearly as fast as the better mode alone, and not slower than the cautious one.
func TestTrialFindsTheFasterMode(t *testing.T) {
	t.Parallel()
	const usual, steps = 100 * time.Microsecond, 40_000
	for _, gains := range [][2]float64{{0.9, 0.9}, {0.97, 1.5}, {1.1, 0.8}, {2, 0.9}, {0.8, 2}} {
		rnd := rand.New(rand.NewPCG(uint64(100*gains[0]), 1))
		var tr trial
		for half, gain := range gains {
			var tokens, took float64 // took counts usual steps
			for i := range steps {
				if i == steps/2 {
					tokens, took = 0, 0
				}
				n, period := 1, usual.Seconds()*(0.8+0.4*rnd.Float64())
				if tr.mode == eager {
					n = 1 + rnd.IntN(3) // 2 on average
					period *= 2 / gain
				}
				tokens += float64(n)
				took += period / usual.Seconds()
				if rnd.IntN(200) == 0 { // the text waits for its reader, in either mode
					period += 0.1
				}
				tr.observe(n, time.Duration(period*float64(time.Second)), usual)
			}
			speed := tokens / took
			if speed < 0.98 || speed < 0.96*gain {
				t.Errorf("gains %v: half %d has %.3f of the speed of the cautious mode, want 0.98 and %.3f", gains, half+1, speed, 0.96*gain)
			}
		}
	}
}
