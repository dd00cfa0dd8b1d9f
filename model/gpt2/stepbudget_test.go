package gpt2

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestStepBudgetAdaptsToTheMachine simulates machines of several speeds. With prompt
// tokens, a step with decoding sequences must take at most three times as long as
// without. It may take longer only with the smallest number of prompt tokens. No step may
// have fewer prompt tokens than the time allows.
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
				n := b.tokens(decoding, decoding)
				took := usual + time.Duration(n)*c.prompt
				if most := max(3*usual, usual+minPromptTokens*c.prompt); took > most {
					t.Errorf("%v beside %d: step %d has %d tokens and takes %v, usual is %v", c, decoding, step, n, took, usual)
				}
				if step > 30 && n > 0 && n < maxPromptTokens && took < usual*2*9/10-c.prompt {
					t.Errorf("%v beside %d: step %d has only %d tokens", c, decoding, step, n)
				}
				b.observe(decoding, n, took)
			}
		}
	}
}

func TestStepBudgetIsSmallUntilMeasured(t *testing.T) {
	var b stepBudget
	if n := b.tokens(0, 0); n != maxPromptTokens {
		t.Errorf("%d tokens with nothing beside", n)
	}
	if n := b.tokens(3, 3); n != minPromptTokens {
		t.Errorf("%d tokens before any step", n)
	}
	b.observe(3, 5, time.Second)
	b.observe(0, 0, time.Second)
	if n := b.tokens(3, 3); n != minPromptTokens {
		t.Errorf("%d tokens before a step without a prompt", n)
	}
	b.observe(0, 128, 128*time.Millisecond)
	b.observe(3, 0, 20*time.Millisecond)
	if n := b.tokens(3, 3); n != 20 {
		t.Errorf("%d tokens of 1 ms beside steps of 20 ms", n)
	}
	for range 20 {
		b.observe(3, 20, time.Nanosecond) // a duration that is too short, as after a change of the clock
	}
	if n := b.tokens(3, 0); n != maxPromptTokens {
		t.Errorf("%d tokens that take no time", n)
	}
}

func TestStepWithoutPromptTokensIsNotEmpty(t *testing.T) {
	var b stepBudget
	b.observe(3, 0, 20*time.Millisecond)
	for range measureEvery {
		if n := b.tokens(3, 3); n == 0 {
			t.Fatal("a step without prompt tokens comes too early")
		}
		b.observe(3, 8, 28*time.Millisecond)
	}
	if n := b.tokens(3, 0); n == 0 {
		t.Error("the step would be empty")
	}
	if n := b.tokens(3, 1); n != 0 {
		t.Errorf("%d prompt tokens, want a step without them", n)
	}
}

// TestStepBudgetForgetsAnOutdatedStep changes the duration of a step while prompts wait.
// In practice, more sequences may decode, or other programs may use the memory. The
// budget must follow the new duration.
func TestStepBudgetForgetsAnOutdatedStep(t *testing.T) {
	for _, c := range []struct {
		name            string
		was, is, prompt time.Duration
	}{
		{"int8, 1 stream becomes 7", 4500 * time.Microsecond, 8300 * time.Microsecond, 480 * time.Microsecond},
		{"f16, 1 stream becomes 7", 9900 * time.Microsecond, 15000 * time.Microsecond, 1200 * time.Microsecond},
		{"memory becomes slower", 6000 * time.Microsecond, 9000 * time.Microsecond, 480 * time.Microsecond},
		{"memory becomes faster", 9000 * time.Microsecond, 6000 * time.Microsecond, 480 * time.Microsecond},
		{"nothing changes", 8300 * time.Microsecond, 8300 * time.Microsecond, 480 * time.Microsecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			var b stepBudget
			for range 10 {
				b.observe(1, 0, c.was)
			}
			b.observe(0, maxPromptTokens, maxPromptTokens*c.prompt)
			var total, longest time.Duration
			steps := 0
			for left := 900; left > 0; steps++ {
				n := min(b.tokens(7, 7), left)
				took := c.is + time.Duration(n)*c.prompt + time.Duration(float64(c.is)*0.1*r.Float64())
				b.observe(7, n, took)
				left -= n
				total += took
				longest = max(longest, took)
			}
			t.Logf("%d steps, %v, the longest %.1f of a step without prompt tokens", steps, total.Round(time.Millisecond), float64(longest)/float64(c.is))
			alone := (900/maxPromptTokens + 1) * c.is / 2
			if alone += 900 * c.prompt; total > alone*5/2 {
				t.Errorf("a prompt of 900 tokens takes %v in %d steps, alone it takes %v", total, steps, alone)
			}
			if longest > 3*c.is {
				t.Errorf("a step takes %v, one without prompt tokens %v", longest, c.is)
			}
		})
	}
}
