package watermark

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"colophon/model"
)

// replaceThird returns the tokens, each replaced with a probability of one in three.
func replaceThird(i int, tokens []int) []int {
	rnd := rand.New(rand.NewPCG(uint64(i), 5))
	tokens = slices.Clone(tokens)
	for j := range tokens {
		if rnd.IntN(3) == 0 {
			tokens[j] = rnd.IntN(2000)
		}
	}
	return tokens
}

// The start of a marked text is the marked text of that length.
func TestMarkedTextsAreFound(t *testing.T) {
	n := count(t, 10, 200)
	k := testKey(20)
	for _, temperature := range []float64{0.4, 0.8, 1.0} {
		all := texts(t, n, func(i int, prompt []int) model.Params {
			seed := uint64(i)
			return model.Params{MaxTokens: 200, Temperature: temperature, TopP: 1, Seed: seed, Choose: k.Chooser(seed, prompt)}
		})
		for _, length := range []int{25, 50, 100, 200} {
			var found, afterwards, full int
			for i, tokens := range all {
				if len(tokens) < length {
					continue // the model ended the text
				}
				full++
				if p(k, tokens[:length]) < threshold {
					found++
				}
				if temperature == 0.8 && length >= 100 && p(k, replaceThird(i, tokens[:length])) < threshold {
					afterwards++
				}
			}
			name := fmt.Sprintf("temperature-%g-length-%d", temperature, length)
			t.Attr("found-"+name, fmt.Sprintf("%d of %d", found, full))
			if temperature == 0.8 && length >= 100 {
				t.Attr("found-with-a-third-replaced-"+name, fmt.Sprintf("%d of %d", afterwards, full))
			}
			if temperature >= 0.8 && length >= 100 && 10*found < 9*full {
				t.Errorf("%s: %d of %d texts found, want most", name, found, full)
			}
		}
	}
}

func TestDetectAnswersWithoutTheProbability(t *testing.T) {
	k := testKey(21)
	marked := texts(t, 1, func(i int, prompt []int) model.Params {
		return model.Params{MaxTokens: 150, Temperature: 1, TopP: 1, Seed: 5, Choose: k.Chooser(5, prompt)}
	})[0]
	distinct := rand.New(rand.NewPCG(1, 1)).Perm(100)
	repeated := make([]int, 500)
	for _, c := range []struct {
		name   string
		key    Key
		tokens []int
		want   Result
		scored int
	}{
		{"a marked text", k, marked, Found, len(markedTokens(marked))},
		{"its middle", k, marked[40:140], Found, len(markedTokens(marked[40:140]))},
		{"another key", testKey(22), marked, NotFound, len(markedTokens(marked))},
		{"no tokens", k, nil, TooShort, 0},
		{"three tokens", k, marked[:width], TooShort, 0},
		{"its start", k, marked[:30], Found, len(markedTokens(marked[:30]))},
		{"its first words", k, marked[:10], TooShort, len(markedTokens(marked[:10]))},
		{"one token too few", testKey(22), distinct[:MinScored+width-1], TooShort, MinScored - 1},
		{"just enough tokens", testKey(22), distinct[:MinScored+width], NotFound, MinScored},
		{"one token again and again", k, repeated, TooShort, 1},
	} {
		got, scored, err := c.key.Detect(t.Context(), c.tokens)
		if got != c.want || scored != c.scored || err != nil {
			t.Errorf("%s: %s, %d scored, %v; want %s, %d", c.name, got, scored, err, c.want, c.scored)
		}
		unmarked := c.want
		if c.want == Found {
			unmarked, _, _ = testKey(23).Detect(t.Context(), c.tokens)
		}
		if got, scored, err := Unmarked(c.tokens); got != unmarked || scored != c.scored || err != nil {
			t.Errorf("%s, without a key: %s, %d scored, %v; want %s, %d", c.name, got, scored, err, unmarked, c.scored)
		}
	}
}

func TestDetectRefusesUnusableTokens(t *testing.T) {
	for _, tokens := range [][]int{make([]int, MaxTokens+1), {1, -1}, {maxToken + 1}, {math.MaxInt}} {
		if got, scored, err := testKey(1).Detect(t.Context(), tokens); !errors.Is(err, ErrTokens) || got != "" || scored != 0 {
			t.Errorf("%d tokens: %s, %d scored, %v", len(tokens), got, scored, err)
		}
		if got, scored, err := Unmarked(tokens); !errors.Is(err, ErrTokens) || got != "" || scored != 0 {
			t.Errorf("%d tokens without a key: %s, %d scored, %v", len(tokens), got, scored, err)
		}
	}
}

// endsAfter is a context that ends after some checks of it.
type endsAfter struct {
	context.Context
	checks int
}

