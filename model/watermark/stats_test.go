package watermark

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"colophon/model"
)

// Over many keys, the frequencies of the chosen tokens must fit the sampler's weights.
// Pearson's chi-squared statistic must stay below a limit that a correct chooser exceeds
// with a probability of one in a million.
func TestChosenTokensHaveTheDistributionOfTheSampler(t *testing.T) {
	logits := []float32{2, 1, 1, 0, -1, 3, 0.5, -4, 2.5, -0.5, -60}
	for _, c := range []struct {
		p     model.Params
		limit float64 // for the number of kept tokens with a weight, minus 1
	}{
		{model.Params{Temperature: 1, TopP: 1}, 45.08},
		{model.Params{Temperature: 0.5, TopP: 1}, 45.08},
		{model.Params{Temperature: 2, TopK: 4, TopP: 1}, 30.66},
		{model.Params{Temperature: 1, TopP: 0.8}, 30.66},
	} {
		const keys = 20_000
		seen := map[int]float64{}
		weights := map[int]float64{}
		var chooser model.Chooser
		c.p.MaxTokens = 1
		c.p.Choose = func(generated []int, candidates []model.Candidate) (int, bool) {
			for _, x := range candidates {
				weights[x.Token()] = float64(x.Weight())
			}
			return chooser(generated, candidates)
		}
		s, err := model.NewSampler(c.p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		for key := range uint64(keys) {
			chooser = testKey(key).Chooser(0, nil)
			token, err := s.Sample(logits, []int{1, 2, 3})
			if err != nil {
				t.Fatal(err)
			}
			seen[token]++
		}
		total, statistic := 0.0, 0.0
		for _, w := range weights {
			total += w
		}
		for token, w := range weights {
			if want := keys * w / total; want > 0 {
				statistic += (seen[token] - want) * (seen[token] - want) / want
			} else if seen[token] > 0 {
				t.Errorf("%+v: token %d has no weight and was chosen", c.p, token)
			}
		}
		t.Attr(fmt.Sprintf("chi-squared-temperature-%g-top_k-%d-top_p-%g", c.p.Temperature, c.p.TopK, c.p.TopP), fmt.Sprintf("%.1f", statistic))
		if statistic > c.limit {
			t.Errorf("statistic %.1f, limit %g: %v", statistic, c.limit, seen)
		}
	}
}

// A surprise compares the log-likelihood of the chosen tokens with its expectation.
type surprise struct{ sum, variance, tokens float64 }

// observe wraps a chooser and adds the tokens that it chooses.
func (s *surprise) observe(choose model.Chooser) model.Chooser {
	return func(generated []int, candidates []model.Candidate) (int, bool) {
		token, ok := choose(generated, candidates)
		if !ok {
			return token, ok
		}
		var total, mean, square, chosen float64
		for _, c := range candidates {
			total += float64(c.Weight())
		}
		for _, c := range candidates {
			if p := float64(c.Weight()) / total; p > 0 {
				mean += p * math.Log(p)
				square += p * math.Log(p) * math.Log(p)
				if c.Token() == token {
					chosen = math.Log(p)
				}
			}
		}
		s.sum += chosen - mean
		s.variance += square - mean*mean
		s.tokens++
		return token, ok
	}
}

// Marked texts must be neither more nor less likely than unmarked ones. The difference
// between the log-likelihood of a drawn token and its expectation has mean 0, so the sum
// of the differences must be within 5 of its standard deviations.
func TestMarkedTextsAreAsLikelyAsUnmarkedOnes(t *testing.T) {
	n := count(t, 32, 1000)
	k := testKey(10)
	all := make([]surprise, n)
	texts(t, n, func(i int, prompt []int) model.Params {
		seed := uint64(i)
		return model.Params{MaxTokens: 60, Temperature: 0.9, TopP: 1, Seed: seed, Choose: all[i].observe(k.Chooser(seed, prompt))}
	})
	var sum surprise
	for _, s := range all {
		sum.sum, sum.variance, sum.tokens = sum.sum+s.sum, sum.variance+s.variance, sum.tokens+s.tokens
	}
	deviations := sum.sum / math.Sqrt(sum.variance)
	t.Attr("marked-tokens", fmt.Sprintf("%.0f", sum.tokens))
	t.Attr("difference-nats-per-token", fmt.Sprintf("%.4f", sum.sum/sum.tokens))
	t.Attr("difference-in-standard-deviations", fmt.Sprintf("%.2f", deviations))
	if math.Abs(deviations) > 5 {
		t.Errorf("the log-likelihood of %.0f tokens differs by %.1f standard deviations", sum.tokens, deviations)
	}
}

func TestUnmarkedTextsHaveValidPValues(t *testing.T) {
	n := count(t, 50, 5000)
	ps := make([]float64, n)
	for i, tokens := range texts(t, n, func(i int, _ []int) model.Params {
		return model.Params{MaxTokens: 100, Temperature: 0.8, TopP: 1, Seed: uint64(i)}
	}) {
		ps[i] = p(testKey(uint64(i)), tokens)
	}
	checkUniform(t, ps)
	if n := below(ps, threshold); n > 0 {
		t.Errorf("%d unmarked texts found", n)
	}
}

// A text with the mark of another key is unmarked.
func TestTextsOfAnotherKeyHaveValidPValues(t *testing.T) {
	n := count(t, 20, 1000)
	ps := make([]float64, n)
	for i, tokens := range texts(t, n, func(i int, prompt []int) model.Params {
		seed := uint64(i)
		return model.Params{MaxTokens: 100, Temperature: 1, TopP: 1, Seed: seed, Choose: testKey(11).Chooser(seed, prompt)}
	}) {
		ps[i] = p(testKey(1000+uint64(i)), tokens)
	}
	checkUniform(t, ps)
}

// heldOut returns the tokens of the part of Newton's text that is in the tree.
func heldOut(t *testing.T) []int {
	t.Helper()
	b, err := os.ReadFile("../opticks/testdata/heldout.txt")
	if err != nil {
		t.Fatal(err)
	}
	return newton(t).Encode(strings.ReplaceAll(string(b), "\f", ""))
}

// A person's text repeats its phrases. The passages overlap by half.
func TestNewtonsTextHasValidPValues(t *testing.T) {
	n := count(t, 40, 1000)
	tokens := heldOut(t)
	const length = 200
	var ps []float64
	for i := range n {
		start := i * length / 2 % (len(tokens) - length)
		ps = append(ps, p(testKey(uint64(i)), tokens[start:start+length]))
	}
	checkUniform(t, ps)
	whole := tokens[:min(len(tokens), MaxTokens)]
	result, scored, err := testKey(12).Detect(t.Context(), whole)
	t.Attr("scored-tokens-of-the-whole", fmt.Sprintf("%d of %d", scored, len(whole)))
	if result != NotFound || err != nil {
		t.Errorf("the whole text: %s, %v", result, err)
	}
}

// everyToken returns the tokens as if each occurrence of a context counted.
func everyToken(tokens []int) []markedToken {
	var all []markedToken
	for i := width; i < len(tokens); i++ {
		all = append(all, markedToken{window(tokens[i-width : i]), uint32(tokens[i])})
	}
	return all
}

// The score of n unmarked tokens has mean n and variance n. Newton repeats so many phrases
// that the variance would be larger, and p too small, if each occurrence counted. The
// scores of the 256 salts are independent, so four standard deviations of their measured
// variance are 0.36, in units of n.
func TestNewtonsPhrasesMustCountOnce(t *testing.T) {
	tokens := heldOut(t)[:MaxTokens]
	k := testKey(12)
	variance := func(marked []markedToken) float64 {
		sum, n := 0.0, float64(len(marked))
		for salt := range salts {
			d := k.score(byte(salt), marked) - n
			sum += d * d / n
		}
		return sum / salts
	}
	once, often := variance(markedTokens(tokens)), variance(everyToken(tokens))
	t.Attr("variance-of-the-scores", fmt.Sprintf("%.2f", once))
	t.Attr("variance-without-the-rule", fmt.Sprintf("%.2f", often))
	if math.Abs(once-1) > 0.36 {
		t.Errorf("the variance is %.2f, want 1", once)
	}
	if often < 1.2*once {
		t.Errorf("without the rule, the variance is %.2f, want more than %.2f", often, once)
	}
}

// repetitive returns an unmarked text that says the same sentence again and again.
func repetitive(seed uint64) []int {
	rnd := rand.New(rand.NewPCG(seed, 3))
	var tokens []int
	for _, sentence := range [][]int{rnd.Perm(30), rnd.Perm(10)} {
		for range 8 {
			tokens = append(tokens, sentence...)
		}
	}
	return tokens
}

// A detector that counts a context each time it occurs is this package's without the map.
// The test shows that the map matters, and that the tests above can see it.
func TestRepeatedContextsMustCountOnce(t *testing.T) {
	const n = 20
	once, often := make([]float64, n), make([]float64, n)
	for i := range n {
		k, tokens := testKey(uint64(i)), repetitive(uint64(i))
		once[i] = p(k, tokens)
		all := everyToken(tokens)
		often[i] = pValue(len(all), best(k, all))
	}
	checkUniform(t, once)
	wrong := below(often, threshold)
	t.Attr("found-without-the-rule", fmt.Sprintf("%d of %d", wrong, n))
	if wrong < n/2 {
		t.Errorf("without the rule, %d of %d unmarked texts are found, want most", wrong, n)
	}
}
