package bench

import (
	"math"
	"testing"
)

func TestDivergenceIsInNats(t *testing.T) {
	// The logits give the probabilities 1/2 and 1/2, and the probabilities 3/4 and 1/4.
	even, uneven := []float32{7, 7}, []float32{float32(math.Log(3)), 0}
	if got, want := divergence(uneven, even), 0.75*math.Log(1.5)+0.25*math.Log(0.5); math.Abs(got-want) > 1e-6 {
		t.Errorf("%g, want %g", got, want)
	}
	if got := divergence(uneven, []float32{float32(math.Log(3)) + 80, 80}); !(got >= 0 && got < 1e-6) {
		t.Errorf("%g between equal distributions", got)
	}
}
