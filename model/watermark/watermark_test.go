package watermark

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"colophon/model"
)

func TestInterruptedTextContinuesTheSameAtEveryCut(t *testing.T) {
	e := newton(t)
	prompt := e.Encode(opening)
	for _, p := range []model.Params{
		{MaxTokens: 60, Temperature: 1, TopP: 1, Seed: 1},
		{MaxTokens: 60, Temperature: 0.3, TopK: 5, TopP: 0.9, Seed: 2}, // repeats its phrases
	} {
		p.Choose = testKey(1).Chooser(p.Seed, prompt)
		want, err := text(t.Context(), e, prompt, p)
		if err != nil {
			t.Fatal(err)
		}
		if len(markedTokens(want)) < 15 {
			t.Fatalf("%d of %d tokens are marked", len(markedTokens(want)), len(want))
		}
		s, err := e.Open(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		logits := [][]float32{}
		next := prompt
		for _, token := range want {
			l, err := s.Next(t.Context(), next...)
			if err != nil {
				t.Fatal(err)
			}
			logits, next = append(logits, slices.Clone(l)), []int{token}
		}
		s.Close()
		for cut := range want {
			p.Choose = testKey(1).Chooser(p.Seed, prompt) // as after a restart
			sampler, err := model.NewSampler(p, nil, -1)
			if err != nil {
				t.Fatal(err)
			}
			for i := cut; i < len(want); i++ {
				if got, err := sampler.Sample(logits[i], want[:i]); got != want[i] || err != nil {
					t.Fatalf("cut after %d tokens: token %d is %d, %v; want %d", cut, i, got, err, want[i])
				}
			}
		}
	}
}

// Without the salt and the first tokens, all these texts would be one.
func TestTextsOfDifferentSeedsDiffer(t *testing.T) {
	const n = 100
	k := testKey(2)
	distinct := map[string]bool{}
	for _, tokens := range texts(t, n, func(i int, prompt []int) model.Params {
		return model.Params{MaxTokens: 40, Temperature: 0.8, TopP: 1, Seed: uint64(i), Choose: k.Chooser(uint64(i), prompt)}
	}) {
		distinct[fmt.Sprint(tokens)] = true
	}
	t.Attr("distinct-texts", fmt.Sprintf("%d of %d", len(distinct), n))
	if len(distinct) < 99 {
		t.Errorf("%d of %d texts are distinct, want 99", len(distinct), n)
	}
}

func TestTemperatureZeroHasNoMark(t *testing.T) {
	p := func(choose model.Chooser) func(int, []int) model.Params {
		return func(int, []int) model.Params {
			return model.Params{MaxTokens: 100, TopP: 1, Choose: choose}
		}
	}
	k := testKey(3)
	plain, marked := texts(t, 1, p(nil))[0], texts(t, 1, p(k.Chooser(0, nil)))[0]
	if !slices.Equal(plain, marked) {
		t.Errorf("tokens %v, want %v", marked, plain)
	}
}

// A chooser must choose by the definition in the package comment, whatever the number of
// candidates. The test repeats the steps with big numbers and one token at a time.
func TestChooseFollowsItsDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 700)
	for i := range logits {
		logits[i] = float32(3 * rnd.NormFloat64())
	}
	k := testKey(4)
	generated := []int{9, 1, 2, 3}
	n := k.noise(k.salt(7, []int{5, 6}), window{1, 2, 3})
	for _, p := range []model.Params{
		{Temperature: 1, TopP: 1},
		{Temperature: 1e9, TopP: 1},
		{Temperature: 0.1, TopP: 1},
		{Temperature: 1, TopP: 1, TopK: 1},
		{Temperature: 1, TopP: 1, TopK: 5},
		{Temperature: 1, TopP: 0.9},
		{Temperature: 2, TopP: 0.99, TopK: 400},
	} {
		p.MaxTokens = 1
		choose := k.Chooser(7, []int{5, 6})
		p.Choose = func(generated []int, candidates []model.Candidate) (int, bool) {
			want, least := -1, new(big.Float).SetInf(false)
			for _, c := range candidates {
				if c.Weight() == 0 {
					continue
				}
				x := new(big.Float).SetFloat64(-math.Log(n.uniform(uint32(c.Token()))))
				x.Quo(x, new(big.Float).SetUint64(c.Weight()))
				if x.Cmp(least) < 0 {
					want, least = c.Token(), x
				}
			}
			got, ok := choose(generated, candidates)
			if got != want || !ok {
				t.Errorf("%+v: token %d, %t; want %d", p, got, ok, want)
			}
			return got, ok
		}
		s, err := model.NewSampler(p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sample(logits, generated); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFirstTokensAndRepeatedContextsHaveTheOrdinaryChoice(t *testing.T) {
	choose := testKey(5).Chooser(0, nil)
	for _, c := range []struct {
		generated []int
		want      bool
	}{
		{nil, false}, {[]int{1}, false}, {[]int{1, 2}, false}, {[]int{1, 2, 3}, true},
		{[]int{1, 2, 3, 1, 2, 3}, false}, {[]int{1, 1, 1, 1}, false}, {[]int{1, 2, 3, 1, 2, 4}, true},
		{[]int{7, 1, 2, 3, 8, 1, 2, 3}, false},
	} {
		s, err := model.NewSampler(model.Params{MaxTokens: 1, Temperature: 1, TopP: 1, Choose: func(generated []int, candidates []model.Candidate) (int, bool) {
			token, ok := choose(generated, candidates)
			if ok != c.want {
				t.Errorf("after %v: a marked choice is %t, want %t", generated, ok, c.want)
			}
			return token, ok
		}}, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sample(make([]float32, 10), c.generated); err != nil {
			t.Fatal(err)
		}
	}
}

// The chooser looks for earlier contexts one by one, the detector with a map.
func TestChooserAndDetectorAgreeOnTheMarkedTokens(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 200 {
		tokens := make([]int, rnd.IntN(60))
		for i := range tokens {
			tokens[i] = rnd.IntN(3)
		}
		var want []markedToken
		for i, token := range tokens {
			if w, ok := windowAt(tokens, i); ok {
				want = append(want, markedToken{w, uint32(token)})
			}
		}
		if got := markedTokens(tokens); !slices.Equal(got, want) {
			t.Fatalf("%v: marked %v, want %v", tokens, got, want)
		}
	}
}

func TestKeyStreamIsTheSameInBothWays(t *testing.T) {
	n := testKey(6).noise(255, window{1, 2, 3})
	stream := n.stream(make([]byte, 3), 3001)
	for token := range 3001 {
		if got, want := n.uniform(uint32(token)), uniform(stream[8*token:]); got != want || !(got > 0 && got < 1) || 1-(1-got) != got {
			t.Fatalf("token %d has %v, want %v", token, got, want)
		}
	}
}

func TestKeysShowOnlyTheirID(t *testing.T) {
	k, other := testKey(7), testKey(8)
	if len(k.ID()) != 16 || k.ID() == other.ID() || k.ID() != testKey(7).ID() {
		t.Errorf("ids %q and %q", k.ID(), other.ID())
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(verb, k); got != "watermark key "+k.ID() {
			t.Errorf("%s writes %s", verb, got)
		}
	}
	if got := fmt.Sprintf("%v", struct{ K Key }{k}); !strings.Contains(got, k.ID()) || strings.Contains(got, fmt.Sprint(k.secret[:3])) {
		t.Errorf("inside a struct, %%v writes %s", got)
	}
	salts := map[byte]bool{}
	for seed := range uint64(1000) {
		salts[k.salt(seed, []int{1})] = true
	}
	if len(salts) < 240 {
		t.Errorf("%d salts of 1000 texts", len(salts))
	}
	if s := k.salt(1, []int{1, 2}); s == k.salt(2, []int{1, 2}) && s == k.salt(1, []int{2, 1}) && s == other.salt(1, []int{1, 2}) {
		t.Error("the salt does not depend on key, seed and prompt")
	}
}
