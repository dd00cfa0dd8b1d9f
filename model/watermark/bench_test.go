package watermark

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/kernel"
	"colophon/model/modeltest"
)

// choices are parameters with all tokens, with few, and with many that are out of order.
var choices = []struct {
	name string
	p    model.Params
}{
	{"all", model.Params{Temperature: 1, TopP: 1}},
	{"top_k=40", model.Params{Temperature: 0.8, TopK: 40, TopP: 1}},
	{"top_p=0.95", model.Params{Temperature: 1, TopP: 0.95}},
}

// BenchmarkStep measures a step of the built-in model with f16 weights: the logits and the
// choice of a token, without and with a mark.
func BenchmarkStep(b *testing.B) {
	e := newton(b)
	for _, c := range choices {
		for _, marked := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/marked=%t", c.name, marked), func(b *testing.B) {
				p := c.p
				p.MaxTokens = 200
				prompt := e.Encode(opening)
				tokens := 0
				for seed := uint64(0); b.Loop(); seed++ {
					p.Seed = seed
					if marked {
						p.Choose = testKey(1).Chooser(seed, prompt)
					}
					got, err := text(b.Context(), e, prompt, p)
					if err != nil {
						b.Fatal(err)
					}
					tokens += len(got)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(tokens), "ns/token")
			})
		}
	}
}

// BenchmarkPublishedStep measures a step of a network with the shape of the published GPT-2,
// with f16 weights: the logits, and from the same logits the choice of a token without and
// with a mark. The metrics are times that a tenth of the steps stay below, so that other
// processes on the machine matter little, and the mark's share of a step.
func BenchmarkPublishedStep(b *testing.B) {
	e, err := gpt2.New(gpt2.Random(gpt2.Published(), 1), nil, gpt2.Options{Weights: kernel.F16})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	for _, c := range choices {
		b.Run(c.name, func(b *testing.B) {
			p := c.p
			p.MaxTokens = 1
			plain, err := model.NewSampler(p, nil, -1)
			if err != nil {
				b.Fatal(err)
			}
			p.Choose = testKey(1).Chooser(1, nil)
			marked, err := model.NewSampler(p, nil, -1)
			if err != nil {
				b.Fatal(err)
			}
			var steps, plains, marks []time.Duration
			for range (b.N + 255) / 256 { // short texts, of which the mark costs the larger share
				s := modeltest.Open(b, e)
				generated := []int{1}
				for len(generated) <= 256 && len(steps) < b.N {
					begin := time.Now()
					logits, err := s.Next(b.Context(), generated[len(generated)-1])
					if err != nil {
						b.Fatal(err)
					}
					steps = append(steps, time.Since(begin))
					var token int
					samplers := []*model.Sampler{plain, marked}
					if len(steps)%2 == 0 { // the first choice finds the logits in no cache
						slices.Reverse(samplers)
					}
					for _, sampler := range samplers {
						begin := time.Now()
						if token, err = sampler.Sample(logits, generated); err != nil {
							b.Fatal(err)
						}
						if took := time.Since(begin); sampler == plain {
							plains = append(plains, took)
						} else {
							marks = append(marks, took)
						}
					}
					generated = append(generated, token)
				}
				s.Close()
			}
			tenth := func(times []time.Duration) float64 {
				slices.Sort(times)
				return float64(times[len(times)/10])
			}
			logits, unmarked, mark := tenth(steps), tenth(plains), tenth(marks)-tenth(plains)
			b.ReportMetric(logits/1e6, "logits-ms")
			b.ReportMetric(unmarked/1e3, "choice-us")
			b.ReportMetric(mark/1e3, "mark-us")
			b.ReportMetric(100*mark/(logits+unmarked), "mark-%")
		})
	}
}

// BenchmarkSample measures the choice of a token alone, without and with a mark, for the
// last token of a text of 200 tokens.
func BenchmarkSample(b *testing.B) {
	for _, vocab := range []int{2048, 50257} {
		rnd := rand.New(rand.NewPCG(1, 2))
		logits := make([]float32, vocab)
		for i := range logits {
			logits[i] = float32(2.5 * rnd.NormFloat64())
		}
		generated := rnd.Perm(200)
		for _, c := range choices {
			for _, marked := range []bool{false, true} {
				b.Run(fmt.Sprintf("vocab=%d/%s/marked=%t", vocab, c.name, marked), func(b *testing.B) {
					p := c.p
					p.MaxTokens = 1
					if marked {
						p.Choose = testKey(1).Chooser(1, nil)
					}
					s, err := model.NewSampler(p, nil, -1)
					if err != nil {
						b.Fatal(err)
					}
					for b.Loop() {
						if _, err := s.Sample(logits, generated); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// BenchmarkDetect measures the detection in the largest number of tokens.
func BenchmarkDetect(b *testing.B) {
	tokens := rand.New(rand.NewPCG(1, 2)).Perm(MaxTokens)
	k := testKey(1)
	for b.Loop() {
		if _, _, err := k.Detect(b.Context(), tokens); err != nil {
			b.Fatal(err)
		}
	}
}
