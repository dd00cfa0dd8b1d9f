package bench

import (
	"math"
	"testing"

	"colophon/model/gpt2"
)

// TestMinTimeIsTheLimitOfTheMachine expects speeds that were calculated by hand for the
// published shape. A step reads 123.5 million weights. Each token of a prompt is
// multiplied with 84.9 million weights.
func TestMinTimeIsTheLimitOfTheMachine(t *testing.T) {
	machine := limits{ReadGB: 28.5, FMAGFLOP: 195, Int8GOP: 368}
	for _, c := range []struct {
		row  engineRow
		want float64 // tokens per second
	}{
		{engineRow{Phase: "decode", Weights: "f32", Batch: 1}, 57.7},
		{engineRow{Phase: "decode", Weights: "f16", Batch: 1}, 115.4},
		{engineRow{Phase: "decode", Weights: "int8", Batch: 1}, 230.7},
		{engineRow{Phase: "decode", Weights: "f32", Batch: 1, Context: 1000}, 50.2}, // this step also reads 74 MB of keys and values
		{engineRow{Phase: "decode", Weights: "f32", Batch: 4}, 230.7},
		{engineRow{Phase: "decode", Weights: "f16", Batch: 16}, 789.3}, // 195 GFLOP/s divided by 0.247 GFLOP per token
		{engineRow{Phase: "prefill", Weights: "f16", Prompt: 128}, 1127},
		{engineRow{Phase: "prefill", Weights: "int8", Prompt: 128}, 2102},
	} {
		c.row.limits = machine
		got := 1 / minTime(c.row, gpt2.Published())
		if math.Abs(got/c.want-1) > 0.01 {
			t.Errorf("%+v: %g tokens/s, want %g", c.row, got, c.want)
		}
	}
	if n := parameters(gpt2.Published()); n != 124439808 {
		t.Errorf("%d parameters", n)
	}
}
