package openai

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"colophon/events"
	"colophon/jobs"
	"colophon/model"
)

func TestTokensThatAreNoTextAreSpelled(t *testing.T) {
	for b, want := range map[string]string{
		"":                "",
		" light":          " light",
		"é😀\n":            "é😀\n",
		"\xc3":            `bytes:\xc3`,
		" \xe2\x80":       `bytes: \xe2\x80`,
		"\xa9 a\\\"~\x7f": `bytes:\xa9 a\x5c"~\x7f`,
		"é\xff":           `bytes:\xc3\xa9\xff`,
	} {
		if got := tokenText([]byte(b)); got != want {
			t.Errorf("%q is %q, want %q", b, got, want)
		}
	}
}

// vocabulary are the tokens of the texts of these tests. Some are parts of characters, and one
// has no bytes.
var vocabulary = []string{"a", " the", "中", "é!", "\xf0\x9f", "\x98", "\x80", "\xe4\xb8", "\xad", "\xad ray", "\xff", "", "\nuser:", "😀"}

// logprobsOf returns the log probabilities of a job with these tokens, as a queue would.
func logprobsOf(t rapid.TB) Logprobs {
	decode := func(tokens []int) (b []byte) {
		for _, token := range tokens {
			b = append(b, vocabulary[token]...)
		}
		return b
	}
	q, err := jobs.NewQueue(nil, nil, jobs.Model{Name: "m", Decode: decode}, nil, jobs.Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return q.Logprobs
}

// drawJob draws the facts of a job. Its text may end before that of its tokens. An event may have
// tokens without their text, which a later event has, and may end inside a character.
func drawJob(t *rapid.T) []events.Fact {
	pieces := rapid.SliceOfN(rapid.IntRange(0, len(vocabulary)-1), 0, 40).Draw(t, "tokens")
	var tokens [][]byte
	var probs []model.TokenLogprobs
	top := rapid.IntRange(0, 3).Draw(t, "top")
	for i, token := range pieces {
		tokens = append(tokens, []byte(vocabulary[token]))
		p := model.TokenLogprobs{Logprob: -float32(i) / 8}
		for k := range top {
			p.Top = append(p.Top, model.Logprob{Token: (token + k) % len(vocabulary), Logprob: -float32(k)})
		}
		probs = append(probs, p)
	}
	text := []rune(model.Text(slices.Concat(tokens...)))
	text = text[:len(text)-rapid.SampledFrom([]int{0, 0, min(1, len(text)), len(text) / 2, len(text)}).Draw(t, "cut")]
	facts := []events.Fact{
		events.JobAccepted{Prompt: "p", Model: "m", Params: model.Params{MaxTokens: 40, Logprobs: &top}, Request: json.RawMessage(`{"operation":"responses","input":[]}`)},
		events.JobStarted{Weights: "w"},
	}
	offsets := append(model.Offsets(tokens), len(text))
	from, said := 0, 0
	for i := range len(pieces) + 1 {
		last := i == len(pieces)
		if !last && rapid.Bool().Draw(t, "one batch") {
			continue
		}
		to := said
		if last || rapid.Bool().Draw(t, "with text") {
			to = min(offsets[i], len(text))
		}
		facts = append(facts, events.JobAdvanced{Tokens: pieces[from:i], Text: string(text[said:to]), Logprobs: probs[from:i]})
		if from, said = i, to; rapid.IntRange(0, 5).Draw(t, "restart") == 0 {
			facts = append(facts, events.JobStarted{FromToken: i, Weights: "w"})
		}
	}
	return append(facts, events.JobCompleted{FinishReason: "stop"})
}

// fold applies a fact to a job. It returns the job and the event.
func fold(t *rapid.T, job events.Job, fact events.Fact) (events.Job, events.Event) {
	id := job.ID
	if id == (uuid.UUID{}) {
		id = uuid.UUID{15: 1}
	}
	e := events.Event{Stream: events.JobStream(id), Version: job.Version + 1, At: time.Unix(1, 0), Fact: fact}
	job, err := job.Apply(e)
	if err != nil {
		t.Fatal(err)
	}
	return job, e
}

// into decodes JSON of this package.
func into[T any](t *rapid.T, data []byte) (v T) {
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestLogprobsOfChunksAreThoseOfTheAnswer streams two texts whose events come in any order. The
// log probabilities of all chunks of a text together must be those of the answer.
func TestLogprobsOfChunksAreThoseOfTheAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logprobs := logprobsOf(t)
		facts := [][]events.Fact{drawJob(t), drawJob(t)}
		all := make([]events.Job, 2)
		for i := range all {
			all[i], _ = fold(t, all[i], facts[i][0])
		}
		completions := (&CompletionBody{Sampling: Sampling{N: 1}}).NewStream(all, logprobs)
		chats := (&ChatBody{Sampling: Sampling{N: 1}}).NewStream(all, logprobs)
		all = make([]events.Job, 2)
		gotCompletions, gotChats := []*CompletionLogprobs{completionLogprobs(nil), completionLogprobs(nil)}, []*ChatLogprobs{chatLogprobs(nil), chatLogprobs(nil)}
		for len(facts[0])+len(facts[1]) > 0 {
			i := rapid.IntRange(0, 1).Draw(t, "job")
			if len(facts[i]) == 0 {
				i = 1 - i
			}
			fact := facts[i][0]
			all[i], _ = fold(t, all[i], fact)
			facts[i] = facts[i][1:]
			chunks, err := completions.Chunks(all, i, fact)
			if err != nil {
				t.Fatal(err)
			}
			for _, chunk := range chunks {
				choice := into[Completion](t, chunk).Choices[0]
				if p, sum := choice.Logprobs, gotCompletions[choice.Index]; p != nil {
					sum.Tokens, sum.TokenLogprobs = append(sum.Tokens, p.Tokens...), append(sum.TokenLogprobs, p.TokenLogprobs...)
					sum.TopLogprobs, sum.TextOffset = append(sum.TopLogprobs, p.TopLogprobs...), append(sum.TextOffset, p.TextOffset...)
				}
			}
			if chunks, err = chats.Chunks(all, i, fact); err != nil {
				t.Fatal(err)
			}
			for _, chunk := range chunks {
				choice := into[ChatChunk](t, chunk).Choices[0]
				if p := choice.Logprobs; p != nil {
					gotChats[choice.Index].Content = append(gotChats[choice.Index].Content, p.Content...)
				}
			}
		}
		for i, choice := range (&CompletionBody{Sampling: Sampling{N: 1}}).Answer(all, logprobs).Choices {
			if diff := cmp.Diff(choice.Logprobs, gotCompletions[i]); diff != "" {
				t.Errorf("completion %d: %s", i, diff)
			}
			text := []rune(choice.Text)
			for k, offset := range choice.Logprobs.TextOffset {
				if offset >= len(text) || k > 0 && offset < choice.Logprobs.TextOffset[k-1] {
					t.Errorf("the token %q of %q begins at %d", choice.Logprobs.Tokens[k], choice.Text, offset)
				}
			}
		}
		for i, choice := range (&ChatBody{Sampling: Sampling{N: 1}}).Answer(all, logprobs).Choices {
			if diff := cmp.Diff(choice.Logprobs, gotChats[i]); diff != "" {
				t.Errorf("chat %d: %s", i, diff)
			}
			var spelled []byte
			for _, p := range choice.Logprobs.Content {
				for _, c := range p.Bytes {
					spelled = append(spelled, byte(c))
				}
			}
			if text := model.Text(spelled); len(text) < len(choice.Message.Content) || text[:len(choice.Message.Content)] != choice.Message.Content {
				t.Errorf("the tokens spell %q, the text is %q", text, choice.Message.Content)
			}
		}
	})
}

