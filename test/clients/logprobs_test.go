package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"

	"colophon/client"
)

const (
	alternatives = 3 // at each position
	listedTokens = 40
)

// logprob is a token with its log probability. It is comparable with the types of the SDK by its
// JSON.
type logprob struct {
	Token       string    `json:"token"`
	Logprob     float64   `json:"logprob"`
	TopLogprobs []logprob `json:"top_logprobs,omitempty"`
}

// completionLogprobs are log probabilities as completions have them.
type completionLogprobs struct {
	Tokens   []string
	Logprobs []float64
	Top      []map[string]float64
}

func (c *completionLogprobs) add(choices []openai.CompletionChoice) {
	for _, choice := range choices {
		l := choice.Logprobs
		c.Tokens, c.Logprobs, c.Top = append(c.Tokens, l.Tokens...), append(c.Logprobs, l.TokenLogprobs...), append(c.Top, l.TopLogprobs...)
	}
}

// listed decodes the log probabilities of a type of the SDK.
func listed[T any](t *testing.T, of []T) (list []logprob) {
	t.Helper()
	raw := make([]json.RawMessage, len(of))
	for i, one := range of {
		raw[i] = json.RawMessage(any(one).(interface{ RawJSON() string }).RawJSON())
	}
	all, err := json.Marshal(raw)
	if err == nil {
		err = json.Unmarshal(all, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// recorded is a token with its log probability, as jobs have it. The number has more digits than
// package client keeps.
type recorded struct {
	Text    string
	Bytes   []int
	Logprob float64
	Top     []recorded
}

// listed returns r in the form of chats.
func (r recorded) listed() logprob {
	p := logprob{Token: r.Text, Logprob: r.Logprob}
	if r.Bytes != nil {
		p.Token = "bytes:"
		for _, c := range r.Bytes {
			p.Token += fmt.Sprintf(`\x%02x`, c) // no token of the small model has other bytes beside incomplete characters
		}
	}
	for _, top := range r.Top {
		p.TopLogprobs = append(p.TopLogprobs, top.listed())
	}
	return p
}

// computed has a worker compute the log probabilities of a job's text.
func (g *goSDK) computed(t *testing.T, id string) (list []logprob) {
	t.Helper()
	var again client.Job
	g.user.Do("POST", "/jobs/"+id+"/logprobs", fmt.Sprintf(`{"logprobs":%d}`, alternatives)).Must(t, 202).Into(t, &again)
	g.ended(t, again.ID)
	var job struct{ Logprobs []recorded }
	g.user.Do("GET", "/jobs/"+again.ID, "").Must(t, 200).Into(t, &job)
	for _, p := range job.Logprobs {
		list = append(list, p.listed())
	}
	if len(list) != listedTokens {
		t.Fatalf("%d tokens", len(list))
	}
	return list
}

// asCompletion returns log probabilities in the form of completions.
func asCompletion(list []logprob) (c completionLogprobs) {
	for _, p := range list {
		top := map[string]float64{p.Token: p.Logprob}
		for _, a := range p.TopLogprobs {
			top[a.Token] = a.Logprob
		}
		c.Tokens, c.Logprobs, c.Top = append(c.Tokens, p.Token), append(c.Logprobs, p.Logprob), append(c.Top, top)
	}
	return c
}

// read calls each with the chunks of a stream.
func read[T any](t *testing.T, s *ssestream.Stream[T], each func(T)) {
	t.Helper()
	for s.Next() {
		each(s.Current())
	}
	if err := errors.Join(s.Err(), s.Close()); err != nil {
		t.Error(err)
	}
}

// same compares log probabilities that a client got with those that a worker has computed.
func same(t *testing.T, got, want any, parts int) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if parts < 2 {
		t.Errorf("%d parts", parts)
	}
}

// logprobs runs the scenarios of log probabilities.
func (g *goSDK) logprobs(t *testing.T) {
	r := request{tokens: listedTokens, options: plain}
	const name = ": an answer and a stream have the log probabilities of POST /jobs/{id}/logprobs"
	g.scenario(t, "completions"+name, func(t *testing.T) {
		params := completionParams(r)
		params.Logprobs = openai.Int(alternatives)
		answer, err := g.first.Completions.New(t.Context(), params, r.options...)
		if err != nil {
			t.Fatal(err)
		}
		var got, streamed completionLogprobs
		got.add(answer.Choices)
		want := asCompletion(g.computed(t, strings.TrimPrefix(answer.ID, "cmpl-")))
		same(t, got, want, 2)
		parts := 0
		read(t, g.first.Completions.NewStreaming(t.Context(), params), func(chunk openai.Completion) {
			streamed.add(chunk.Choices)
			parts++
		})
		same(t, streamed, want, parts)
	})
	g.scenario(t, "chat"+name, func(t *testing.T) {
		params := chatParams(r)
		params.Logprobs, params.TopLogprobs = openai.Bool(true), openai.Int(alternatives)
		answer, err := g.first.Chat.Completions.New(t.Context(), params, r.options...)
		if err != nil {
			t.Fatal(err)
		}
		want := g.computed(t, strings.TrimPrefix(answer.ID, "chatcmpl-"))
		same(t, listed(t, answer.Choices[0].Logprobs.Content), want, 2)
		var streamed []openai.ChatCompletionTokenLogprob
		parts := 0
		read(t, g.first.Chat.Completions.NewStreaming(t.Context(), params), func(chunk openai.ChatCompletionChunk) {
			for _, choice := range chunk.Choices {
				streamed = append(streamed, choice.Logprobs.Content...)
			}
			parts++
		})
		same(t, listed(t, streamed), want, parts)
	})
	g.scenario(t, "responses"+name, func(t *testing.T) {
		params := responseParams(r)
		params.TopLogprobs, params.Include = openai.Int(alternatives), []responses.ResponseIncludable{responses.ResponseIncludableMessageOutputTextLogprobs}
		answer, err := g.first.Responses.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		want := g.computed(t, jobOf(*answer))
		same(t, listed(t, answer.Output[0].Content[0].Logprobs), want, 2)
		var streamed []responses.ResponseTextDeltaEventLogprob
		parts := 0
		read(t, g.first.Responses.NewStreaming(t.Context(), params), func(e responses.ResponseStreamEventUnion) {
			switch e := e.AsAny().(type) {
			case responses.ResponseTextDeltaEvent:
				streamed = append(streamed, e.Logprobs...)
				parts++
			case responses.ResponseTextDoneEvent:
				same(t, listed(t, e.Logprobs), want, parts)
			case responses.ResponseCompletedEvent:
				same(t, listed(t, e.Response.Output[0].Content[0].Logprobs), want, parts)
			}
		})
		same(t, listed(t, streamed), want, parts)
	})
}
