package processes

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// completion is an answer of /v1/completions, or a chunk of its stream.
type completion struct {
	ID      string
	Choices []struct {
		Text     string
		Logprobs *struct {
			Tokens        []string
			TokenLogprobs []float32 `json:"token_logprobs"`
			TextOffset    []int     `json:"text_offset"`
		}
	}
}

// add adds a chunk to a text.
func (c *completion) add(t *testing.T, data string) {
	t.Helper()
	var chunk completion
	if err := json.Unmarshal([]byte(data), &chunk); err != nil || len(chunk.Choices) != 1 {
		t.Fatalf("%s: %v", data, err)
	}
	if c.ID == "" {
		*c = chunk
		return
	}
	c.Choices[0].Text += chunk.Choices[0].Text
	if p, sum := chunk.Choices[0].Logprobs, c.Choices[0].Logprobs; p != nil {
		sum.Tokens, sum.TokenLogprobs = append(sum.Tokens, p.Tokens...), append(sum.TokenLogprobs, p.TokenLogprobs...)
		sum.TextOffset = append(sum.TextOffset, p.TextOffset...)
	}
}

// TestLogprobsOfAStreamSurviveAKilledWorker kills the worker of a streamed completion after the
// first chunk. The chunks must have the log probability of each token once, with the bits of an
// answer without a stream.
func TestLogprobsOfAStreamSurviveAKilledWorker(t *testing.T) {
	slow(t)
	t.Parallel()
	m := newMembers(t)
	c := newUser(t, m.api("--no-rate-limits").URL, "counter")
	workers := []*programtest.Process{m.worker(), m.worker()}
	var models struct{ Data []struct{ ID string } }
	c.Do(http.MethodGet, "/v1/models", "").Must(t, http.StatusOK).Into(t, &models)
	for seed, starts := 1, 0; starts < 2; seed++ {
		request := fmt.Sprintf(`"model":%q,"prompt":"The nature of light","max_tokens":500,"min_tokens":500,"temperature":1.5,"seed":%d,"logprobs":2}`, models.Data[0].ID, seed)
		resp, err := c.Open(t.Context(), http.MethodPost, "/v1/completions", `{"stream":true,`+request)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		defer resp.Body.Close()
		var got, want completion
		for message, err := range apitest.Messages(resp.Body) {
			if err != nil {
				t.Fatal(err)
			}
			if message.Data == "" || message.Data == "[DONE]" {
				continue
			}
			begins := got.ID == ""
			got.add(t, message.Data)
			if begins {
				holder := next(t, c.watch(strings.TrimPrefix(got.ID, "cmpl-")), started).Worker
				i := slices.IndexFunc(workers, func(p *programtest.Process) bool { return p.Worker == holder })
				workers[i].Kill()
				workers[i] = m.worker()
			}
		}
		for e := range c.watch(strings.TrimPrefix(got.ID, "cmpl-")) {
			if started(e) {
				starts++
			}
		}
		if starts < 2 {
			t.Logf("text %d was faster than the signal", seed)
			starts = 0
		}
		c.Do(http.MethodPost, "/v1/completions", "{"+request).Must(t, http.StatusOK).Into(t, &want)
		text, probs := want.Choices[0].Text, want.Choices[0].Logprobs
		if got.Choices[0].Text != text || len(probs.Tokens) != 500 {
			t.Errorf("text %q, want %q of 500 tokens", got.Choices[0].Text, text)
		}
		if p := got.Choices[0].Logprobs; !slices.Equal(p.Tokens, probs.Tokens) || !slices.Equal(p.TokenLogprobs, probs.TokenLogprobs) || !slices.Equal(p.TextOffset, probs.TextOffset) {
			t.Errorf("the chunks have %d log probabilities, the answer %d, and they differ", len(p.Tokens), len(probs.Tokens))
		}
	}
}
