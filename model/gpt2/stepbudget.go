package gpt2

import "time"

const (
	// maxPromptTokens is the largest number of prompt tokens in a step. With this
	// number, the kernels reach their best rate.
	maxPromptTokens = 128

	// minPromptTokens is the smallest number of prompt tokens in a step that has any.
	// It is also the budget until steps have been measured. With fewer tokens, a step
	// would read all weights for very little work.
	minPromptTokens = 8

	// measureEvery is the number of steps with prompt tokens after which a step without
	// prompt tokens is measured.
	measureEvery = 8
)

// A stepBudget limits the number of prompt tokens in a step, so that decoding sequences
// in the same step do not stall. A step with prompt tokens may take twice as long as a
// step without them. It may have minPromptTokens, even if that takes longer. The times
// are measured, so the budget fits any machine, network and format.
//
// The time of a prompt token is known only as the difference from a step without prompt
// tokens. If the time of that step is outdated, the budget can become as small as
// possible and stay so while prompts wait. Therefore, steps without prompt tokens are
// measured repeatedly while prompts wait.
type stepBudget struct {
	decodeStep  time.Duration // duration of a step with one token for each sequence
	promptToken time.Duration // time that a prompt token adds to a step
	since       int           // number of steps since the last step without prompt tokens
}

// tokens returns the largest number of prompt tokens for the next step. decoding is the
// number of decoding sequences, and ready is the number of those with a token in that
// step. tokens returns 0 only if ready is not 0, so no step is empty.
func (b *stepBudget) tokens(decoding, ready int) int {
	switch {
	case decoding == 0:
		return maxPromptTokens
	case ready > 0 && b.since >= measureEvery:
		return 0
	case b.decodeStep == 0 || b.promptToken == 0:
		return minPromptTokens
	}
	return int(min(max(b.decodeStep/b.promptToken, minPromptTokens), maxPromptTokens))
}

// observe updates the budget with the duration of a step that computed the given
// numbers of decoded and prompt tokens.
func (b *stepBudget) observe(decoded, prompt int, took time.Duration) {
	b.since++
	if prompt == 0 {
		b.since = 0
	}
	switch {
	case prompt == 0 && decoded > 0:
		b.decodeStep = smooth(b.decodeStep, took, 2)
	case prompt >= minPromptTokens && decoded == 0:
		b.promptToken = smooth(b.promptToken, took/time.Duration(prompt), 4)
	case prompt > 0 && decoded > 0 && b.decodeStep > 0:
		added := max(took-b.decodeStep, took/8) // at least an eighth of the step, because clocks are imprecise
		b.promptToken = smooth(b.promptToken, added/time.Duration(prompt), 4)
	}
}

// smooth returns an exponential moving average, at least 1 ns. The weight of the newest
// observation is 1/parts.
func smooth(average, observed, parts time.Duration) time.Duration {
	if average == 0 {
		return max(observed, 1)
	}
	return max(average+(observed-average)/parts, 1)
}
