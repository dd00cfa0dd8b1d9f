package model

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"colophon/model/exact"
)

// chooseByDefinition chooses a token by the steps in the comment of Sampler. Unlike
// Sample, it sorts all tokens and computes with big integers.
func chooseByDefinition(logits []float32, p Params, index int) int {
	ids := make([]int, len(logits))
	for i := range ids {
		ids[i] = i
	}
	slices.SortStableFunc(ids, func(a, b int) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	if p.Temperature == 0 {
		return ids[0]
	}
	if p.TopK > 0 && p.TopK < len(ids) {
		ids = ids[:p.TopK]
	}
	most := float64(logits[ids[0]])
	var weights []*big.Int
	for _, id := range ids {
		w := exact.Exp((float64(logits[id])-most)/p.Temperature) * (1 << 43)
		weights = append(weights, big.NewInt(int64(math.Floor(w+0.5))))
	}
	// reach returns the smallest n for which the first n weights add up to at least
	// share/2^53 of the total. If above is true, their sum must exceed this part of the
	// total.
	reach := func(share *big.Int, above bool) int {
		total := new(big.Int)
		for _, w := range weights {
			total.Add(total, w)
		}
		total.Mul(total, share)
		sum := new(big.Int)
		for i, w := range weights {
			sum.Add(sum, w)
			c := new(big.Int).Lsh(sum, 53).Cmp(total)
			if sum.Sign() > 0 && (c > 0 || c == 0 && !above) {
				return i + 1
			}
		}
		panic("weights do not reach")
	}
	for weights[len(weights)-1].Cmp(big.NewInt(int64(math.Ceil(float64(int64(p.MinP*(1<<53)))/(1<<10))))) < 0 {
		weights = weights[:len(weights)-1]
	}
	if p.TopP < 1 {
		weights = weights[:reach(big.NewInt(int64(p.TopP*(1<<53))), false)]
	}
	in := append([]byte("colophon sampler v1\x00"), binary.BigEndian.AppendUint64(nil, p.Seed)...)
	in = binary.BigEndian.AppendUint64(in, uint64(index))
	sum := sha256.Sum256(in)
	u := new(big.Int).SetBytes(sum[:7])
	u.Rsh(u, 3)
	return ids[reach(u, true)-1]
}

func TestSampleFollowsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "tokens")
		spread := rapid.SampledFrom([]float64{0, 0.01, 1, 5, 50, 1e30}).Draw(t, "spread")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "logits"), 0))
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = float32(rnd.NormFloat64() * spread)
			if rnd.IntN(4) == 0 {
				logits[i] = logits[rnd.IntN(i+1)] // gives some tokens equal logits
			}
			if rnd.IntN(20) == 0 {
				logits[i] = float32(math.Copysign(0, float64(rnd.IntN(2))-0.5))
			}
		}
		p := Params{
			MaxTokens:   1,
			Temperature: rapid.SampledFrom([]float64{0, 5e-324, 0.01, 0.7, 1, 3, 1e300}).Draw(t, "temperature"),
			TopK:        rapid.IntRange(0, n+2).Draw(t, "top_k"),
			TopP:        rapid.OneOf(rapid.SampledFrom([]float64{0, 1e-300, 0.5, 1}), rapid.Float64Range(0, 1)).Draw(t, "top_p"),
			MinP:        rapid.OneOf(rapid.SampledFrom([]float64{0, 0, 1e-300, 0.05, 1}), rapid.Float64Range(0, 1)).Draw(t, "min_p"),
			Seed:        rapid.Uint64().Draw(t, "seed"),
		}
		s, err := NewSampler(p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		for index := range 3 {
			got, err := s.Sample(logits, make([]int, index))
			if err != nil {
				t.Fatal(err)
			}
			if want := chooseByDefinition(logits, p, index); got != want {
				t.Fatalf("index %d: token %d, want %d", index, got, want)
			}
		}
	})
}

// vocabulary returns logits that are distributed like those of a language model. A few
// tokens are likely, and the others are a long tail.
func vocabulary(seed uint64) []float32 {
	rnd := rand.New(rand.NewPCG(seed, 50257))
	logits := make([]float32, 50257)
	for i := range logits {
		logits[i] = float32(-100 + 2.5*rnd.NormFloat64())
	}
	for range 40 {
		logits[rnd.IntN(len(logits))] += float32(5 + 2*rnd.NormFloat64())
	}
	return logits
}

