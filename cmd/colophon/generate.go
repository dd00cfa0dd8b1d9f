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
	Prompt       string   `arg:"" help:"Text to continue."`
	MaxNewTokens int      `default:"100" help:"Maximum number of tokens to generate."`
	Temperature  float64  `default:"0.8" help:"Sampling temperature; 0 always takes the most likely token."`
	TopK         int      `name:"top-k" default:"40" help:"Sample among this many of the most likely tokens; 0 means all."`
	TopP         float64  `name:"top-p" default:"1" help:"Sample among the most likely tokens with this total probability."`
	Seed         *uint64  `placeholder:"N" help:"Seed of the sampler: the same seed gives the same text. Default: random."`
	Stop         []string `sep:"none" placeholder:"TEXT" help:"End the text before this string; may be repeated."`
}

// Run prints the prompt and then its continuation, token by token. No text policy
// applies, because a user who has the weights can generate any text from them.
func (c *generateCmd) Run(ctx context.Context, t *terminal, known catalog.Releases) error {
	source, err := c.find(ctx, c.Data, known, t)
	if err != nil {
		return err
	}
	e, err := source.Load(c.loadOptions())
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
