package watermark

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"colophon/model"
)

// TestMarkedTextsAreFoundWithoutTheirTokens encodes marked texts of 100 tokens again, because
// a detector has only the text. The sampler may have written a word with other tokens than the
// tokenizer, and a text may be cut within a word.
func TestMarkedTextsAreFoundWithoutTheirTokens(t *testing.T) {
	n := count(t, 20, 200)
	k, e := testKey(24), newton(t)
	all := texts(t, n, func(i int, prompt []int) model.Params {
		seed := uint64(i)
		return model.Params{MaxTokens: 100, Temperature: 0.8, TopP: 1, Seed: seed, Choose: k.Chooser(seed, prompt)}
	})
	rnd := rand.New(rand.NewPCG(1, 1))
	found, full := map[string]int{}, 0
	const another = "The Sun is a round Body of great Heat, and shines upon all the Planets. "
	for _, tokens := range all {
		if len(tokens) < 100 {
			continue // the model ended the text
		}
		full++
		text := string(e.Decode(tokens))
		for name, tokens := range map[string][]int{
			"by its tokens":              tokens,
			"by its text":                e.Encode(text),
			"with its prompt":            e.Encode(opening + text),
			"cut":                        e.Encode(text[rnd.IntN(10):]),
			"between others":             e.Encode(another + text + another),
			"without its first space":    e.Encode(strings.TrimSpace(text)),
			"with a line break as space": e.Encode(strings.Replace(text, " ", "\n", 1)),
		} {
			if result, _, err := k.Detect(t.Context(), tokens); err != nil {
				t.Fatal(err)
			} else if result == Found {
				found[name]++
			}
		}
	}
	for name, n := range found {
		t.Attr("found-"+strings.ReplaceAll(name, " ", "-"), fmt.Sprintf("%d of %d", n, full))
		if 10*n < 9*full {
			t.Errorf("%s: %d of %d texts found, want most", name, n, full)
		}
	}
	if len(found) != 7 {
		t.Errorf("found only %v", found)
	}
}
