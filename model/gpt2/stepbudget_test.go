package gpt2

import (
	"testing"
	"time"
)

// On machines of any speed, a step beside decoding sequences takes at most three times
// as long as a step without prompt tokens. No step has needlessly few prompt tokens.
func TestStepBudgetAdaptsToTheMachine(t *testing.T) {
	for _, c := range []struct{ base, single, prompt time.Duration }{
		{8 * time.Millisecond, 1200 * time.Microsecond, 1200 * time.Microsecond},
		{20 * time.Millisecond, 100 * time.Microsecond, 900 * time.Microsecond},
		{100 * time.Microsecond, 10 * time.Millisecond, 10 * time.Millisecond},
		{3 * time.Microsecond, time.Microsecond, time.Microsecond},
	} {
		for _, decoding := range []int{1, 7, 15} {
			var b stepBudget
			usual := c.base + time.Duration(decoding)*c.single
			for range 3 {
				b.observe(decoding, 0, usual)
			}
			for step := range 60 {
				n := b.tokens(decoding)
				took := usual + time.Duration(n)*c.prompt
				if most := max(3*usual, usual+unmeasuredTokens*c.prompt); took > most {
					t.Errorf("%v beside %d: step %d has %d tokens and takes %v, usual is %v", c, decoding, step, n, took, usual)
				}
				if step > 30 && n < maxPromptTokens && took < usual*7/4*9/10-c.prompt {
					t.Errorf("%v beside %d: step %d has only %d tokens", c, decoding, step, n)
				}
				b.observe(decoding, n, took)
			}
		}
	}
}

func TestStepBudgetIsSmallUntilMeasured(t *testing.T) {
	var b stepBudget
	if n := b.tokens(0); n != maxPromptTokens {
		t.Errorf("%d tokens with nothing beside", n)
	}
	if n := b.tokens(3); n != unmeasuredTokens {
		t.Errorf("%d tokens before any step", n)
	}
	b.observe(3, 5, time.Second)
	b.observe(0, 0, time.Second)
	if n := b.tokens(3); n != unmeasuredTokens {
		t.Errorf("%d tokens before a step without a prompt", n)
	}
	b.observe(0, 128, 128*time.Millisecond)
	b.observe(3, 0, 20*time.Millisecond)
	if n := b.tokens(3); n != 15 {
		t.Errorf("%d tokens of 1 ms beside steps of 20 ms", n)
	}
	for range 20 {
		b.observe(3, 20, time.Nanosecond) // a clock that was set back
	}
	if n := b.tokens(3); n != maxPromptTokens {
		t.Errorf("%d tokens that take no time", n)
	}
}
