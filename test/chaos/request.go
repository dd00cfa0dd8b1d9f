package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"colophon/internal/policy"
	"colophon/model"
)

// request is a client's request for a text. No two requests of a run have the same seed.
type request struct {
	Prompt       string
	MaxNewTokens int
	Temperature  float64
	TopK         int
	TopP         float64
	Seed         uint64
	Stop         []string

	PresencePenalty   float64
	RepetitionPenalty float64
	MinTokens         int
}

// text is the expected result of a request, which is the result without faults.
type text struct {
	Text         string
	Tokens       []int
	FinishReason string
}

// seedsPerRun is the number of request seeds that belong to one seed of a run. Runs with
// different seeds have different request seeds.
const seedsPerRun = 1_000_000

// newRequests returns n requests, which the seed determines.
func newRequests(n int, seed uint64) []request {
	rng := rand.New(rand.NewPCG(seed, 1))
	prompts := []string{
		"The nature of light",
		"Of Colours made by Reflexion",
		"If a Ray of Light pass through a Prism, then",
		"Qu. 31.",
		"Ünïcode: Licht, φῶς, свет",
		"光の性質について、",
		"🌈 A rainbow 👩🏽‍🔬 is",
		"a line\nand another one\n\tand a tab:",
		strings.Repeat("And the Rays which differ in Refrangibility ", 8),
	}
	stops := []string{"Glass", "the Rays", "\n\n", ". ", "é", "zzz that nobody says"}
	requests := make([]request, n)
	for i := range requests {
		r := request{
			Prompt:       prompts[rng.IntN(len(prompts))],
			MaxNewTokens: []int{1, 8, 9, 60, 120, 150, 180, 200, 220, 220}[rng.IntN(10)],
			Temperature:  []float64{0, 0.5, 0.8, 1, 1.7}[rng.IntN(5)],
			TopK:         []int{0, 1, 5, 40, 1000}[rng.IntN(5)],
			TopP:         []float64{0.3, 0.9, 1, 1}[rng.IntN(4)],
			Seed:         seed%seedsPerRun*seedsPerRun + uint64(i),
		}
		if i%3 == 0 { // every third request has a unique prompt
			r.Prompt = fmt.Sprintf("%d. %s", i, r.Prompt)
		}
		if i%2 == 0 { // a long text of unlikely tokens shows different bits of the logits most often
			r.MaxNewTokens, r.Temperature, r.TopK, r.TopP = 200, 2, 0, 1
		}
		for range rng.IntN(3) {
			if rng.IntN(2) == 0 {
				r.Stop = append(r.Stop, stops[rng.IntN(len(stops))])
			}
		}
		if i%4 == 1 { // what depends on the text so far must survive faults too
			r.PresencePenalty, r.RepetitionPenalty, r.MinTokens = 0.5, 1.2, r.MaxNewTokens/2
		}
		requests[i] = r
	}
	return requests
}

// expectedText generates the text that a request must get without faults, and applies the
// text policy.
func expectedText(ctx context.Context, e model.Engine, r request) (text, error) {
	prompt := e.Encode(r.Prompt)
	var t text
	result, err := model.Generate(ctx, e, prompt, nil, model.Params{
		MaxTokens:   min(r.MaxNewTokens, e.Info().Context-len(prompt)),
		Temperature: r.Temperature,
		TopK:        r.TopK,
		TopP:        r.TopP,
		Seed:        r.Seed,
		Stop:        r.Stop,

		PresencePenalty: r.PresencePenalty, RepetitionPenalty: r.RepetitionPenalty, MinTokens: r.MinTokens,
	}, func(d model.Delta) error {
		t.Text += d.Text
		t.Tokens = append(t.Tokens, d.Tokens...)
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("generate the undisturbed text of seed %d: %w", r.Seed, err)
	}
	t.FinishReason = result.FinishReason
	return t.filtered(e, policy.Default(), r.Prompt), nil
}

// filtered returns the part of the text that the text policy allows.
func (t text) filtered(e model.Engine, rules *policy.Rules, prompt string) text {
	filter := func(text string) (allowed int, refused bool) {
		f := rules.Filter(prompt, "")
		_, _ = f.Add(text)
		return f.End()
	}
	allowed, refused := filter(t.Text)
	if refused {
		t.Text, t.FinishReason = t.Text[:allowed], model.FinishContentFilter
	}
	// Drop tokens from the end while the remaining tokens spell a refused word. If the
	// text is refused, also drop the tokens after its allowed part. The tokens of a stop
	// string may stay.
	for ; len(t.Tokens) > 0; t.Tokens = t.Tokens[:len(t.Tokens)-1] {
		spelled := model.Text(e.Decode(t.Tokens))
		if _, refusedWord := filter(spelled); !refusedWord && (!refused || strings.HasPrefix(t.Text, spelled)) {
			break
		}
	}
	return t
}
