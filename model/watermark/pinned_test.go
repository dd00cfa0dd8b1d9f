package watermark

import (
	"math/rand/v2"
	"slices"
	"testing"

	"colophon/model"
)

// These values must never change while Parameters has its name, because recorded texts
// depend on them. They must be the same on every processor.
func TestSchemeIsPinned(t *testing.T) {
	if Parameters != "gumbel-h3-s8/1" {
		t.Errorf("the scheme is %s: pin its values", Parameters)
	}
	var secret [KeySize]byte
	for i := range secret {
		secret[i] = byte(i)
	}
	k := NewKey(secret)
	if got := k.ID(); got != "020ca29fff479ebe" {
		t.Errorf("the id is %s", got)
	}
	if got := k.salt(1, []int{2, 50256}); got != 29 {
		t.Errorf("the salt is %d", got)
	}
	n := k.noise(200, window{1, 2, 50256})
	for token, want := range map[uint32]float64{
		0: 0x1.a372aa32d53f6p-02, 1: 0x1.c916ce17a38f4p-03, 2: 0x1.a6793adf8f534p-03, 50256: 0x1.829934584f64bp-01,
	} {
		if got := n.uniform(token); got != want {
			t.Errorf("token %d has %x", token, got)
		}
	}

	rnd := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 50257)
	for i := range logits {
		logits[i] = float32(2.5 * rnd.NormFloat64())
	}
	var got [][]int
	for _, p := range []model.Params{
		{Temperature: 1, TopP: 1},
		{Temperature: 0.7, TopK: 40, TopP: 1},
		{Temperature: 1, TopP: 0.9, Seed: 3},
		{Temperature: 1000, TopP: 1},
	} {
		p.MaxTokens, p.Choose = 1, k.Chooser(p.Seed, []int{1})
		s, err := model.NewSampler(p, nil, -1)
		if err != nil {
			t.Fatal(err)
		}
		row := []int{1, 2, 3}
		for range 6 {
			token, err := s.Sample(logits, row)
			if err != nil {
				t.Fatal(err)
			}
			row = append(row, token)
		}
		got = append(got, row[width:])
	}
	want := [][]int{
		{29995, 43330, 48584, 6640, 24772, 19089},
		{20284, 20284, 20284, 37659, 36175, 44037},
		{23526, 18334, 11510, 38288, 26224, 10582},
		{29995, 9237, 12632, 40238, 46900, 193},
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("tokens %v, want %v", got, want)
	}
	tokens := rand.New(rand.NewPCG(1, 2)).Perm(100)
	if got := best(k, markedTokens(tokens)); got != 0x1.06145d056fea3p+07 {
		t.Errorf("the score is %x", got)
	}
}
