package jobs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
)

// script is a fake model that generates the tokens in says and then ends the text.
type script struct {
	says  []int
	steps int // number of calls of Next
}

// vocabulary has tokens that are words, parts of words or parts of characters.
var vocabulary = []string{
	"", "hate", " hate", "h", "a", "t", "e", " ha", "te", " hat", "ful", "s", " what", "ever", "vio", "lence", " v", "iolence", " non", "gr", "ass h",
	" ", "\n", ".", ", ", "-", "\u200b", "3", "@", " of", " the", "\xd0", "\xb0", "\xf0\x9f\x92", "\x94", "é", "ful hate", "x", "XSTOP", "STOP", "OP",
}

func (e *script) Info() model.Info {
	return model.Info{Context: 1000, Vocab: len(vocabulary), EOS: 0}
}
func (e *script) Encode(string) []int { return []int{1} }
func (e *script) Decode(ids []int) []byte {
	var b []byte
	for _, id := range ids {
		b = append(b, vocabulary[id]...)
	}
	return b
}
func (e *script) Open(context.Context, string) (model.Sequence, error) {
	return &scriptSequence{e, 0}, nil
}

type scriptSequence struct {
	*script
	at int // number of tokens so far, including one for the prompt
}

func (s *scriptSequence) Next(_ context.Context, tokens ...int) ([]float32, error) {
	s.steps++
	s.at += len(tokens)
	logits := make([]float32, len(vocabulary))
	if s.at-1 < len(s.says) {
		logits[s.says[s.at-1]] = 1
	} else {
		logits[0] = 1
	}
	return logits, nil
}

// NextEach implements model.Sequence.
func (s *scriptSequence) NextEach(ctx context.Context, n int, tokens ...int) ([][]float32, error) {
	return eachByNext(ctx, s, n, tokens)
}

// eachByNext calls Next token by token, of a sequence whose logits stay valid.
func eachByNext(ctx context.Context, s model.Sequence, n int, tokens []int) (each [][]float32, err error) {
	for from, to := 0, len(tokens)-n+1; to <= len(tokens); from, to = to, to+1 {
		logits, err := s.Next(ctx, tokens[from:to]...)
		if err != nil {
			return nil, err
		}
		each = append(each, logits)
	}
	return each, nil
}

// Expect implements model.Sequence.
func (s *scriptSequence) Expect([]model.Guess) bool { return false }

func (s *scriptSequence) Close() {}

var errKilled = errors.New("killed")

// attempt runs a job and returns it with the tokens and text on record. It kills the
// job after the given number of released deltas. If kill is negative, it does not kill
// the job.
func (e *script) attempt(rules *policy.Rules, job events.Job, kill int) (events.Job, error) {
	job.Tokens = slices.Clone(job.Tokens)
	buffer := newHoldback(rules, e, job)
	if !buffer.refused {
		result, err := model.Generate(context.Background(), e, e.Encode(""), job.Tokens, job.Params, func(d model.Delta) error {
			d, ok, err := buffer.add(d)
			if !ok {
				return err
			}
			if kill == 0 {
				return errKilled
			}
			kill--
			job.Tokens = append(job.Tokens, d.Tokens...)
			job.Text += d.Text
			return nil
		})
		if err != nil && !errors.Is(err, errRefused) {
			return job, err
		}
		job.FinishReason = result.FinishReason
	}
	if kill == 0 {
		return job, errKilled // the job is killed before its end is on record
	}
	last, refused := buffer.end()
	job.Tokens = append(job.Tokens, last.Tokens...)
	job.Text += last.Text
	if refused {
		job.FinishReason = model.FinishContentFilter
	}
	return job, nil
}

// refuses reports whether a complete text contains a refused word.
func refuses(rules *policy.Rules, prompt, text string) bool {
	f := rules.Filter(prompt, "")
	_, _ = f.Add(text)
	_, refused := f.End()
	return refused
}

// TestInterruptionsDoNotChangeTheText kills a job repeatedly. The job must end with the
// tokens, text and finish reason of an uninterrupted job. The job's text and tokens
// must never contain a refused word.
func TestInterruptionsDoNotChangeTheText(t *testing.T) {
	rules := policy.Default()
	ends := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		e := &script{says: rapid.SliceOfN(rapid.IntRange(1, len(vocabulary)-1), 0, 25).Draw(t, "tokens")}
		job := events.Job{
			Prompt: rapid.SampledFrom([]string{"The prompt", "I h", "non", "w"}).Draw(t, "prompt"),
			Params: model.Params{
				MaxTokens: rapid.IntRange(1, 25).Draw(t, "max tokens"), TopP: 1,
				Stop: rapid.SliceOfN(rapid.SampledFrom([]string{"STOP", "hate", "ful", "ate", "vio", ". ", "of"}), 0, 2).Draw(t, "stop"),
			},
		}
		check := func(name string, j events.Job) {
			if spelled := model.Text(e.Decode(j.Tokens)); refuses(rules, job.Prompt, spelled) {
				t.Fatalf("%s job: the tokens spell %q", name, spelled)
			}
			if refuses(rules, job.Prompt, j.Text) {
				t.Fatalf("%s job: the text is %q", name, j.Text)
			}
		}
		want, err := e.attempt(rules, job, -1)
		if err != nil {
			t.Fatal(err)
		}
		check("undisturbed", want)
		ends[want.FinishReason]++
		// A text without refused words must equal the text that is generated without
		// rules.
		var all string
		result, err := model.Generate(t.Context(), e, e.Encode(""), nil, job.Params, func(d model.Delta) error { all += d.Text; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if refuses(rules, job.Prompt, all) != (want.FinishReason == model.FinishContentFilter) {
			t.Fatalf("text %q has the finish reason %s", all, want.FinishReason)
		}
		if !strings.HasPrefix(all, want.Text) || want.FinishReason != model.FinishContentFilter && (want.Text != all || want.FinishReason != result.FinishReason) {
			t.Fatalf("%q, %s without rules; %q, %s with them", all, result.FinishReason, want.Text, want.FinishReason)
		}
		got := job
		for range 10 {
			got, err = e.attempt(rules, got, rapid.IntRange(0, 4).Draw(t, "killed after"))
			check("killed", got)
			if err == nil {
				break
			}
			if !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
		}
		if err != nil {
			if got, err = e.attempt(rules, got, -1); err != nil {
				t.Fatal(err)
			}
		}
		if got.Text != want.Text || !slices.Equal(got.Tokens, want.Tokens) || got.FinishReason != want.FinishReason {
			t.Fatalf("interrupted job: %q %v %s, want %q %v %s", got.Text, got.Tokens, got.FinishReason, want.Text, want.Tokens, want.FinishReason)
		}
	})
	t.Log(ends)
	for _, reason := range []string{model.FinishStop, model.FinishLength, model.FinishContentFilter} {
		if ends[reason] == 0 {
			t.Errorf("no text ended with %s, so the test does not cover it", reason)
		}
	}
}