func (c *endsAfter) Err() error {
	if c.checks--; c.checks < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

func TestDetectEndsWithItsContext(t *testing.T) {
	tokens := rand.New(rand.NewPCG(1, 3)).Perm(100)
	for _, checks := range []int{0, 1, salts - 1} {
		got, scored, err := testKey(1).Detect(&endsAfter{t.Context(), checks}, tokens)
		if !errors.Is(err, context.DeadlineExceeded) || got != "" || scored != 0 {
			t.Errorf("after %d checks: %s, %d scored, %v", checks, got, scored, err)
		}
	}
	if _, _, err := testKey(1).Detect(&endsAfter{t.Context(), salts}, tokens); err != nil {
		t.Error(err)
	}
}

// TestDetectLetsOthersRun counts how often another goroutine gets the only processor during a
// detection. The runtime takes the processor away only every 10 ms, a dozen times here.
func TestDetectLetsOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	done, turns := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				turns <- n
				return
			default:
				runtime.Gosched()
			}
		}
	}()
	const tokens = 1000
	if _, _, err := testKey(1).Detect(t.Context(), rand.New(rand.NewPCG(1, 3)).Perm(tokens)); err != nil {
		t.Fatal(err)
	}
	close(done)
	if n := <-turns; n < salts*tokens/yieldEvery/2 {
		t.Errorf("another goroutine ran %d times, want one time for %d tokens and each salt", n, yieldEvery)
	}
}

// exactUpperGamma returns Q(n, x) by its definition, with 400 bits.
func exactUpperGamma(n int, x float64) *big.Float {
	f := func(x float64) *big.Float { return new(big.Float).SetPrec(400).SetFloat64(x) }
	sum, all, term := f(0), f(0), f(1)
	for k := 1; k <= n || term.Cmp(new(big.Float).Mul(all, f(0x1p-300))) > 0; k++ {
		all.Add(all, term)
		if k <= n {
			sum.Add(sum, term)
		}
		term.Mul(term, f(x))
		term.Quo(term, f(float64(k)))
	}
	return sum.Quo(sum, all) // all is e^x
}

func TestUpperGammaIsExactEnough(t *testing.T) {
	for _, n := range []int{1, 2, 10, 97, 7997} {
		for _, x := range []float64{1e-9, 0.5, 1, 3, 0.5 * float64(n), 0.9 * float64(n), float64(n), 1.2 * float64(n), 2 * float64(n), float64(n) + 500} {
			want := exactUpperGamma(n, x)
			mantissa := new(big.Float)
			exponent := want.MantExp(mantissa)
			m, _ := mantissa.Float64()
			exact := math.Log(m) + float64(exponent)*math.Ln2
			if got := logUpperGamma(n, x); math.Abs(got-exact) > 1e-9 {
				t.Errorf("ln Q(%d, %g) = %g, want %g", n, x, got, exact)
			}
		}
	}
	if logUpperGamma(0, 0) != 0 || logUpperGamma(5, 0) != 0 || logUpperGamma(8000, 1e-300) != 0 {
		t.Error("Q(n, 0) is not 1")
	}
	if pValue(0, 0) != 1 || pValue(40, 0) != 1 {
		t.Error("p of the lowest score is not 1")
	}
	if got := pValue(40, 300000); got != 0 {
		t.Errorf("p of the highest score is %g", got)
	}
}

// FuzzDetect detects in arbitrary tokens. The result must be one of the three, the number
// of scored tokens must be right, and invalid tokens must be refused.
func FuzzDetect(f *testing.F) {
	f.Add(uint64(1), []byte("\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04"))
	f.Add(uint64(2), []byte("\xff\xff\xff\xff"))
	f.Add(uint64(3), make([]byte, 4*100))
	f.Fuzz(func(t *testing.T, key uint64, b []byte) {
		var tokens []int
		valid := true
		for len(b) >= 4 {
			token := int(int32(binary.BigEndian.Uint32(b)))
			tokens, b = append(tokens, token), b[4:]
			valid = valid && token >= 0 && token <= maxToken
		}
		result, scored, err := testKey(key).Detect(t.Context(), tokens)
		if valid != (err == nil) && len(tokens) <= MaxTokens {
			t.Fatalf("error %v for %v", err, tokens)
		}
		switch {
		case err != nil:
			if !errors.Is(err, ErrTokens) || result != "" || scored != 0 {
				t.Fatalf("%q, %d scored, %v", result, scored, err)
			}
		case scored > max(0, len(tokens)-width):
			t.Fatalf("%d of %d tokens scored", scored, len(tokens))
		case result != Found && (scored < MinScored) != (result == TooShort), scored == 0 && result == Found:
			t.Fatalf("%q with %d scored tokens", result, scored)
		case result != Found && result != NotFound && result != TooShort:
			t.Fatalf("unknown result %q", result)
		}
	})
}
