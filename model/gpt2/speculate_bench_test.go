package gpt2

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"colophon/model"
	"colophon/model/opticks"
)

// speculate turns the speculation of an engine on or off for later steps.
func (e *Engine) speculate(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.speculation.on = on
}

// BenchmarkSpeculationOpticks generates texts of the small model with speculation and without, in
// turns. The metric ratio is the total time without, divided by that with speculation.
func BenchmarkSpeculationOpticks(b *testing.B) {
	heldout, err := os.ReadFile("../opticks/testdata/heldout.txt")
	if err != nil {
		b.Fatal(err)
	}
	for _, weights := range everyFormat() {
		e, err := Load(opticks.Files(), Options{Weights: weights, Speculate: true})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(e.Close)
		ids := e.Encode(string(heldout))
		for _, temperature := range []float64{0, 0.8, 1.2} {
			b.Run(fmt.Sprintf("%v/temperature=%v", weights, temperature), func(b *testing.B) {
				turns(b, e, func(i int) []int {
					p := model.Params{MaxTokens: 200, Temperature: temperature, TopK: 40, TopP: 1, Seed: uint64(i)}
					var text []int
					_, err := model.Generate(b.Context(), e, ids[i*90%(len(ids)-24):][:24], nil, p, func(d model.Delta) error {
						text = append(text, d.Tokens...)
						return nil
					})
					if err != nil {
						b.Fatal(err)
					}
					return text
				})
			})
		}
	}
}

// BenchmarkSpeculationRepeats computes texts that repeat themselves to a given degree: that is
// the probability that a token follows the one before it as it did the last time. The network has the
// shape of the published GPT-2.
func BenchmarkSpeculationRepeats(b *testing.B) {
	for _, weights := range everyFormat() {
		e := randomEngine(b, Published(), Options{Weights: weights, Speculate: true})
		for _, repeats := range []float64{0, 0.25, 0.5, 0.75, 1} {
			b.Run(fmt.Sprintf("%v/repeats=%v", weights, repeats), func(b *testing.B) {
				turns(b, e, func(i int) []int {
					text := repetitive(rand.New(rand.NewPCG(uint64(i), 1)), 80, repeats)
					const prompt, sampled = 16, 17 // a guess is chosen among fewer candidates than a token
					p := model.Params{MaxTokens: len(text) - prompt, Temperature: 1, TopK: sampled, TopP: 1}
					p.Choose = func(generated []int, candidates []model.Candidate) (int, bool) {
						return text[prompt+len(generated)%p.MaxTokens], len(candidates) == sampled
					}
					if _, err := model.Generate(b.Context(), untold{e}, text[:prompt], nil, p, func(model.Delta) error { return nil }); err != nil {
						b.Fatal(err)
					}
					return text[prompt:]
				})
			})
		}
	}
}

// untold is an engine that decodes no tokens, because a random network has no tokenizer.
type untold struct{ *Engine }

func (untold) Decode([]int) []byte { return nil }

// repetitive returns a text of n tokens. With the given probability, a token is the one that
// followed the token before it the last time.
func repetitive(rnd *rand.Rand, n int, repeats float64) []int {
	text, after := []int{0}, map[int]int{}
	for len(text) < n {
		last := text[len(text)-1]
		next, ok := after[last]
		if !ok || rnd.Float64() >= repeats {
			next = rnd.IntN(40)
		}
		after[last] = next
		text = append(text, next)
	}
	return text
}

// turns measures texts with speculation and without. The texts must be the same.
func turns(b *testing.B, e *Engine, text func(i int) []int) {
	var took, cpu [2]time.Duration // without and with speculation
	var ratios []float64
	e.speculate(true)
	text(0) // allocates memory, and measures the first steps
	before, tokens := e.DraftStats(), 0
	for i := 0; b.Loop(); i++ {
		var texts [2][]int
		var now [2]time.Duration
		for turn := range 2 {
			on := (turn + i) % 2
			e.speculate(on == 1)
			begin, used := time.Now(), cpuTime()
			texts[on] = text(i)
			now[on] = time.Since(begin)
			cpu[on] += cpuTime() - used
			took[on] += now[on]
		}
		if !slices.Equal(texts[0], texts[1]) {
			b.Fatal("another text with speculation")
		}
		ratios = append(ratios, now[0].Seconds()/now[1].Seconds())
		tokens += len(texts[0])
	}
	slices.Sort(ratios)
	d := e.DraftStats()
	accepted, rejected := d.Accepted-before.Accepted, d.Rejected-before.Rejected
	b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "ratio")
	b.ReportMetric(ratios[len(ratios)/2], "median-ratio")
	b.ReportMetric(cpu[0].Seconds()/cpu[1].Seconds(), "cpu-ratio")
	b.ReportMetric(float64(accepted)/float64(max(1, accepted+rejected)), "accepted/draft")
	b.ReportMetric(float64(accepted)/float64(max(1, tokens)), "accepted/token")
}

// cpuTime returns the processor time of this process so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
