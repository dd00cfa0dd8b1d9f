package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"colophon/model"
	"colophon/model/gpt2"
)

// engineRow is one measurement.
type engineRow struct {
	Phase        string  `json:"phase"` // decode or prefill
	Weights      string  `json:"weights"`
	Batch        int     `json:"batch"`                    // number of streams
	Prompt       int     `json:"prompt"`                   // number of tokens of each stream's prompt
	Kernel       string  `json:"kernel"`                   // fingerprint of the arithmetic
	TokS         float64 `json:"tok_s"`                    // tokens per second, of all streams together
	Roofline     float64 `json:"roofline"`                 // share of the machine's limit
	RSSMB        float64 `json:"rss_mb"`                   // peak memory so far, in 1e6 bytes
	StepMS       float64 `json:"step_ms,omitempty"`        // the median time of a step; only for decode
	Context      int     `json:"context,omitempty"`        // number of tokens in a sequence when half of the steps are done; only for decode
	FirstTokenMS float64 `json:"first_token_ms,omitempty"` // the time until the first token is sampled; only for prefill
	limits               // the machine's limits, measured between the steps or prompts
	partTimes            // the mean times of the parts of a step or prompt
}

// partTimes are the mean times of the parts of a step or of a prompt.
type partTimes struct {
	ProductsMS  float64 `json:"products_ms"` // multiplication with the weights
	AttentionMS float64 `json:"attention_ms"`
	RowsMS      float64 `json:"rows_ms"`    // work on one token at a time, such as normalising
	BetweenMS   float64 `json:"between_ms"` // the rest of the time, in which only the caller works

	// ProductsShare is the speed of the products as a share of their own limit.
	ProductsShare float64 `json:"products_share"`
}

// mixedRow compares the steps of running streams before and during a long prompt.
type mixedRow struct {
	Weights       string  `json:"weights"`
	Streams       int     `json:"streams"`
	Prompt        int     `json:"prompt"`
	StepMS        float64 `json:"step_ms"`         // the median time of a step before the prompt
	P95WaitMS     float64 `json:"p95_wait_ms"`     // 95th percentile of the waits during the prompt
	LongestWaitMS float64 `json:"longest_wait_ms"` // the longest wait of any stream during the prompt
	Ratio         float64 `json:"ratio"`           // LongestWaitMS / StepMS
	PromptMS      float64 `json:"prompt_ms"`       // time until the logits of the whole prompt have been computed

	LongestUsualMS float64 `json:"longest_usual_ms"` // the longest wait of any stream before the prompt, which shows the jitter of the machine
}

// Prompts have these lengths if the context has room for them.
const (
	decodePrompt = 64  // tokens of the prompt before decoding
	longPrompt   = 900 // tokens of the prompt that is computed while other streams run
	longStreams  = 7   // number of streams that run during the long prompt
)

// prompt returns n arbitrary tokens.
func (b *engineBench) prompt(n int) []int {
	tokens := make([]int, n)
	for i := range tokens {
		tokens[i] = i * 7919 % b.info.Vocab
	}
	return tokens
}

// prefill measures two times for a prompt of n tokens. One is the time until the
// prompt's logits are computed, the other the time until the next token is sampled.
func (b *engineBench) prefill(ctx context.Context, n int) (engineRow, error) {
	sampler, err := model.NewSampler(model.Params{MaxTokens: 1, Temperature: 0.8, TopK: 40, TopP: 1}, nil, -1)
	if err != nil {
		return engineRow{}, err
	}
	prompt := b.prompt(n)
	var logits, token []time.Duration
	var machine []limits
	before := b.engine.Times()
	for begin := time.Now(); len(logits) == 0 || len(logits) < 9 && time.Since(begin) < b.limit; {
		start := time.Now()
		l, closeAll, err := b.open(ctx, 1, prompt)
		if err != nil {
			return engineRow{}, err
		}
		logits = append(logits, time.Since(start))
		_, err = sampler.Sample(l[0].logits, nil)
		token = append(token, time.Since(start))
		closeAll()
		if err != nil {
			return engineRow{}, err
		}
		machine = append(machine, b.measureLimits(logits[len(logits)-1]))
	}
	parts := b.parts(before, logits, len(logits))
	if len(logits) > 1 { // the first run is dropped, because it also allocates the keys and values
		logits, token = logits[1:], token[1:]
	}
	return engineRow{Phase: "prefill", Batch: 1, Prompt: n, TokS: float64(n) / median(logits).Seconds(),
		FirstTokenMS: milliseconds(median(token)), limits: medianLimits(machine), partTimes: parts}, nil
}

// parts returns the mean times of the parts of n steps or prompts. before holds the
// engine's times before the first step or prompt. waits holds the times for which the
// callers waited.
func (b *engineBench) parts(before gpt2.Times, waits []time.Duration, n int) partTimes {
	now := b.engine.Times()
	each := func(d time.Duration) float64 { return milliseconds(d) / float64(n) }
	all := time.Duration(0)
	for _, wait := range waits {
		all += wait
	}
	t := partTimes{
		ProductsMS:  each(now.Products - before.Products),
		AttentionMS: each(now.Attention - before.Attention),
		RowsMS:      each(now.Rows - before.Rows),
	}
	t.BetweenMS = max(0, milliseconds(all)/float64(len(waits))-t.ProductsMS-t.AttentionMS-t.RowsMS)
	return t
}

// stream is an open sequence and its logits after the prompt.
type stream struct {
	model.Sequence
	logits []float32
}

