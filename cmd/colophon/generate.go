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

	MinP              float64         `name:"min-p" default:"0" help:"Sample among the tokens with at least this share of the highest probability; 0 means all."`
	PresencePenalty   float64         `default:"0" placeholder:"N" help:"Make tokens that the text has less likely, from -2 to 2."`
	FrequencyPenalty  float64         `default:"0" placeholder:"N" help:"Make tokens less likely each time that the text has them, from -2 to 2."`
	RepetitionPenalty float64         `default:"1" placeholder:"N" help:"Make tokens that the prompt or the text has less likely, from 0.01 to 2; 1 changes nothing."`
	LogitBias         map[int]float64 `placeholder:"ID=N" help:"Add a number from -100 to 100 to the logit of a token; may be repeated."`
	MinTokens         int             `default:"0" help:"Number of tokens before which the text does not end."`
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
	p := model.Params{
		MaxTokens: c.MaxNewTokens, Temperature: c.Temperature, TopK: c.TopK, TopP: c.TopP, Seed: seed, Stop: c.Stop,
		PresencePenalty: c.PresencePenalty, FrequencyPenalty: c.FrequencyPenalty, RepetitionPenalty: c.RepetitionPenalty,
		MinP: c.MinP, LogitBias: c.LogitBias, MinTokens: c.MinTokens,
	}
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
