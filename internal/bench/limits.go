package bench

import (
	"slices"
	"time"

	"colophon/model/gpt2"
	"colophon/model/kernel"
)

// limits are what the machine could do at a moment.
type limits struct {
	ReadGB   float64 `json:"read_gb_s"`   // reading the weights from memory
	FMAGFLOP float64 `json:"fma_gflop_s"` // computing with float32
	Int8GOP  float64 `json:"int8_gop_s"`
}

// limits measures what the machine can do at this moment, for about the time
// that the compared work took. Memory and processors that other machines share
// are half as fast at one moment and twice as fast at another.
func (b *engineBench) limits(took time.Duration) limits {
	bytes, start := 0, time.Now()
	for bytes == 0 || time.Since(start) < took/2 {
		bytes += b.engine.ReadWeights(b.pool)
	}
	read := float64(bytes) / float64(time.Since(start).Nanoseconds())
	compute := kernel.Measure(b.pool.Threads(), max(took/4, 5*time.Millisecond))
	return limits{read, compute.FMAGFLOP, compute.Int8GOP}
}

// medianLimits returns the median of each limit.
func medianLimits(all []limits) limits {
	middle := func(of func(limits) float64) float64 {
		var values []float64
		for _, l := range all {
			values = append(values, of(l))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return limits{
		middle(func(l limits) float64 { return l.ReadGB }),
		middle(func(l limits) float64 { return l.FMAGFLOP }),
		middle(func(l limits) float64 { return l.Int8GOP }),
	}
}

// peak returns the limit of computing that applies to a row, in 1e9 per second.
func peak(row engineRow) float64 {
	if row.Weights == "int8" {
		return row.Int8GOP
	}
	return row.FMAGFLOP
}

// sizes returns how many weights a token is multiplied with: those of all
// layers, and those of the output to the vocabulary.
func sizes(c gpt2.Config) (blocks, output float64) {
	d := float64(c.Embd)
	return float64(c.Layers) * (4*d*d + 2*d*float64(c.Inner)), d * float64(c.Vocab)
}

// floor returns the least seconds for a token of a row.
//
// A step reads the weights once, and the keys and values of every stream. It
// also computes. The slower of the two is its limit. One stream is compared with
// the bandwidth alone, and a prompt with the peak alone.
func floor(row engineRow, c gpt2.Config) float64 {
	blocks, output := sizes(c)
	values := float64(c.Layers * c.Embd) // keys of a token; it has as many values
	if row.Phase == "prefill" {
		n := float64(row.Prompt)
		return (prefillProducts(row, c) + 4*values*n*(n+1)/2/row.FMAGFLOP/1e9) / n
	}
	batch, context := float64(row.Batch), float64(row.Context)
	weights := (blocks + output) * bytesPerWeight(row.Weights)
	read := (weights + batch*2*values*context*bytesPerValue(row.Weights)) / row.ReadGB
	compute := batch * (2*(blocks+output)/peak(row) + 4*values*context/row.FMAGFLOP)
	if row.Batch == 1 {
		compute = 0
	}
	return max(read, compute) / 1e9 / batch
}

// prefillProducts returns the least seconds for a prompt's products with the
// weights. Only the last token has logits.
func prefillProducts(row engineRow, c gpt2.Config) float64 {
	blocks, output := sizes(c)
	return 2 * (blocks*float64(row.Prompt) + output) / peak(row) / 1e9
}

// productsFloor returns the least seconds for the products with the weights, of
// a prompt or of one stream's step. A step also reads the scales of int8.
func productsFloor(row engineRow, c gpt2.Config) float64 {
	if row.Phase == "prefill" {
		return prefillProducts(row, c)
	}
	blocks, output := sizes(c)
	perWeight := bytesPerWeight(row.Weights)
	if row.Weights == "int8" {
		const scale, group = 2, 32 // bytes, and the weights that share it
		perWeight += scale / float64(group)
	}
	return (blocks + output) * perWeight / row.ReadGB / 1e9
}

// bytesPerWeight leaves out the scales of int8.
func bytesPerWeight(weights string) float64 {
	switch weights {
	case "int8":
		return 1
	case "f16":
		return 2
	}
	return 4
}

// bytesPerValue returns the size of a number in the keys and values.
func bytesPerValue(weights string) float64 {
	if weights == "f32" {
		return 4
	}
	return 2
}
