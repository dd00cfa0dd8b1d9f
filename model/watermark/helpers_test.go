package watermark

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"

	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/opticks"
)

// testKey returns a key that depends only on number.
func testKey(number uint64) Key {
	var secret [KeySize]byte
	rnd := rand.New(rand.NewPCG(number, 32))
	for i := range secret {
		secret[i] = byte(rnd.Uint32())
	}
	return NewKey(secret)
}

// count returns the number of texts of a statistical test: the number in the environment
// variable COLOPHON_BENCH_TEXTS, but at most most, or usual if it is not set.
func count(t testing.TB, usual, most int) int {
	t.Helper()
	s := os.Getenv("COLOPHON_BENCH_TEXTS")
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < usual {
		t.Fatalf("COLOPHON_BENCH_TEXTS is %q, want at least %d", s, usual)
	}
	return min(n, most)
}

// newtonEngine returns the built-in model.
var newtonEngine = sync.OnceValues(func() (*gpt2.Engine, error) {
	return gpt2.Load(opticks.Files(), gpt2.Options{Name: opticks.Name})
})

func newton(t testing.TB) model.Engine {
	t.Helper()
	e, err := newtonEngine()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// text generates a text of at most p.MaxTokens tokens and returns its tokens.
func text(ctx context.Context, e model.Engine, prompt []int, p model.Params) ([]int, error) {
	var tokens []int
	_, err := model.Generate(ctx, e, prompt, nil, p, func(d model.Delta) error {
		tokens = append(tokens, d.Tokens...)
		return nil
	})
	return tokens, err
}

// opening is the prompt of most tests.
const opening = "And hence it is manifest"

// texts generates n texts of the built-in model, several at a time. params returns the
// parameters of each, among them its seed.
func texts(t *testing.T, n int, params func(i int, prompt []int) model.Params) [][]int {
	t.Helper()
	e := newton(t)
	prompt := e.Encode(opening)
	all := make([][]int, n)
	errs := make([]error, n)
	var group sync.WaitGroup
	const together = 8
	for first := range together {
		group.Go(func() {
			for i := first; i < n; i += together {
				all[i], errs[i] = text(t.Context(), e, prompt, params(i, prompt))
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// p returns the p-value of tokens for a key.
func p(k Key, tokens []int) float64 {
	marked := markedTokens(tokens)
	return pValue(len(marked), best(k, marked))
}

func best(k Key, marked []markedToken) float64 {
	score, _ := k.bestScore(context.Background(), marked) // fails only after the end of the context
	return score
}

// checkUniform fails the test if p-values are too often small. A p-value may be below x
// with a probability of at most x. The limit lies 5 standard deviations above the
// expected number. The inputs are fixed, so the test cannot fail by chance.
func checkUniform(t *testing.T, ps []float64) {
	t.Helper()
	for _, x := range []float64{0.5, 0.1, 0.01, 0.001} {
		n := below(ps, x)
		want := x * float64(len(ps))
		t.Attr("p-below-"+strconv.FormatFloat(x, 'g', -1, 64), strconv.Itoa(n)+" of "+strconv.Itoa(len(ps)))
		if float64(n) > want+5*math.Sqrt(want*(1-x))+1 {
			t.Errorf("%d of %d p-values are below %g", n, len(ps), x)
		}
	}
}

// below returns the number of p-values below x.
func below(ps []float64, x float64) int {
	n := 0
	for _, p := range ps {
		if p < x {
			n++
		}
	}
	return n
}
