package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/kernel"
)

// mostStreams is the most sequences at a time.
const mostStreams = 16

// benchMeasureCmd measures one engine, and prints a benchRun as JSON. It ends
// when standard input does: the process that started it has gone then.
type benchMeasureCmd struct {
	benchFlags
	Weights kernel.Format `required:""`
}

// A benchRun is what is measured of one engine, in the order of measuring.
type benchRun struct {
	Weights string
	Kernel  string // the fingerprint of the arithmetic
	Rows    []benchRow
	Mixed   *benchMixed // nil if it was left out
	LeftOut []string    // what there was no time for

	// Elsewhere is the share of the processors that was taken meanwhile by
	// what else ran on the machine.
	Elsewhere float64 `json:"-"`
}

// Run measures.
func (c *benchMeasureCmd) Run(ctx context.Context, t *terminal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, t.in)
		cancel()
	}()
	b := &bench{weights: c.Weights.String(), err: t.err, limit: 3 * time.Second, steps: 128}
	b.say("load")
	e, err := c.engine(c.Weights)
	if err != nil {
		return err
	}
	defer e.Close()
	b.pool = kernel.NewPool(c.threads())
	defer b.pool.Close()
	b.engine, b.info, b.end = e, e.Info(), time.Now().Add(45*time.Second)
	if c.Quick {
		b.limit, b.steps, b.end = 700*time.Millisecond, 24, time.Now().Add(5*time.Second)
	}
	run, err := b.run(ctx, c.Quick)
	if err != nil {
		return err
	}
	return json.NewEncoder(t.out).Encode(run)
}

// A bench measures an engine whose sequences are computed together.
type bench struct {
	engine  *gpt2.Engine
	pool    *kernel.Pool // as many threads as the engine has, to read its weights with
	info    model.Info
	weights string
	err     io.Writer
	limit   time.Duration // how long a row may take, about
	steps   int           // most steps of decoding in a row
	end     time.Time     // when nothing new is begun any more
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.err, "%s: %s\n", b.weights, fmt.Sprintf(format, args...))
}

// The lengths of prompts, where the context has room for them.
const (
	decodePrompt = 64  // of a sequence that decodes
	longPrompt   = 900 // of the one that comes while others decode
	longStreams  = 7   // the number of the others
)

// leastContext is the least room for tokens that a model must have.
const leastContext = 32

// run measures first what one stream does, so that the memory of the rest does
// not count for it.
func (b *bench) run(ctx context.Context, quick bool) (benchRun, error) {
	run := benchRun{Weights: b.weights, Kernel: b.info.Kernel}
	room := b.info.Context
	if room < leastContext {
		return run, fmt.Errorf("the model has room for %d tokens, too few to measure anything: want at least %d", room, leastContext)
	}
	type row struct {
		what    string
		n       int
		measure func(context.Context, int) (benchRow, error)
	}
	rows := []row{{"a prompt of %d", min(128, room), b.prefill}, {"%d stream", 1, b.decode}}
	if !quick && room > 128 {
		rows = append(rows, row{"a prompt of %d", min(512, room), b.prefill})
	}
	if !quick {
		rows = append(rows, row{"%d streams", 4, b.decode})
	}
	rows = append(rows, row{"%d streams", 8, b.decode})
	if !quick {
		rows = append(rows, row{"%d streams", mostStreams, b.decode})
	}
	for _, r := range rows {
		what := fmt.Sprintf(r.what, r.n)
		if b.late(&run, what) {
			continue
		}
		row, err := r.measure(ctx, r.n)
		if err != nil {
			return run, fmt.Errorf("%s: %w", what, err)
		}
		row.RSSMB = peakMemory()
		run.Rows = append(run.Rows, row)
		b.say("%s: %.1f tokens/s", what, row.TokS)
	}
	if quick || b.late(&run, "a long prompt beside streams") {
		return run, nil
	}
	var err error
	run.Mixed, err = b.mixed(ctx)
	return run, err
}

// late reports, and notes, that there is no time left for something.
func (b *bench) late(run *benchRun, what string) bool {
	late := time.Now().After(b.end)
	if late {
		run.LeftOut = append(run.LeftOut, b.weights+": "+what)
		b.say("%s: no time left", what)
	}
	return late
}

// prompt returns the tokens of a prompt, which mean nothing.
func (b *bench) prompt(n int) []int {
	tokens := make([]int, n)
	for i := range tokens {
		tokens[i] = i * 7919 % b.info.Vocab
	}
	return tokens
}

// prefill measures the time from a prompt of n tokens to its logits, and to
// the token sampled from those.
func (b *bench) prefill(ctx context.Context, n int) (benchRow, error) {
	sampler, err := model.NewSampler(model.Params{MaxTokens: 1, Temperature: 0.8, TopK: 40, TopP: 1})
	if err != nil {
		return benchRow{}, err
	}
	prompt := b.prompt(n)
	var logits, token []time.Duration
	var limits []benchLimits
	times := b.engine.Times()
	for begin := time.Now(); len(logits) == 0 || len(logits) < 9 && time.Since(begin) < b.limit; {
		start := time.Now()
		l, closeAll, err := b.open(ctx, 1, prompt)
		if err != nil {
			return benchRow{}, err
		}
		logits = append(logits, time.Since(start))
		_, err = sampler.Sample(l[0].logits, 0)
		token = append(token, time.Since(start))
		closeAll()
		if err != nil {
			return benchRow{}, err
		}
		limits = append(limits, b.limits(logits[len(logits)-1]))
	}
	went := b.went(times, logits, len(logits))
	if len(logits) > 1 { // the first has also made room for the keys and values
		logits, token = logits[1:], token[1:]
	}
	return benchRow{Phase: "prefill", Batch: 1, Prompt: n, TokS: float64(n) / median(logits).Seconds(),
		FirstTokenMS: milliseconds(median(token)), benchLimits: medianLimits(limits), benchTimes: went}, nil
}

