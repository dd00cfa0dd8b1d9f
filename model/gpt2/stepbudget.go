package gpt2

import "time"

const (
	// maxPromptTokens is the largest number of prompt tokens in a step. With this
	// number, the kernels process the most tokens per second.
	maxPromptTokens = 128

	// minPromptTokens is the smallest number of prompt tokens in a step that has any.
	// It is also the limit until the first steps have been measured. With fewer tokens, a
	// step would read all weights for very little work.
	minPromptTokens = 8

	// measureEvery is the number of steps with prompt tokens after which the engine makes
	// a step without prompt tokens, to measure its duration, even if prompts are waiting.
	measureEvery = 8
)

// A stepBudget limits the number of prompt tokens in a step, so that decoding sequences
// in the same step do not stall. A step with prompt tokens should take at most twice as
// long as a step without them. Only a step with minPromptTokens prompt tokens may take
// longer. The durations are measured, so the budget fits any machine, network and format.
//
// The time of a prompt token is computed as the difference from the duration of a step
// without prompt tokens. If that duration is outdated, the budget can shrink to the
// minimum and stay there while prompts wait. Therefore, some steps are made without
// prompt tokens even while prompts wait.
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