// TestLogprobsOfDeltasAreThoseOfTheResponse streams a response. The log probabilities of all
// deltas together must be those of each part with the whole text.
func TestLogprobsOfDeltasAreThoseOfTheResponse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logprobs := logprobsOf(t)
		stream, job := NewResponseStream(logprobs), events.Job{}
		got, whole := []LogProb{}, map[string][]LogProb{}
		for _, fact := range drawJob(t) {
			var e events.Event
			job, e = fold(t, job, fact)
			list, err := stream.Apply(e)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				data := into[responseEvent](t, e.Data)
				switch e.Type {
				case "response.output_text.delta":
					got = append(got, data.Logprobs...)
				case "response.output_text.done":
					whole[e.Type] = data.Logprobs
				case "response.content_part.done":
					whole[e.Type] = data.Part.Logprobs
				case "response.output_item.done":
					whole[e.Type] = data.Item.Content[0].Logprobs
				case "response.completed":
					whole[e.Type] = data.Response.Output[0].Content[0].Logprobs
				}
			}
		}
		whole["the answer"] = NewResponse(job, logprobs).Output[0].Content[0].Logprobs
		if len(whole) != 5 {
			t.Fatalf("%v", whole)
		}
		for what, list := range whole {
			if diff := cmp.Diff(list, got); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
		}
	})
}

// TestCutTokensAreLeftOut ends texts at the places where a stop string may begin.
func TestCutTokensAreLeftOut(t *testing.T) {
	logprobs := logprobsOf(t)
	for _, c := range []struct {
		text   string
		tokens []int
		want   string
	}{
		{"a the", []int{0, 1, 12}, `["a" " the"]`},
		{"a t", []int{0, 1, 12}, `["a" " the"]`}, // the stop string begins inside a token
		{"a", []int{0, 1, 12}, `["a"]`},
		{"", []int{0, 1}, `[]`},
		{"a", []int{0, 11, 1}, `["a"]`}, // a token without bytes, where the stop string begins
		{"a😀", []int{0, 4, 5, 6, 0}, `["a" "bytes:\\xf0\\x9f" "bytes:\\x98" "bytes:\\x80"]`},
		{"a", []int{0, 4, 5, 6, 0}, `["a"]`},
		{"a\ufffd", []int{0, 4, 5}, `["a" "bytes:\\xf0\\x9f" "bytes:\\x98"]`}, // the length ends a text inside a character
	} {
		job := events.Job{Model: "m", Text: c.text, Tokens: c.tokens, Params: model.Params{Logprobs: new(0)}, Logprobs: make([]model.TokenLogprobs, len(c.tokens))}
		list, ok := logprobs(job, 0)
		if got := fmt.Sprintf("%q", completionLogprobs(list).Tokens); !ok || got != c.want {
			t.Errorf("%q of %v: %s, want %s", c.text, c.tokens, got, c.want)
		}
	}
}
