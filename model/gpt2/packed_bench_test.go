package gpt2

import (
	"fmt"
	"testing"
	"time"

	"colophon/model/kernel"
)

// BenchmarkLoad measures how long packed weights take to load, for the smallest and the
// largest published shape. The file was just written, so it is in memory. The metric
// packing/load is the time to pack the weights, which the test computes, divided by the time
// of a load. The largest shape needs 4 GB of memory and of disk.
func BenchmarkLoad(b *testing.B) {
	largest := Published()
	largest.Embd, largest.Inner, largest.Layers, largest.Heads = 1600, 6400, 48, 25
	for _, c := range []Config{Published(), largest} {
		b.Run(fmt.Sprintf("layers=%d", c.Layers), func(b *testing.B) {
			begin := time.Now()
			e, path := packedEngines(b, c, kernel.Int8)
			packing := time.Since(begin)
			ck, digest := randomCheckpoint(c, 1), e.Info().Digest()
			e.Close()
			for b.Loop() {
				e, err := NewPacked(ck, nil, Options{Weights: kernel.Int8}, path, digest)
				if err != nil {
					b.Fatal(err)
				}
				e.Close()
			}
			b.ReportMetric(packing.Seconds()/(b.Elapsed().Seconds()/float64(b.N)), "packing/load")
		})
	}
}
