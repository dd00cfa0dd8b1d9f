package gpt2

import (
	"math"
	"time"
)

const (
	// windowSteps is the number of steps in which the speed of a mode is measured.
	windowSteps = 48

	// firstPairs is the number of pairs of windows with which a trial begins.
	firstPairs = 4

	// scoredPairs is the number of pairs over which the score is about the mean. No pair counts
	// for more than clearScore, so that few pairs are enough to find a change.
	scoredPairs, clearScore = 8, 0.1

	// stallSteps is the number of steps that the time between two steps counts for at most. The
	// caller may write to a disk meanwhile, or have no text for a while.
	stallSteps = 8
)

// The modes of a trial.
const (
	cautious = iota // draft tokens must be expected to make texts clearly faster
	eager           // draft tokens need only be expected to make texts faster
)

// A trial finds out how much the expected gain of draft tokens must be. What is expected rests on
// estimates of their costs and chances, and leaves out what it takes to guess. A trial counts
// the tokens by time in two modes, in windows that follow each other. It stays with the faster
// mode, and tries the other one from time to time.
type trial struct {
	mode   int           // mode of the current window
	steps  int           // number of steps in the window
	tokens int           // number of tokens that these steps gave
	took   time.Duration // time of these steps

	better  int        // the faster mode so far
	windows int        // number of windows of it since the other one was tried
	rates   [2]float64 // tokens by time of the last window of each mode
	score   float64    // about the mean logarithm of the ratio between the rates of eager and of cautious
	pairs   int        // number of these ratios
}

// observe adds a step that gave a number of tokens. The parameter period is the time since the
// step before, and usual is that of a step without draft tokens.
func (t *trial) observe(tokens int, period, usual time.Duration) {
	t.steps++
	t.tokens += tokens
	t.took += min(period, stallSteps*usual)
	if t.steps < windowSteps {
		return
	}
	t.rates[t.mode] = float64(t.tokens) / max(t.took, 1).Seconds()
	t.steps, t.tokens, t.took = 0, 0, 0
	if t.mode == t.better {
		t.windows++
		if t.pairs < firstPairs || t.windows >= t.calmWindows() {
			t.mode = 1 - t.better
		}
		return
	}
	t.pairs++
	gain := min(max(-clearScore, math.Log(t.rates[eager]/t.rates[cautious])), clearScore)
	t.score += (gain - t.score) / float64(min(t.pairs, scoredPairs))
	t.better = cautious
	if t.score > 0 {
		t.better = eager
	}
	t.mode, t.windows = t.better, 0
}

// calmWindows returns the number of windows of the better mode after which the other one is
// tried. Draft tokens that do not pay can cost more than their absence.
func (t *trial) calmWindows() int {
	if t.better == cautious {
		return 32
	}
	return 16
}
