package gpt2

import "time"

const (
	// promptTokens is the most tokens of sequences with several that a step
	// computes: enough for the kernels to be at their best.
	promptTokens = 128

	// cautious is how many a step may have while nothing is known.
	cautious = 8
)

// A pace says how many tokens of prompts a step may have beside sequences that
// get a token with every step, so that those do not stall: a step may take up to
// twice as long as without, and a quarter of that room is left to chance. It
// learns from the steps how long both take, so it fits any machine, network and
// format of weights.
type pace struct {
	single time.Duration // a step that has one token of each sequence
	prompt time.Duration // what a token of a prompt adds to it
}

// budget returns the most tokens of prompts for a step while some sequences are
// running.
func (p *pace) budget(running int) int {
	switch {
	case running == 0:
		return promptTokens
	case p.single == 0 || p.prompt == 0:
		return cautious
	}
	return int(min(max(3*p.single/(4*p.prompt), 1), promptTokens))
}

// observe learns from a step with so many rows of both kinds.
func (p *pace) observe(singles, prompts int, took time.Duration) {
	switch {
	case prompts == 0 && singles > 0:
		p.single = smooth(p.single, took)
	case prompts >= cautious && singles == 0:
		p.prompt = smooth(p.prompt, took/time.Duration(prompts))
	case prompts > 0 && singles > 0 && p.single > 0:
		added := max(took-p.single, took/8) // a clock may err
		p.prompt = smooth(p.prompt, added/time.Duration(prompts))
	}
}

// smooth follows what is observed without jumping.
func smooth(have, observed time.Duration) time.Duration {
	if have == 0 {
		return max(observed, 1)
	}
	return max(have+(observed-have)/4, 1)
}