// ids returns the token of each text. All texts must be in the vocabulary.
func ids(texts ...string) []int {
	list := make([]int, len(texts))
	for i, text := range texts {
		list[i] = slices.Index(vocabulary, text)
	}
	return list
}

func TestTextEndsBeforeTheRefusedWord(t *testing.T) {
	for _, c := range []struct {
		name   string
		says   []int
		stop   []string
		tokens []int
		text   string
		finish string
	}{
		{"word in one token", ids(" of", " hate", " the"), nil, ids(" of"), " of ", "content_filter"},
		{"word in two tokens", ids(" of", " ha", "te", " the"), nil, ids(" of"), " of ", "content_filter"},
		{"word at the end", ids(" of", " ha", "te"), nil, ids(" of"), " of ", "content_filter"},
		{"longer word that is allowed", ids(" of", " ha", "te", "s"), nil, ids(" of", " ha", "te", "s"), " of hates", "stop"},
		{"prefix of a word at the end", ids(" of", " ha"), nil, ids(" of", " ha"), " of ha", "stop"},
		{"token that ends an allowed word and begins a refused one", ids("hate", "ful hate", "."), nil, nil, "hateful ", "content_filter"},
		{"letter in two tokens", ids(" ", "h", "\xd0", "\xb0", "te", " of"), nil, ids(" "), " ", "content_filter"},
		{"stop string is the word", ids(" of", " hate", " the"), []string{"hate"}, ids(" of"), " of ", "stop"},
		{"stop string completes the word", ids(" of", " ha", "te", "ful"), []string{"ful"}, ids(" of"), " of ", "content_filter"},
		{"stop string before the word", ids(" of", "STOP", " hate"), []string{"STOP"}, ids(" of", "STOP"), " of", "stop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &script{says: c.says}
			job, err := e.attempt(policy.Default(), events.Job{Prompt: "x", Params: model.Params{MaxTokens: 20, TopP: 1, Stop: c.stop}}, -1)
			if err != nil || job.Text != c.text || !slices.Equal(job.Tokens, c.tokens) || job.FinishReason != c.finish {
				t.Errorf("%q %v %s, %v; want %q %v %s", job.Text, job.Tokens, job.FinishReason, err, c.text, c.tokens, c.finish)
			}
		})
	}
}

// TestRefusalStopsTheModel generates a refused word. The model must generate no token
// after the token that causes the refusal.
func TestRefusalStopsTheModel(t *testing.T) {
	e := &script{says: append(ids(" of", " ha", "te", " the"), slices.Repeat(ids("x"), 100)...)}
	if _, err := e.attempt(policy.Default(), events.Job{Params: model.Params{MaxTokens: 200, TopP: 1}}, -1); err != nil || e.steps != 4 {
		t.Errorf("%d steps, %v; want 4", e.steps, err)
	}
	// If newer rules refuse the text on record, the model is not called.
	e.steps = 0
	job, err := e.attempt(policy.Default(), events.Job{Text: " I hate it", Tokens: ids(" hate"), Params: model.Params{MaxTokens: 200, TopP: 1}}, -1)
	if err != nil || e.steps != 0 || job.FinishReason != model.FinishContentFilter || job.Text != " I hate it" {
		t.Errorf("text refused by newer rules: %d steps, %+v, %v", e.steps, job, err)
	}
}

// BenchmarkHoldback measures the cost of one token of ordinary text.
func BenchmarkHoldback(b *testing.B) {
	e := &script{}
	var deltas []model.Delta
	for _, token := range ids(" of", " the", " what", "ever", ", ", " non", "gr", "é", "\n") {
		deltas = append(deltas, model.Delta{Tokens: []int{token}, Text: vocabulary[token]})
	}
	h, i := newHoldback(policy.Default(), e, events.Job{}), 0
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := h.add(deltas[i%len(deltas)]); !ok || err != nil {
			b.Fatal(ok, err)
		}
		i++
	}
}
