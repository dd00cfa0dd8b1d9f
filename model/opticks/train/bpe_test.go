package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"colophon/model/gpt2"

	"pgregory.net/rapid"
)

const sample = "Phænomena of the Light, the Lights' Refractions; 2 deg. 0´. 7´´. try'd\nthe  Rays and the rays,\n\n we'll see it's so. "

func tokenizer(t testing.TB, e *encoding) *gpt2.Tokenizer {
	t.Helper()
	vocab, merges, err := e.files()
	if err != nil {
		t.Fatal(err)
	}
	tokenizer, err := gpt2.ReadTokenizer(fstest.MapFS{"vocab.json": {Data: vocab}, "merges.txt": {Data: merges}})
	if err != nil {
		t.Fatal(err)
	}
	return tokenizer
}

func learned(t testing.TB) *encoding {
	t.Helper()
	e, err := learn(strings.Repeat(sample, 3), 290)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// encode must give the ids of a Tokenizer with the same files. With BPE-dropout, the
// ids must still decode to the text.
func TestEncodeAgreesWithTheTokenizer(t *testing.T) {
	e := learned(t)
	oracle := tokenizer(t, e)
	if n := oracle.Size(); n != 290 || string(oracle.Decode([]int{289})) != endOfText {
		t.Fatalf("%d tokens, the last of them %q", n, oracle.Decode([]int{289}))
	}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.OneOf(
			rapid.String(), rapid.SampledFrom(strings.SplitAfter(sample, " ")), rapid.StringOf(rapid.SampledFrom([]rune(" \n\t'sd1é\u00a0\u3000"))),
		)).Draw(t, "text"), "")
		rng := rand.New(rand.NewPCG(1, 2))
		var ids, dropped []int
		for w := range gpt2.Words(text) {
			ids = append(ids, e.encode(w)...)
			dropped = append(dropped, e.merge(w, rng, 0.5)...)
		}
		if want := oracle.Encode(text); !slices.Equal(ids, want) {
			t.Fatalf("%q is %v, want %v", text, ids, want)
		}
		if got := string(oracle.Decode(dropped)); got != text {
			t.Fatalf("%q with dropout is %q", text, got)
		}
	})
}

func TestLearnMergesTheMostFrequentPairs(t *testing.T) {
	e := learned(t)
	again := learned(t)
	if !slices.Equal(e.merges, again.merges) {
		t.Error("two calls learn different merges")
	}
	small, err := learn("ab ab ab ac", 259)
	if err != nil {
		t.Fatal(err)
	}
	// The pairs " a" and "ab" occur three times each. " a" must be merged first,
	// because a space sorts before a letter.
	if got := small.tokens[256:]; !slices.Equal(got, []string{" a", " ab", endOfText}) {
		t.Errorf("learned %q", got)
	}
	if _, err := learn("ab", 300); err == nil {
		t.Error("learn makes 300 tokens of two letters")
	}
}
