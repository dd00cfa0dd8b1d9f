package gpt2

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// BenchmarkSharedPrompt measures the time to the first logits of a prompt of 416 tokens whose
// first 400 tokens an earlier prompt had. The metric second/first is the median of the second
// prompt's time, divided by the median of the first one's.
func BenchmarkSharedPrompt(b *testing.B) {
	const shared, own = 400, 16
	for _, weights := range everyFormat() {
		b.Run(weights.String(), func(b *testing.B) {
			e := randomEngine(b, Published(), Options{Weights: weights, Prefixes: 1 << 30})
			rnd := rand.New(rand.NewPCG(400, 16))
			measure := func(scope string, ids []int) time.Duration {
				s, err := e.Open(b.Context(), scope)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				begin := time.Now()
				if _, err := s.Next(b.Context(), ids...); err != nil {
					b.Fatal(err)
				}
				return time.Since(begin)
			}
			measure("", randomIDs(rnd, shared+own, Published().Vocab)) // allocates memory
			var first, second []time.Duration
			for i := 0; b.Loop(); i++ {
				scope, begin := fmt.Sprint(i), randomIDs(rnd, shared, Published().Vocab)
				first = append(first, measure(scope, slices.Concat(begin, randomIDs(rnd, own, Published().Vocab))))
				second = append(second, measure(scope, slices.Concat(begin, randomIDs(rnd, own, Published().Vocab))))
				e.Forget(scope)
			}
			slices.Sort(first)
			slices.Sort(second)
			b.ReportMetric(second[len(second)/2].Seconds()/first[len(first)/2].Seconds(), "second/first")
		})
	}
}