// went returns where, on average, the time of n things has gone since the engine
// said times; waits are how long its callers waited for them.
func (b *bench) went(times gpt2.Times, waits []time.Duration, n int) benchTimes {
	now := b.engine.Times()
	each := func(d time.Duration) float64 { return milliseconds(d) / float64(n) }
	all := time.Duration(0)
	for _, wait := range waits {
		all += wait
	}
	t := benchTimes{
		ProductsMS:  each(now.Products - times.Products),
		AttentionMS: each(now.Attention - times.Attention),
		RowsMS:      each(now.Rows - times.Rows),
	}
	t.BetweenMS = max(0, milliseconds(all)/float64(len(waits))-t.ProductsMS-t.AttentionMS-t.RowsMS)
	return t
}

// A stream is a sequence in use.
type stream struct {
	model.Sequence
	logits []float32
}

// open starts streams with the same prompt.
func (b *bench) open(ctx context.Context, n int, prompt []int) ([]stream, func(), error) {
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
		if s.Sequence, err = b.engine.Open(ctx); err == nil {
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

// together calls f for 0 to n-1 at the same time.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// decode measures a step of n streams. Its tokens are made up, as sampling is
// the caller's work, and that in as many threads as there are callers. Every few
// steps it measures how fast the weights are read: memory that is shared with
// other machines is now half as fast and now twice.
func (b *bench) decode(ctx context.Context, n int) (benchRow, error) {
	prompt := min(decodePrompt, b.info.Context/4)
	const warm, few = 4, 8 // steps that are not counted, and between two readings
	most := min(b.steps, b.info.Context-prompt-warm)
	streams, closeAll, err := b.open(ctx, n, b.prompt(prompt))
	if err != nil {
		return benchRow{}, err
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
		return benchRow{}, err
	}
	times := b.engine.Times()
	var limits []benchLimits
	made := 0
	for made < most && (made == 0 || time.Since(begin) < b.limit) {
		start := time.Now()
		next := min(made+few, most)
		if err := steps(warm+made, warm+next); err != nil {
			return benchRow{}, err
		}
		made = next
		limits = append(limits, b.limits(time.Since(start)))
	}
	all := slices.Concat(took...)
	went := b.went(times, all, b.engine.Times().Steps-times.Steps)
	step := median(all)
	return benchRow{Phase: "decode", Batch: n, Prompt: prompt, TokS: float64(n) / step.Seconds(),
		benchLimits: medianLimits(limits), benchTimes: went, StepMS: milliseconds(step), Context: prompt + warm + made/2}, nil
}

// limits measures what the machine can do at this moment, for about as long as
// what it is compared with took: memory and processors that are shared with other
// machines are now half as fast and now twice.
func (b *bench) limits(took time.Duration) benchLimits {
	bytes, start := 0, time.Now()
	for bytes == 0 || time.Since(start) < took/2 {
		bytes += b.engine.ReadWeights(b.pool)
	}
	read := float64(bytes) / float64(time.Since(start).Nanoseconds())
	compute := kernel.Measure(b.pool.Threads(), max(took/4, 5*time.Millisecond))
	return benchLimits{read, compute.FMAGFLOP, compute.Int8GOP}
}

// mixed measures how long running streams wait for their next token while a
// long prompt is computed.
func (b *bench) mixed(ctx context.Context) (*benchMixed, error) {
	short := min(decodePrompt, b.info.Context/4)
	before := min(24, b.info.Context/4) // steps that are measured without the prompt
	const after = 4                     // and made after it
	streams, closeAll, err := b.open(ctx, longStreams, b.prompt(short))
	if err != nil {
		return nil, err
	}
	defer closeAll()
	type step struct{ start, end time.Time }
	took := make([][]step, longStreams)
	var warm sync.WaitGroup
	warm.Add(longStreams)
	var done atomic.Bool
	long := min(longPrompt, b.info.Context)
	var start, end time.Time
	err = together(longStreams+1, func(i int) error {
		if i == longStreams {
			defer done.Store(true)
			warm.Wait()
			start = time.Now()
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
	var usual, beside []time.Duration
	for _, s := range slices.Concat(took...) {
		switch {
		case s.end.Before(start):
			usual = append(usual, s.end.Sub(s.start))
		case s.start.Before(end):
			beside = append(beside, s.end.Sub(s.start))
		}
	}
	m := &benchMixed{Weights: b.weights, Streams: longStreams, Prompt: long, StepMS: milliseconds(median(usual)),
		UsualLongestMS: milliseconds(slices.Max(usual)), MostMS: milliseconds(percentile(beside, 0.95)), LongestMS: milliseconds(slices.Max(beside)), PromptMS: milliseconds(end.Sub(start))}
	m.Ratio = m.LongestMS / m.StepMS
	b.say("prompt of %d beside %d streams: the longest step took %.1f times as long as usual", long, longStreams, m.Ratio)
	return m, nil
}

func median(d []time.Duration) time.Duration { return percentile(d, 0.5) }

// percentile returns the time that a share of the others does not exceed.
func percentile(d []time.Duration, share float64) time.Duration {
	slices.Sort(d)
	return d[min(int(share*float64(len(d))), len(d)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// peakMemory returns the most memory this process had at a time, in 1e6 bytes,
// or 0 where the system does not say.
func peakMemory() float64 {
	status, _ := os.ReadFile("/proc/self/status") // Linux has it
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, _ := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}
