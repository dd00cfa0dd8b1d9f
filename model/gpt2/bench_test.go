package gpt2

import (
	"fmt"
	"sync"
	"testing"

	"colophon/model/modeltest"
)

// BenchmarkDecode decodes several sequences in parallel. Each step computes one token
// of every sequence. The network has the shape of the published GPT-2. A step reads all
// weights once, so the throughput that SetBytes reports is the rate of reading weights
// from memory.
func BenchmarkDecode(b *testing.B) {
	for _, weights := range everyFormat() {
		e := randomEngine(b, Published(), Options{Weights: weights})
		for _, batch := range []int{1, 4, 8, 16} {
			b.Run(fmt.Sprintf("%v/batch=%d", weights, batch), func(b *testing.B) {
				b.SetBytes(e.network.bytes())
				var all sync.WaitGroup
				for i := range batch {
					s := modeltest.Open(b, e)
					all.Go(func() {
						defer s.Close()
						token := []int{i}
						for n := range b.N {
							if n%Published().Context == Published().Context-1 {
								s.Close()
								s = modeltest.Open(b, e)
							}
							logits, err := s.Next(b.Context(), token...)
							if err != nil {
								b.Error(err)
								return
							}
							token[0] = int(uint32(logits[0]*1000)) % Published().Vocab
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "tok/s")
			})
		}
	}
}

func BenchmarkPrefill(b *testing.B) {
	for _, weights := range everyFormat() {
		e := randomEngine(b, Published(), Options{Weights: weights})
		for _, n := range []int{128, 512} {
			b.Run(fmt.Sprintf("%v/prompt=%d", weights, n), func(b *testing.B) {
				ids := make([]int, n)
				for b.Loop() {
					s := modeltest.Open(b, e)
					if _, err := s.Next(b.Context(), ids...); err != nil {
						b.Fatal(err)
					}
					s.Close()
				}
				b.ReportMetric(float64(len(ids)*b.N)/b.Elapsed().Seconds(), "tok/s")
			})
		}
	}
}

// bytes returns the size in bytes of the weights that a step reads.
func (n *network) bytes() (size int64) {
	for m := range n.matrices {
		size += int64(m.Bytes())
	}
	return size
}
