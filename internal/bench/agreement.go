package bench

import (
	"context"
	"fmt"
	"math"
	"slices"

	"colophon/model"
	"colophon/model/kernel"
)

// agreementRow compares a weight format with f32 by the distributions of the next
// token.
type agreementRow struct {
	Weights string  `json:"weights"`
	Tokens  int     `json:"tokens"`
	KL      float64 `json:"kl"`     // mean Kullback-Leibler divergence from f32, in nats
	MaxKL   float64 `json:"max_kl"` // the largest divergence
	Top1    float64 `json:"top1"`   // share of the tokens with the same most likely next token
}

// agreementTokens is the number of tokens of the compared text.
const agreementTokens = 64

// agreement compares the other weight formats with f32 on a text sampled with f32
// weights.
func (o Options) agreement(ctx context.Context, weights []kernel.Format) ([]agreementRow, error) {
	others := slices.DeleteFunc(slices.Clone(weights), func(f kernel.Format) bool { return f == kernel.F32 })
	if len(others) == 0 {
		return []agreementRow{}, nil
	}
	fmt.Fprintln(o.Progress, "agreement with f32")
	text, want, err := o.sampleText(ctx)
	if err != nil {
		return nil, fmt.Errorf("agreement with f32: %w", err)
	}
	var all []agreementRow
	for _, format := range others {
		a, err := o.compare(ctx, format, text, want)
		if err != nil {
			return nil, fmt.Errorf("agreement with f32: %w", err)
		}
		all = append(all, a)
	}
	return all, nil
}

// sampleText samples a text with f32 weights. It also returns the logits after each
// token.
func (o Options) sampleText(ctx context.Context) (text []int, logits [][]float32, err error) {
	sampler, err := model.NewSampler(model.Params{MaxTokens: agreementTokens, Temperature: 1, TopP: 1}, nil, -1)
	if err != nil {
		return nil, nil, err
	}
	err = o.withSequence(ctx, kernel.F32, func(info model.Info, s model.Sequence) error {
		next := max(info.EOS, 0)
		for range min(agreementTokens, info.Context) {
			l, err := s.Next(ctx, next)
			if err != nil {
				return err
			}
			text, logits = append(text, next), append(logits, slices.Clone(l))
			if next, err = sampler.Sample(l, text[1:]); err != nil {
				return err
			}
		}
		return nil
	})
	return text, logits, err
}

// compare computes the logits after each token of text and compares them with want. The
// logits in want are those of f32 weights.
func (o Options) compare(ctx context.Context, weights kernel.Format, text []int, want [][]float32) (agreementRow, error) {
	a := agreementRow{Weights: weights.String(), Tokens: len(text)}
	err := o.withSequence(ctx, weights, func(_ model.Info, s model.Sequence) error {
		same := 0
		for i, token := range text {
			got, err := s.Next(ctx, token)
			if err != nil {
				return err
			}
			kl := divergence(want[i], got)
			a.KL += kl / float64(len(text))
			a.MaxKL = max(a.MaxKL, kl)
			if argmax(got) == argmax(want[i]) {
				same++
			}
		}
		a.Top1 = float64(same) / float64(len(text))
		return nil
	})
	return a, err
}

// withSequence calls f with an empty sequence of a new engine. Then it closes the
// sequence and the engine.
func (o Options) withSequence(ctx context.Context, weights kernel.Format, f func(model.Info, model.Sequence) error) error {
	e, err := o.engine(weights)
	if err != nil {
		return err
	}
	defer e.Close()
	s, err := e.Open(ctx, "")
	if err != nil {
		return err
	}
	defer s.Close()
	return f(e.Info(), s)
}

// divergence returns the Kullback-Leibler divergence of softmax(q) from softmax(p), in
// nats.
func divergence(p, q []float32) float64 {
	logP, logQ := logSumExp(p), logSumExp(q)
	kl := 0.0
	for i := range p {
		lp := float64(p[i]) - logP
		kl += math.Exp(lp) * (lp - (float64(q[i]) - logQ))
	}
	return max(kl, 0) // rounding can make the sum negative
}

func logSumExp(x []float32) float64 {
	most, sum := float64(slices.Max(x)), 0.0
	for _, v := range x {
		sum += math.Exp(float64(v) - most)
	}
	return most + math.Log(sum)
}

func argmax(logits []float32) int {
	return slices.Index(logits, slices.Max(logits))
}