// open starts n streams with the same prompt. It also returns a function that closes
// the streams.
func (b *engineBench) open(ctx context.Context, n int, prompt []int) ([]stream, func(), error) {
	streams := make([]stream, n)
	closeAll := func() {
		for _, s := range streams {
			if s.Sequence != nil {
				s.Close()
			}
		}
	}
	err := together(n, func(i int) (err error) {
		s := &streams[i]
		if s.Sequence, err = b.engine.Open(ctx, ""); err == nil {
			s.logits, err = s.Next(ctx, prompt...)
		}
		return err
	})
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	return streams, closeAll, nil
}

// decode measures the steps of n streams. The tokens are arbitrary. Sampling is not
// measured, because callers sample in their own threads. decode measures the limits
// after every few steps, because the machine's speed varies.
func (b *engineBench) decode(ctx context.Context, n int) (engineRow, error) {
	prompt := min(decodePrompt, b.info.Context/4)
	const warm, few = 4, 8 // uncounted steps at the beginning, and steps between two measurements of the limits
	most := min(b.steps, b.info.Context-prompt-warm)
	streams, closeAll, err := b.open(ctx, n, b.prompt(prompt))
	if err != nil {
		return engineRow{}, err
	}
	defer closeAll()
	took := make([][]time.Duration, n)
	steps := func(from, to int) error {
		return together(n, func(i int) error {
			for step := from; step < to; step++ {
				start := time.Now()
				if _, err := streams[i].Next(ctx, (i+step*104729)%b.info.Vocab); err != nil {
					return err
				}
				if step >= warm {
					took[i] = append(took[i], time.Since(start))
				}
			}
			return nil
		})
	}
	begin := time.Now()
	if err := steps(0, warm); err != nil {
		return engineRow{}, err
	}
	before := b.engine.Times()
	var machine []limits
	made := 0
	for made < most && (made == 0 || time.Since(begin) < b.limit) {
		start := time.Now()
		next := min(made+few, most)
		if err := steps(warm+made, warm+next); err != nil {
			return engineRow{}, err
		}
		made = next
		machine = append(machine, b.measureLimits(time.Since(start)))
	}
	all := slices.Concat(took...)
	parts := b.parts(before, all, b.engine.Times().Steps-before.Steps)
	step := median(all)
	return engineRow{Phase: "decode", Batch: n, Prompt: prompt, TokS: float64(n) / step.Seconds(),
		limits: medianLimits(machine), partTimes: parts, StepMS: milliseconds(step), Context: prompt + warm + made/2}, nil
}

// errNoWait occurs when no stream waited during the long prompt, or none before it.
var errNoWait = errors.New("the context is too short to measure it")

// mixed measures the waits of running streams for their next token while a long prompt
// is computed. With a tiny network, the prompt can be over before a stream runs, so mixed
// tries a few times.
func (b *engineBench) mixed(ctx context.Context) (row *mixedRow, err error) {
	for range 5 {
		if row, err = b.mixedOnce(ctx); !errors.Is(err, errNoWait) {
			break
		}
	}
	return row, err
}

func (b *engineBench) mixedOnce(ctx context.Context) (*mixedRow, error) {
	short := min(decodePrompt, b.info.Context/4)
	before := min(24, b.info.Context/4) // number of steps before the prompt
	const after = 4                     // number of steps after the prompt
	streams, closeAll, err := b.open(ctx, longStreams, b.prompt(short))
	if err != nil {
		return nil, err
	}
	defer closeAll()
	type step struct{ start, end time.Time }
	took := make([][]step, longStreams)
	var warm sync.WaitGroup
	warm.Add(longStreams)
	begun := make(chan struct{}) // closed when the prompt begins; no stream may end earlier
	var done atomic.Bool
	long := min(longPrompt, b.info.Context)
	var start, end time.Time
	err = together(longStreams+1, func(i int) error {
		if i == longStreams {
			defer done.Store(true)
			warm.Wait()
			start = time.Now()
			close(begun)
			_, closeLong, err := b.open(ctx, 1, b.prompt(long))
			if err != nil {
				return err
			}
			end = time.Now()
			closeLong()
			return nil
		}
		warmed := sync.OnceFunc(warm.Done)
		defer warmed()
		left := after
		for n := 0; n < b.info.Context-short && left > 0; n++ {
			if n == before {
				warmed()
				<-begun
			}
			if done.Load() {
				left--
			}
			begin := time.Now()
			if _, err := streams[i].Next(ctx, (i+n*104729)%b.info.Vocab); err != nil {
				return err
			}
			took[i] = append(took[i], step{begin, time.Now()})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("a long prompt beside streams: %w", err)
	}
	var usual, waits []time.Duration
	for _, s := range slices.Concat(took...) {
		switch {
		case s.end.Before(start):
			usual = append(usual, s.end.Sub(s.start))
		case s.start.Before(end):
			waits = append(waits, s.end.Sub(s.start))
		}
	}
	if len(usual) == 0 || len(waits) == 0 {
		return nil, fmt.Errorf("a long prompt beside streams, with a context of %d tokens: %w", b.info.Context, errNoWait)
	}
	m := &mixedRow{Weights: b.weights, Streams: longStreams, Prompt: long, StepMS: milliseconds(median(usual)),
		LongestUsualMS: milliseconds(slices.Max(usual)), P95WaitMS: milliseconds(percentile(waits, 0.95)), LongestWaitMS: milliseconds(slices.Max(waits)), PromptMS: milliseconds(end.Sub(start))}
	m.Ratio = m.LongestWaitMS / m.StepMS
	b.progressf("prompt of %d beside %d streams: the longest step took %.1f times as long as usual", long, longStreams, m.Ratio)
	return m, nil
}
