package gpt2

import "time"

const (
	// maxPromptTokens is the largest number of prompt tokens in a step. With so
	// many, the kernels reach their best rate.
	maxPromptTokens = 128

	// unmeasuredTokens is the budget until steps have been measured.
	unmeasuredTokens = 8
)

// A stepBudget says how many prompt tokens a step may compute beside sequences
// that decode, so that those do not stall. A step may take 1.75 times as long as
// one without prompt tokens, which leaves a margin below twice as long. The
// times are measured, so the budget fits any machine, network and format.
type stepBudget struct {
	decodeStep  time.Duration // of a step with one token for each sequence
	promptToken time.Duration // that a prompt token adds to a step
}

// tokens returns the largest number of prompt tokens for the next step, beside
// the given number of decoding sequences.
func (b *stepBudget) tokens(decoding int) int {
	switch {
	case decoding == 0:
		return maxPromptTokens
	case b.decodeStep == 0 || b.promptToken == 0:
		return unmeasuredTokens
	}
	return int(min(max(3*b.decodeStep/(4*b.promptToken), 1), maxPromptTokens))
}

// observe updates the budget with the duration of a step that computed the given
// numbers of decoded and prompt tokens.
func (b *stepBudget) observe(decoded, prompt int, took time.Duration) {
	switch {
	case prompt == 0 && decoded > 0:
		b.decodeStep = smooth(b.decodeStep, took)
	case prompt >= unmeasuredTokens && decoded == 0:
		b.promptToken = smooth(b.promptToken, took/time.Duration(prompt))
	case prompt > 0 && decoded > 0 && b.decodeStep > 0:
		added := max(took-b.decodeStep, took/8) // clocks are imprecise
		b.promptToken = smooth(b.promptToken, added/time.Duration(prompt))
	}
}

// smooth returns an exponential moving average, at least 1 ns.
func smooth(average, observed time.Duration) time.Duration {
	if average == 0 {
		return max(observed, 1)
	}
	return max(average+(observed-average)/4, 1)
}
