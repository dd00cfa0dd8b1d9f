package openai

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"colophon/events"
	"colophon/jobs"
)

// Logprobs returns the log probabilities of the tokens of a job's text so far, without the
// first skip tokens. It reports false if there are none. It is [jobs.Queue.Logprobs].
type Logprobs func(job events.Job, skip int) (list []jobs.TokenLogprobs, ok bool)

// logprobCursor gives each token of the texts of a stream to one chunk.
type logprobCursor struct {
	logprobs Logprobs
	sent     []int // number of tokens of each text that a chunk has
}

// newLogprobCursor returns the cursor of a stream of n texts.
func newLogprobCursor(logprobs Logprobs, n int) logprobCursor {
	return logprobCursor{logprobs, make([]int, n)}
}

// next returns the log probabilities for the next chunk of text i.
func (c logprobCursor) next(job events.Job, i int) []jobs.TokenLogprobs {
	list, _ := c.logprobs(job, c.sent[i])
	c.sent[i] += len(list)
	return list
}

// TopLogProb is a token with its log probability.
type TopLogProb struct {
	Token   string  `json:"token" doc:"The text of the token. If its bytes are not whole characters: bytes: and the bytes, with \\x and two hexadecimal digits for a backslash and all that is not printable ASCII."`
	Logprob float32 `json:"logprob" doc:"The natural logarithm of the probability that the model gives to the token."`
	Bytes   []int   `json:"bytes" nullable:"false" doc:"The bytes of the token."`
}

// LogProb has the log probabilities at the position of a token of a text.
type LogProb struct {
	TopLogProb
	TopLogprobs []TopLogProb `json:"top_logprobs" nullable:"false" doc:"The likeliest tokens at this position, as many as top_logprobs of the request, highest first. The token of the text may be none of them."`
}

// ChatLogprobs are the log probabilities of an answer, or of a piece of it.
type ChatLogprobs struct {
	Content []LogProb `json:"content" nullable:"false" doc:"Those of each token of the text."`
	Refusal any       `json:"refusal" doc:"Always null."`
}

// CompletionLogprobs are the log probabilities of a text, or of a piece of it.
type CompletionLogprobs struct {
	Tokens        []string             `json:"tokens" nullable:"false" doc:"The texts of the tokens. A token whose bytes are not whole characters is bytes: and its bytes, with \\x and two hexadecimal digits for a backslash and all that is not printable ASCII."`
	TokenLogprobs []float32            `json:"token_logprobs" nullable:"false" doc:"The natural logarithm of the probability that the model gives to each token."`
	TopLogprobs   []map[string]float32 `json:"top_logprobs" nullable:"false" doc:"The log probabilities of the likeliest tokens at each position, as many as logprobs of the request, and of the token of the text."`
	TextOffset    []int                `json:"text_offset" nullable:"false" doc:"Where each token begins in the whole text: the number of Unicode characters before it. A token that begins inside a character has the offset of that character."`
}

// tokenText returns the wire form of a token's bytes. Different tokens have different forms, so
// that the forms can be names of an object. The exception would be a token that spells the form
// of another one, such as `bytes:\xe2` in ASCII.
func tokenText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	s.WriteString("bytes:")
	for _, c := range b {
		if c >= ' ' && c <= '~' && c != '\\' {
			s.WriteByte(c)
		} else {
			fmt.Fprintf(&s, `\x%02x`, c)
		}
	}
	return s.String()
}

func topLogProb(t jobs.TokenLogprob) TopLogProb {
	p := TopLogProb{Token: tokenText(t.Bytes), Logprob: t.Logprob, Bytes: make([]int, len(t.Bytes))}
	for i, c := range t.Bytes {
		p.Bytes[i] = int(c)
	}
	return p
}

// logProbs returns the log probabilities as chats and responses have them. The list is never
// nil.
func logProbs(tokens []jobs.TokenLogprobs) []LogProb {
	list := make([]LogProb, len(tokens))
	for i, t := range tokens {
		list[i] = LogProb{topLogProb(t.TokenLogprob), make([]TopLogProb, len(t.Top))}
		for k, top := range t.Top {
			list[i].TopLogprobs[k] = topLogProb(top)
		}
	}
	return list
}

// chatLogprobs returns the log probabilities as a chat has them.
func chatLogprobs(tokens []jobs.TokenLogprobs) *ChatLogprobs {
	return &ChatLogprobs{Content: logProbs(tokens)}
}

// completionLogprobs returns the log probabilities as completions have them.
func completionLogprobs(tokens []jobs.TokenLogprobs) *CompletionLogprobs {
	n := len(tokens)
	c := &CompletionLogprobs{make([]string, n), make([]float32, n), make([]map[string]float32, n), make([]int, n)}
	for i, t := range tokens {
		c.Tokens[i], c.TokenLogprobs[i], c.TextOffset[i] = tokenText(t.Bytes), t.Logprob, t.Offset
		c.TopLogprobs[i] = map[string]float32{}
		for _, top := range append(slices.Clip(t.Top), t.TokenLogprob) {
			c.TopLogprobs[i][tokenText(top.Bytes)] = top.Logprob
		}
	}
	return c
}
