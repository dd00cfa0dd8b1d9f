package api

import (
	"context"
	"time"
)

// Timeouts shortens the timeouts of an API, for the tests of package api_test.
func (o *Options) Timeouts(body, answer, write, beat time.Duration) {
	o.timeouts = timeouts{body: body, answer: answer, write: write, beat: beat, texts: productionTimeouts.texts}
}

// TextsTimeout shortens the wait of a request of OpenAI's API for its texts.
func (o *Options) TextsTimeout(wait time.Duration) {
	o.timeouts = productionTimeouts
	o.timeouts.texts = wait
}

// Advance moves batches on once, at a time.
func (b *Batches) Advance(ctx context.Context, now time.Time) error {
	b.now = func() time.Time { return now }
	return b.pass(ctx)
}

// Pauses returns the pauses of the batches that wait for a token budget.
func (b *Batches) Pauses() (all []time.Duration) {
	for _, w := range b.waits {
		all = append(all, w.pause)
	}
	return all
}

// Pass moves all open batches on by one step.
func (b *Batches) Pass(ctx context.Context) error { return b.pass(ctx) }
