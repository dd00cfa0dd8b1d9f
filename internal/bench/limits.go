package bench

import (
	"slices"
	"time"

	"colophon/model/gpt2"
	"colophon/model/kernel"
)

// limits are the speeds that the machine reaches at the time of a measurement.
type limits struct {
	ReadGB   float64 `json:"read_gb_s"`   // 1e9 bytes per second, when reading the weights from memory
	FMAGFLOP float64 `json:"fma_gflop_s"` // 1e9 operations per second, when computing with float32
	Int8GOP  float64 `json:"int8_gop_s"`  // 1e9 operations per second, when computing with int8
}

// measureLimits measures the machine's speeds at this moment. The measurement takes
// about as long as the compared work took. Memory and processors may be shared with
// other machines. They can then be half as fast at one moment and twice as fast at
// another moment.
func (b *engineBench) measureLimits(took time.Duration) limits {
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
	median := func(of func(limits) float64) float64 {
		var values []float64
		for _, l := range all {
			values = append(values, of(l))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return limits{
		median(func(l limits) float64 { return l.ReadGB }),
		median(func(l limits) float64 { return l.FMAGFLOP }),
		median(func(l limits) float64 { return l.Int8GOP }),
	}
}

// peak returns the machine's arithmetic limit for a row, in 1e9 operations per second.
func peak(row engineRow) float64 {
	if row.Weights == "int8" {
		return row.Int8GOP
	}
	return row.FMAGFLOP
}

// weightCounts returns two numbers of weights. blocks counts the weights of all layers.
// output counts the weights of the projection to the vocabulary.
func weightCounts(c gpt2.Config) (blocks, output float64) {
	d := float64(c.Embd)
	return float64(c.Layers) * (4*d*d + 2*d*float64(c.Inner)), d * float64(c.Vocab)
}

// minTime returns the least time for a token of a row, in seconds.
//
// A step reads the weights once, and it reads the keys and values of every stream. It
// also does arithmetic. The slower of reading and arithmetic sets the limit of a step.
// The limit of one stream is the time to read alone. The limit of a prompt is the time
// of the arithmetic alone.
func minTime(row engineRow, c gpt2.Config) float64 {
	blocks, output := weightCounts(c)
	values := float64(c.Layers * c.Embd) // size of a token's values, and also of its keys
	if row.Phase == "prefill" {
		n := float64(row.Prompt)
		return (minPrefillProductsTime(row, c) + 4*values*n*(n+1)/2/row.FMAGFLOP/1e9) / n
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

// minPrefillProductsTime returns the least time for a prompt's products with the weights,
// in seconds. Only the last token has logits.
func minPrefillProductsTime(row engineRow, c gpt2.Config) float64 {
	blocks, output := weightCounts(c)
	return 2 * (blocks*float64(row.Prompt) + output) / peak(row) / 1e9
}

// minProductsTime returns the least time for the products with the weights, in seconds.
// The row is a prompt or one stream's step. A step also reads the scales of int8
// weights.
func minProductsTime(row engineRow, c gpt2.Config) float64 {
	if row.Phase == "prefill" {
		return minPrefillProductsTime(row, c)
	}
	blocks, output := weightCounts(c)
	perWeight := bytesPerWeight(row.Weights)
	if row.Weights == "int8" {
		const scale, group = 2, 32 // bytes of a scale, and number of weights that share a scale
		perWeight += scale / float64(group)
	}
	return (blocks + output) * perWeight / row.ReadGB / 1e9
}

// bytesPerWeight returns the size of a weight, without the scales of int8.
func bytesPerWeight(weights string) float64 {
	switch weights {
	case "int8":
		return 1
	case "f16":
		return 2
	}
	return 4
}

// bytesPerValue returns the size of a number in keys and values.
func bytesPerValue(weights string) float64 {
	if weights == "f32" {
		return 4
	}
	return 2
}
