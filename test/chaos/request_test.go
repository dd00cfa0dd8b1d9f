package main

import (
	"slices"
	"testing"

	"colophon/internal/policy"
	"colophon/model"
)

// decodeOnlyEngine is a fake engine that can only turn tokens into text.
type decodeOnlyEngine struct {
	model.Engine
	words []string
}

func (s decodeOnlyEngine) Decode(ids []int) (b []byte) {
	for _, id := range ids {
		b = append(b, s.words[id]...)
	}
	return b
}

func TestOracleAppliesTheTextPolicy(t *testing.T) {
	e := decodeOnlyEngine{words: []string{"I", " ha", "te", "ful", " hate"}}
	for _, c := range []struct {
		name       string
		text, want text
	}{
		{"nothing is refused", text{"I hateful", []int{0, 1, 2, 3}, "length"}, text{"I hateful", []int{0, 1, 2, 3}, "length"}},
		{"another word", text{"I hateI", []int{0, 1, 2, 0}, "length"}, text{"I hateI", []int{0, 1, 2, 0}, "length"}},
		{"a refused word at the end", text{"I hate", []int{0, 1, 2}, "length"}, text{"I ", []int{0}, "content_filter"}},
		{"a refused word after an allowed one", text{"I hateful hate", []int{0, 1, 2, 3, 4}, "stop"}, text{"I hateful ", []int{0, 1, 2, 3}, "content_filter"}},
		{"a refused word as stop string", text{"I ", []int{0, 4}, "stop"}, text{"I ", []int{0}, "stop"}},
	} {
		got := c.text.filtered(e, policy.Default(), "The prompt")
		if got.Text != c.want.Text || !slices.Equal(got.Tokens, c.want.Tokens) || got.FinishReason != c.want.FinishReason {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
