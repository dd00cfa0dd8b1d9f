package gpt2

import (
	"testing"
	"time"
)

// On machines of any speed, no step beside running sequences takes more than
// three times as long as one without a prompt, and none is cut needlessly short.
func TestPace(t *testing.T) {
	for _, c := range []struct{ base, single, prompt time.Duration }{
		{8 * time.Millisecond, 1200 * time.Microsecond, 1200 * time.Microsecond},
		{20 * time.Millisecond, 100 * time.Microsecond, 900 * time.Microsecond},
		{100 * time.Microsecond, 10 * time.Millisecond, 10 * time.Millisecond},
		{3 * time.Microsecond, time.Microsecond, time.Microsecond},
	} {
		for _, running := range []int{1, 7, 15} {
			var p pace
			usual := c.base + time.Duration(running)*c.single
			for range 3 {
				p.observe(running, 0, usual)
			}
			for step := range 60 {
				n := p.budget(running)
				took := usual + time.Duration(n)*c.prompt
				if most := max(3*usual, usual+cautious*c.prompt); took > most {
					t.Errorf("%v beside %d: step %d has %d tokens and takes %v, usual is %v", c, running, step, n, took, usual)
				}
				if step > 30 && n < promptTokens && took < usual*7/4*9/10-c.prompt {
					t.Errorf("%v beside %d: step %d has only %d tokens", c, running, step, n)
				}
				p.observe(running, n, took)
			}
		}
	}
}

func TestPaceKnowsNothing(t *testing.T) {
	var p pace
	if n := p.budget(0); n != promptTokens {
		t.Errorf("%d tokens with nothing beside", n)
	}
	if n := p.budget(3); n != cautious {
		t.Errorf("%d tokens before any step", n)
	}
	p.observe(3, 5, time.Second)
	p.observe(0, 0, time.Second)
	if n := p.budget(3); n != cautious {
		t.Errorf("%d tokens before a step without a prompt", n)
	}
	p.observe(0, 128, 128*time.Millisecond)
	p.observe(3, 0, 20*time.Millisecond)
	if n := p.budget(3); n != 15 {
		t.Errorf("%d tokens of 1 ms beside steps of 20 ms", n)
	}
	for range 20 {
		p.observe(3, 20, time.Nanosecond) // a clock that was set back
	}
	if n := p.budget(3); n != promptTokens {
		t.Errorf("%d tokens that take no time", n)
	}
}
