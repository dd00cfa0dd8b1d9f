package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"colophon/events"
	"colophon/model"
)

// logProb has the log probabilities of a token, as chats and responses have them.
type logProb struct {
	Token       string
	Logprob     float32
	Bytes       []int
	TopLogprobs []logProb `json:"top_logprobs"`
}

// completionLogprobs are the log probabilities of a text, as completions have them.
type completionLogprobs struct {
	Tokens        []string
	TokenLogprobs []float32            `json:"token_logprobs"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"`
}

func (c *completionLogprobs) add(more *completionLogprobs) {
	if more == nil {
		return
	}
	c.Tokens, c.TokenLogprobs = append(c.Tokens, more.Tokens...), append(c.TokenLogprobs, more.TokenLogprobs...)
	c.TopLogprobs, c.TextOffset = append(c.TopLogprobs, more.TopLogprobs...), append(c.TextOffset, more.TextOffset...)
}

// chatAnswer is an answer of a chat, or a chunk of its stream, as far as these tests look at it.
type chatAnswer struct {
	ID      string
	Choices []struct {
		Index          int
		Message, Delta struct{ Content string }
		Logprobs       *struct {
			Content []logProb
			Refusal any
		}
	}
}

// bytesOfCharacters returns a logit_bias that lets a model write the bytes of some characters in
// any order.
func (f *fixture) bytesOfCharacters() string {
	f.T.Helper()
	var biases []string
	for token := range f.engine.Info().Vocab {
		if b := f.engine.Decode([]int{token}); len(b) == 1 && strings.IndexByte("a\xc3\xa9\xe2\x82\xac", b[0]) >= 0 {
			biases = append(biases, fmt.Sprintf(`"%d":100`, token))
		}
	}
	if len(biases) != 6 {
		f.T.Fatalf("tokens %v", biases)
	}
	return `"temperature":2,"logit_bias":{` + strings.Join(biases, ",") + `}`
}

// computed returns the log probabilities of a job's tokens from the engine's logits, in the form
// of chats. They must have the bits of model.Logprobs, and be close to those of a computation
// with other functions.
func (f *fixture) computed(job events.Job, n int) (list []logProb) {
	f.T.Helper()
	seq, err := f.engine.Open(f.T.Context(), "")
	if err != nil {
		f.T.Fatal(err)
	}
	defer seq.Close()
	next := f.engine.Encode(job.Prompt)
	of := func(token int, logprob float32) logProb {
		p := logProb{Bytes: []int{}, Logprob: logprob, TopLogprobs: []logProb{}}
		b := f.engine.Decode([]int{token})
		for _, c := range b {
			p.Bytes = append(p.Bytes, int(c))
		}
		if p.Token = string(b); !utf8.Valid(b) {
			p.Token = "bytes:"
			for _, c := range b {
				p.Token += fmt.Sprintf(`\x%02x`, c) // no token of the small model has other bytes beside incomplete characters
			}
		}
		return p
	}
	for _, token := range job.Tokens {
		logits, err := seq.Next(f.T.Context(), next...)
		if err != nil {
			f.T.Fatal(err)
		}
		sum := 0.0
		for _, l := range logits {
			sum += math.Exp(float64(l))
		}
		near := func(token int, logprob float32) {
			f.T.Helper()
			if want := float64(logits[token]) - math.Log(sum); math.Abs(want-float64(logprob)) > 1e-4 {
				f.T.Errorf("token %d has the log probability %g, want %g", token, logprob, want)
			}
		}
		probs := model.Logprobs(logits, token, n)
		near(token, probs.Logprob)
		p := of(token, probs.Logprob)
		for _, top := range probs.Top {
			near(top.Token, top.Logprob)
			alternative := of(top.Token, top.Logprob)
			alternative.TopLogprobs = nil
			p.TopLogprobs = append(p.TopLogprobs, alternative)
		}
		list, next = append(list, p), []int{token}
	}
	return list
}

// asCompletion returns log probabilities in the form of completions, for a text that ends with
// the end of a token.
func asCompletion(list []logProb) *completionLogprobs {
	c := &completionLogprobs{Tokens: []string{}, TokenLogprobs: []float32{}, TopLogprobs: []map[string]float32{}, TextOffset: []int{}}
	var spelled []byte
	for _, p := range list {
		for i, b := range p.Bytes {
			if spelled = append(spelled, byte(b)); i == 0 {
				c.TextOffset = append(c.TextOffset, utf8.RuneCountInString(model.Text(spelled))-1)
			}
		}
		top := map[string]float32{p.Token: p.Logprob}
		for _, t := range p.TopLogprobs {
			top[t.Token] = t.Logprob
		}
		c.Tokens, c.TokenLogprobs, c.TopLogprobs = append(c.Tokens, p.Token), append(c.TokenLogprobs, p.Logprob), append(c.TopLogprobs, top)
	}
	return c
}

func mustBeEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got): %s", what, diff)
	}
}

// completionLogprobs completes texts. It returns the answer, and the log probabilities of each
// choice.
func (f *fixture) completionLogprobs(body string, headers ...string) (c completion, probs []*completionLogprobs) {
	f.T.Helper()
	f.Do("POST", "/v1/completions", body, headers...).Must(f.T, 200).Into(f.T, &c)
	probs = make([]*completionLogprobs, len(c.Choices))
	for _, choice := range c.Choices {
		if err := json.Unmarshal(choice.Logprobs, &probs[choice.Index]); err != nil {
			f.T.Fatal(err)
		}
	}
	return c, probs
}

// streamedLogprobs streams texts. It returns the sum of the log probabilities in the chunks of
// each choice.
func (f *fixture) streamedLogprobs(n int, body string, headers ...string) []*completionLogprobs {
	f.T.Helper()
	sums := make([]*completionLogprobs, n)
	for i := range sums {
		sums[i] = &completionLogprobs{}
	}
	for _, data := range f.stream("/v1/completions", strings.Replace(body, "{", `{"stream":true,`, 1), headers...) {
		if data == "[DONE]" {
			return sums
		}
		var chunk struct {
			Choices []struct {
				Index    int
				Logprobs *completionLogprobs
			}
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			f.T.Fatal(err)
		}
		sums[chunk.Choices[0].Index].add(chunk.Choices[0].Logprobs)
	}
	f.T.Fatal("the stream has no end")
	return nil
}

// ended waits for the end of a job.
func (f *fixture) ended(id string) (job events.Job) {
	f.T.Helper()
	stream := events.Stream("job/" + id)
	for _, err := range f.store.Follow(f.T.Context(), stream, 0, time.Minute) {
		if err == nil {
			job, err = f.store.Job(f.T.Context(), stream.ID())
		}
		if err != nil {
			f.T.Fatal(err)
		}
		if job.State.Final() {
			return job
		}
	}
	f.T.Fatal("the job has no end")
	return job
}

// pausing is an engine whose sequences wait before a token until their context ends.
type pausing struct {
	model.Engine
	at int // length of the sequence without that token
}

func (p pausing) Open(ctx context.Context, scope string) (model.Sequence, error) {
	s, err := p.Engine.Open(ctx, scope)
	return &pausedSequence{Sequence: s, left: p.at}, err
}

type pausedSequence struct {
	model.Sequence
	left int
}

func (s *pausedSequence) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	if s.left -= len(tokens); s.left <= 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Sequence.Next(ctx, tokens...)
}
