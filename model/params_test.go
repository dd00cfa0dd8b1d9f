package model

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
)

func TestParamsAreValidated(t *testing.T) {
	good := Params{
		MaxTokens: 2, Temperature: 1, TopP: 1, Stop: []string{"\n", "中"},
		PresencePenalty: -2, FrequencyPenalty: 2, RepetitionPenalty: 0.01, MinP: 1, LogitBias: map[int]float64{0: -100, 1 << 40: 100}, MinTokens: 2, Logprobs: new(MaxLogprobs),
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	full := map[int]float64{}
	for i := range MaxLogitBias + 1 {
		full[i] = 1
	}
	for name, change := range map[string]func(*Params){
		"max_tokens":                    func(p *Params) { p.MaxTokens = 0 },
		"temperature":                   func(p *Params) { p.Temperature = -0.1 },
		"top_k":                         func(p *Params) { p.TopK = -1 },
		"top_p":                         func(p *Params) { p.TopP = 1.01 },
		"presence_penalty":              func(p *Params) { p.PresencePenalty = -2.1 },
		"frequency_penalty":             func(p *Params) { p.FrequencyPenalty = 2.1 },
		"repetition_penalty":            func(p *Params) { p.RepetitionPenalty = 2.1 },
		"a negative repetition_penalty": func(p *Params) { p.RepetitionPenalty = -1 },
		"a tiny repetition_penalty":     func(p *Params) { p.RepetitionPenalty = 5e-324 },
		"min_p":                         func(p *Params) { p.MinP = 1.1 },
		"negative min_p":                func(p *Params) { p.MinP = -0.1 },
		"logit_bias":                    func(p *Params) { p.LogitBias = map[int]float64{3: 100.5} },
		"logit_bias of no token":        func(p *Params) { p.LogitBias = map[int]float64{-1: 1} },
		"logit_bias of many":            func(p *Params) { p.LogitBias = full },
		"logprobs":                      func(p *Params) { p.Logprobs = new(MaxLogprobs + 1) },
		"negative logprobs":             func(p *Params) { p.Logprobs = new(-1) },
		"min_tokens":                    func(p *Params) { p.MinTokens = 3 },
		"negative min_tokens":           func(p *Params) { p.MinTokens = -1 },
		"stop":                          func(p *Params) { p.Stop = []string{"a", ""} },
		"a stop that is not UTF-8":      func(p *Params) { p.Stop = []string{"\xff"} },
	} {
		p := good
		change(&p)
		if _, err := NewSampler(p, nil, -1); !errors.Is(err, ErrParams) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for name, field := range map[string]func(*Params) *float64{
			"temperature":        func(p *Params) *float64 { return &p.Temperature },
			"top_p":              func(p *Params) *float64 { return &p.TopP },
			"presence_penalty":   func(p *Params) *float64 { return &p.PresencePenalty },
			"frequency_penalty":  func(p *Params) *float64 { return &p.FrequencyPenalty },
			"repetition_penalty": func(p *Params) *float64 { return &p.RepetitionPenalty },
			"min_p":              func(p *Params) *float64 { return &p.MinP },
		} {
			p := good
			*field(&p) = x
			if p.Validate() == nil {
				t.Errorf("Validate accepts %g as %s", x, name)
			}
		}
		p := good
		if p.LogitBias = map[int]float64{1: x}; p.Validate() == nil {
			t.Errorf("Validate accepts %g in logit_bias", x)
		}
	}
	if err := (Info{Vocab: 3}).CheckBias(map[int]float64{2: 1, 3: 1}); !errors.Is(err, ErrParams) {
		t.Errorf("bias of a token that the model does not have: %v", err)
	}
	if err := (Info{Vocab: 3}).CheckBias(map[int]float64{0: 1, 2: 1}); err != nil {
		t.Error(err)
	}
}

// The stored parameters of jobs of earlier releases must keep their bytes, because receipts
// prove them.
func TestNeutralParamsAreNotStored(t *testing.T) {
	p := Params{MaxTokens: 48, Temperature: 0.8, TopK: 40, TopP: 1, Seed: 7, LogitBias: map[int]float64{}, PresencePenalty: math.Copysign(0, -1)}
	got, err := json.Marshal(p)
	if want := `{"max_tokens":48,"temperature":0.8,"top_k":40,"top_p":1,"seed":7}`; err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}
