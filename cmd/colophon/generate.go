package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	"colophon/jobs"
	"colophon/model"
	"colophon/model/catalog"
)

type generateCmd struct {
	dataFlags
	modelFlags
	Prompt       string   `arg:"" help:"The text to continue."`
	MaxNewTokens int      `default:"100" help:"Most tokens to generate."`
	Temperature  float64  `default:"0.8" help:"0 always takes the likeliest token."`
	TopK         int      `name:"top-k" default:"40" help:"Choose among so many of the likeliest tokens; 0 is all."`
	TopP         float64  `name:"top-p" default:"1" help:"Choose among the likeliest tokens that make up this share of the probability."`
	Seed         *uint64  `help:"The same seed gives the same text again; without it one is drawn."`
	Stop         []string `sep:"none" help:"The text ends before this; may be given more than once."`
}

// Run writes the prompt and its continuation as it comes. No text policy applies:
// whoever has the weights has all that they can say.
func (c *generateCmd) Run(ctx context.Context, t *terminal, known catalog.Releases) error {
	source, err := c.find(ctx, c.Data, known, t)
	if err != nil {
		return err
	}
	e, err := source.Load(c.loading())
	if err != nil {
		return err
	}
	defer e.Close()
	seed := rand.Uint64N(jobs.MaxSeed + 1)
	if c.Seed != nil {
		seed = *c.Seed
	}
	p := model.Params{MaxTokens: c.MaxNewTokens, Temperature: c.Temperature, TopK: c.TopK, TopP: c.TopP, Seed: seed, Stop: c.Stop}
	if _, err := io.WriteString(t.out, c.Prompt); err != nil {
		return err
	}
	result, err := model.Generate(ctx, e, e.Encode(c.Prompt), nil, p, func(d model.Delta) error {
		_, err := io.WriteString(t.out, d.Text)
		return err
	})
	fmt.Fprintln(t.out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.err, "\n%s, seed %d, %d tokens, %s\n", e.Info().Name, seed, result.CompletionTokens, result.FinishReason)
	return err
}
