package exact

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"testing"
)

func TestExpAgreesWithMath(t *testing.T) {
	for x := -39.99; x <= 0; x += 0.00037 {
		if got, want := Exp(x), math.Exp(x); math.Abs(got-want) > 4e-16*want {
			t.Fatalf("exp(%g) = %g, want %g", x, got, want)
		}
	}
	if Exp(0) != 1 || Exp(-1e300) != 0 || Exp(math.Inf(-1)) != 0 {
		t.Error("exp is wrong at 0, -1e300 or -Inf")
	}
}

// logarithmInputs returns numbers of all sizes that ln must work with.
func logarithmInputs() []float64 {
	rnd := rand.New(rand.NewPCG(5, 6))
	list := []float64{0x1p-53, 1 - 0x1p-53, 1, 0.5, math.Sqrt2 / 2, math.Nextafter(math.Sqrt2/2, 0)}
	for range 50_000 {
		u := (float64(rnd.Uint64()>>12) + 0.5) * 0x1p-52
		list = append(list, u, 1-u*0x1p-20, math.Ldexp(u, -rnd.IntN(50)))
	}
	return list
}

func TestLogarithmHasTheSameBitsEverywhere(t *testing.T) {
	h := sha256.New()
	for _, x := range logarithmInputs() {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], math.Float64bits(Ln(x)))
		h.Write(b[:])
	}
	const want = "4a4e10fd8d7637931826059628e9f7a380f5d3abe89e00eea19aea2703250675"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the digest of the logarithms is %s", got)
	}
}

func TestLogarithmAgreesWithMath(t *testing.T) {
	for _, x := range logarithmInputs() {
		if got, want := Ln(x), math.Log(x); math.Abs(got-want) > 4e-16*math.Abs(want) {
			t.Fatalf("ln(%x) = %x, want %x", x, got, want)
		}
	}
}