func TestSampleFollowsItsDefinitionForALargeVocabulary(t *testing.T) {
	for i, p := range []Params{
		{Temperature: 1, TopP: 1},
		{Temperature: 1e9, TopP: 1},
		{Temperature: 0.8, TopK: 40, TopP: 0.95},
		{Temperature: 1, TopP: 0.9},
		{Temperature: 2, TopK: 20000, TopP: 0.99},
		{Temperature: 2, TopP: 0.99, MinP: 0.01},
	} {
		p.MaxTokens, p.Seed = 1, uint64(i)
		s, err := NewSampler(p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		for index := range 2 {
			logits := vocabulary(uint64(index))
			got, err := s.Sample(logits, make([]int, index))
			if want := chooseByDefinition(logits, p, index); err != nil || got != want {
				t.Errorf("%+v: token %d, %v, want %d", p, got, err, want)
			}
		}
	}
}

// The sampled tokens must never change, because recorded texts depend on them.
func TestSampledTokensArePinned(t *testing.T) {
	for _, c := range []struct{ seed, index, want uint64 }{
		{0, 0, 0x14b55c9b8ef86f}, {0, 1, 0xdcf217dd1eb13}, {1, 0, 0x1b9695b4021f62}, {math.MaxUint64, 1 << 40, 0x16a5e424188de7},
	} {
		if got := uniform(c.seed, c.index); got != c.want {
			t.Errorf("uniform(%d, %d) = %#x, want %#x", c.seed, c.index, got, c.want)
		}
	}
	var got [][]int
	for _, p := range []Params{
		{Temperature: 0, TopP: 1, Seed: 1},
		{Temperature: 1, TopP: 1, Seed: 1},
		{Temperature: 0.7, TopK: 40, TopP: 1, Seed: 2},
		{Temperature: 1, TopP: 0.9, Seed: 3},
		{Temperature: 1.5, TopK: 100, TopP: 0.5, Seed: 1 << 63},
	} {
		p.MaxTokens = 1
		s, err := NewSampler(p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		row := []int{}
		for index := range 8 {
			id, err := s.Sample(vocabulary(1), make([]int, index))
			if err != nil {
				t.Fatal(err)
			}
			row = append(row, id)
		}
		got = append(got, row)
	}
	want := [][]int{
		{3175, 3175, 3175, 3175, 3175, 3175, 3175, 3175},
		{18943, 42001, 15438, 30273, 29715, 12981, 26018, 24461},
		{10494, 42001, 10494, 2723, 10494, 14914, 3175, 3175},
		{3175, 12222, 44708, 8657, 47984, 40315, 16430, 3175},
		{10494, 10494, 3950, 4488, 29715, 20003, 10494, 20824},
	}
	if !cmp.Equal(got, want) {
		t.Errorf("tokens %v, want %v", got, want)
	}
}

// Over many indexes, the frequencies of the tokens must fit the distribution of the
// logits. Pearson's chi-squared statistic must stay below a limit that a correct
// sampler exceeds with a probability of one in a million. The seeds are fixed, so this
// test cannot fail by chance.
func TestSampleHasTheDistributionOfTheLogits(t *testing.T) {
	logits := []float32{2, 1, 1, 0, -1, 3, 0.5, -4, 2.5, -0.5}
	for _, c := range []struct {
		p     Params
		limit float64
	}{
		{Params{Temperature: 1, TopP: 1, Seed: 7}, 45.08},
		{Params{Temperature: 0.5, TopP: 1, Seed: 8}, 45.08},
		{Params{Temperature: 2, TopK: 4, TopP: 1, Seed: 9}, 30.66},
		{Params{Temperature: 1, TopP: 0.8, Seed: 10}, 30.66},
	} {
		c.p.MaxTokens = 1
		order := []int{5, 8, 0, 1, 2, 6, 3, 9, 4, 7}
		weight := func(id int) float64 { return math.Exp(float64(logits[id]) / c.p.Temperature) }
		if c.p.TopK > 0 {
			order = order[:c.p.TopK]
		}
		total := 0.0
		for _, id := range order {
			total += weight(id)
		}
		sum := 0.0
		for i, id := range order {
			if sum += weight(id); sum >= c.p.TopP*total {
				order, total = order[:i+1], sum
				break
			}
		}
		s, err := NewSampler(c.p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		const draws = 100_000
		texts := make([]int, draws)
		count := make([]float64, len(logits))
		for index := range draws {
			id, err := s.Sample(logits, texts[:index])
			if err != nil {
				t.Fatal(err)
			}
			count[id]++
		}
		statistic, seen := 0.0, 0.0
		for _, id := range order {
			want := draws * weight(id) / total
			statistic += (count[id] - want) * (count[id] - want) / want
			seen += count[id]
		}
		if seen != draws {
			t.Errorf("%+v: tokens outside %v: %v", c.p, order, count)
		}
		if statistic > c.limit {
			t.Errorf("%+v: statistic %.1f, counts %v", c.p, statistic, count)
		}
	}
}

func TestTopPIsExactAtItsEdges(t *testing.T) {
	const third = (1 << 53) / 3 // a third of 2^53, rounded down
	for _, c := range []struct {
		topP float64
		want int
	}{{0, 1}, {1e-300, 1}, {float64(third) / (1 << 53), 1}, {float64(third+1) / (1 << 53), 2}, {2.0 / 3, 2}, {0.67, 3}, {1, 3}} {
		s, err := NewSampler(Params{MaxTokens: 1, Temperature: 1, TopP: c.topP}, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[int]bool{}
		for index := range 100 {
			id, err := s.Sample([]float32{-50, 5, 5, 5}, make([]int, index))
			if err != nil {
				t.Fatal(err)
			}
			seen[id] = true
		}
		if len(seen) != c.want || !seen[1] {
			t.Errorf("top_p %g keeps %v, want %d tokens", c.topP, seen, c.want)
		}
	}
}

func TestWeightsAreRoundedToNearest(t *testing.T) {
	s, err := NewSampler(Params{MaxTokens: 1, Temperature: 0.5, TopP: 1}, nil, -1)
	if err != nil {
		t.Fatal(err)
	}
	// The weights must be the integers nearest to 2^43 times e^0, e^-30, e^-30.4,
	// e^-30.6, e^-2 and e^-200.
	logits := []float32{3, 3 - 15, 3 - 15.2, 3 - 15.3, 3 - 1, 3 - 100}
	s.keepAll(logits)
	total := s.weigh(logits, 3)
	var got []uint64
	sum := uint64(0)
	for _, c := range s.candidates {
		got = append(got, c.weight)
		sum += c.weight
	}
	want := []uint64{1 << 43, 1, 1, 0, 1190421740536, 0}
	if !slices.Equal(got, want) || total != sum {
		t.Errorf("weights %v with sum %d, want %v", got, total, want)
	}
}

func TestUniformsDifferBySeedAndIndex(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(100) {
		for index := range uint64(100) {
			u := uniform(seed, index)
			if u >= 1<<53 || seen[u] {
				t.Fatalf("uniform(%d, %d) = %#x", seed, index, u)
			}
			seen[u] = true
		}
	}
}

func TestSampleRefusesUnusableLogits(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, p := range []Params{{Temperature: 0}, {Temperature: 1, TopP: 1}, {Temperature: 1, TopK: 1, TopP: 1}} {
		p.MaxTokens = 1
		s, err := NewSampler(p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]float32{nil, {}, {float32(math.NaN())}, {0, inf}, {-inf, 0}, {1, 2, float32(math.NaN())}, make([]float32, 1<<20+1)} {
			if id, err := s.Sample(bad, nil); !errors.Is(err, ErrLogits) {
				t.Errorf("%d logits: token %d, %v", len(bad), id, err)
			}
		}
		if id, err := s.Sample([]float32{-math.MaxFloat32, math.MaxFloat32}, nil); id != 1 || err != nil {
			t.Errorf("the largest logits: token %d, %v", id, err)
		}
	}
}

func samplerCases() map[string]Params {
	return map[string]Params{
		"greedy":      {MaxTokens: 1},
		"all":         {MaxTokens: 1, Temperature: 1, TopP: 1},
		"flat":        {MaxTokens: 1, Temperature: 1000, TopP: 1},
		"top_k=40":    {MaxTokens: 1, Temperature: 0.8, TopK: 40, TopP: 1},
		"top_p=0.9":   {MaxTokens: 1, Temperature: 1, TopP: 0.9},
		"top_k_top_p": {MaxTokens: 1, Temperature: 0.8, TopK: 40, TopP: 0.9},
		"min_p=0.05":  {MaxTokens: 1, Temperature: 1, TopP: 1, MinP: 0.05},
		"penalties":   {MaxTokens: 1, Temperature: 0.8, TopK: 40, TopP: 1, PresencePenalty: 0.5, FrequencyPenalty: 0.5, RepetitionPenalty: 1.2},
		"logit_bias":  {MaxTokens: 1, Temperature: 0.8, TopK: 40, TopP: 1, LogitBias: map[int]float64{50256: -100}},
	}
}

func TestSampleDoesNotAllocate(t *testing.T) {
	logits := vocabulary(1)
	for name, p := range samplerCases() {
		s, err := NewSampler(p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		text, index := make([]int, 8), 0
		if n := testing.AllocsPerRun(5, func() {
			if _, err := s.Sample(logits, text[:index]); err != nil {
				t.Error(err)
			}
			index++
		}); n != 0 {
			t.Errorf("%s: %g allocations", name, n)
		}
	}
}

func BenchmarkSample(b *testing.B) {
	logits := vocabulary(1)
	for name, p := range samplerCases() {
		b.Run(name, func(b *testing.B) {
			s, err := NewSampler(p, nil, -1)
			if err != nil {
				b.Fatal(err)
			}
			text := make([]int, 1024)
			for i := 0; b.Loop(); i++ {
				if _, err := s.Sample(logits, text[:i%len(text)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
