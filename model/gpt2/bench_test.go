package gpt2

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkDecode computes a token of each of some sequences at a time, on a
// network of the shape of the published one. A step reads all weights once,
// which SetBytes shows as the share of the memory bandwidth that it uses.
func BenchmarkDecode(b *testing.B) {
	e := randomEngine(b, gpt2Shape, Options{})
	for _, batch := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			b.SetBytes(e.network.bytes())
			var all sync.WaitGroup
			for i := range batch {
				s := openSequence(b, e)
				all.Go(func() {
					defer s.Close()
					token := []int{i}
					for range b.N {
						logits, err := s.Next(b.Context(), token...)
						if err != nil {
							b.Error(err)
							return
						}
						token[0] = int(uint32(logits[0]*1000)) % gpt2Shape.Vocab
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "tok/s")
		})
	}
}

func BenchmarkPrefill128(b *testing.B) {
	e := randomEngine(b, gpt2Shape, Options{})
	ids := make([]int, 128)
	for b.Loop() {
		s := openSequence(b, e)
		if _, err := s.Next(b.Context(), ids...); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
	b.ReportMetric(float64(len(ids)*b.N)/b.Elapsed().Seconds(), "tok/s")
}

// bytes returns the size of the weights that computing one token reads.
func (n *network) bytes() int64 {
	floats := n.tokens.Stride() * n.tokens.Inputs()
	for _, b := range n.blocks {
		floats += b.qkv.Stride()*b.qkv.Inputs() + b.projection.Stride()*b.projection.Inputs()
		floats += b.up.Stride()*b.up.Inputs() + b.down.Stride()*b.down.Inputs()
	}
	return int64(floats) * 4
}
