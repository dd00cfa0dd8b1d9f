package model

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A fakeEngine is an Engine that computes logits from a hash of the tokens of the
// sequence. Its vocabulary may have tokens of any bytes.
type fakeEngine struct {
	tokens  []string
	eos     int
	moreEOS []int
	context int
	fail    error // error that Next returns once the sequence has failAt tokens
	failAt  int
	open    int // number of open sequences
	steps   int // number of tokens passed to Next
}

func (e *fakeEngine) Info() Info {
	return Info{Name: "fake", Context: e.context, Vocab: len(e.tokens), EOS: e.eos, MoreEOS: e.moreEOS}
}

func (e *fakeEngine) Encode(text string) []int { return nil }

func (e *fakeEngine) Decode(ids []int) []byte {
	var b []byte
	for _, id := range ids {
		b = append(b, e.tokens[id]...)
	}
	return b
}

func (e *fakeEngine) Open(ctx context.Context, _ string) (Sequence, error) {
	e.open++
	return &fakeSequence{engine: e}, nil
}

type fakeSequence struct {
	engine *fakeEngine
	tokens []int
	closed bool
}

func (s *fakeSequence) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	s.tokens = append(s.tokens, tokens...)
	s.engine.steps += len(tokens)
	if len(s.tokens) > s.engine.context {
		return nil, errors.New("context overrun")
	}
	if s.engine.fail != nil && len(s.tokens) >= s.engine.failAt {
		return nil, s.engine.fail
	}
	h := fnv.New64a()
	fmt.Fprint(h, s.tokens)
	rnd := rand.New(rand.NewPCG(h.Sum64(), 1))
	logits := make([]float32, len(s.engine.tokens))
	for i := range logits {
		logits[i] = float32(rnd.NormFloat64())
	}
	return logits, nil
}

func (s *fakeSequence) NextEach(context.Context, int, ...int) ([][]float32, error) {
	return nil, errors.New("Generate does not call NextEach")
}

func (s *fakeSequence) Expect([]Guess) bool { return false }

func (s *fakeSequence) Close() {
	if !s.closed {
		s.engine.open--
	}
	s.closed = true
}

// generate runs Generate, which must succeed, and returns the deltas and the result.
func generate(t interface{ Fatalf(string, ...any) }, e *fakeEngine, prompt, past []int, p Params) ([]Delta, Result) {
	deltas := []Delta{}
	r, err := Generate(context.Background(), e, prompt, past, p, func(d Delta) error {
		deltas = append(deltas, d)
		return nil
	})
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	if e.open != 0 {
		t.Fatalf("%d sequences left open", e.open)
	}
	return deltas, r
}

func join(deltas []Delta) (tokens []int, text string) {
	for _, d := range deltas {
		tokens = append(tokens, d.Tokens...)
		text += d.Text
	}
	return tokens, text
}

// textByDefinition computes the text that Generate must return for the given tokens. It
// decodes the tokens one by one and looks, at every position of the text, for a stop
// string that ends there. It ignores those that end in the text of the first tokens, as many
// as ignored. It returns the text, the number of tokens used, and whether a stop string ended
// the text.
func textByDefinition(e *fakeEngine, tokens []int, stops []string, ignored int) (text string, used int, stopped bool) {
	after := -1
	for used = 0; used <= len(tokens); used++ {
		b := e.Decode(tokens[:used])
		if used < len(tokens) {
			b = b[:complete(b)]
		}
		whole := Text(b)
		if used <= ignored {
			after = len(whole)
		}
		for end := after + 1; end <= len(whole); end++ {
			longest := -1
			for _, s := range stops {
				if strings.HasSuffix(whole[:end], s) {
					longest = max(longest, len(s))
				}
			}
			if longest >= 0 {
				return whole[:end-longest], used, true
			}
		}
	}
	return Text(e.Decode(tokens)), len(tokens), false
}

// drawRun draws a fakeEngine with a small vocabulary, a prompt, and parameters. Many
// tokens of the vocabulary are only parts of characters.
func drawRun(t *rapid.T) (*fakeEngine, []int, Params) {
	piece := rapid.SampledFrom([]string{
		"", "a", "b", "ab", "aa", "ba", "aab", " ", "\n", "中", "\xe4", "\xb8", "\xad", "\xe4\xb8", "\xb8\xad", "\xb8\xada",
		"😀", "\xf0\x9f", "\x98", "\x80", "\xf0\x9f\x98", "\x98\x80b", "\xff", "\xc3", "\xa9", "é", "\ufffd", "\xed", "\xa0", "END", "EN", "D",
	})
	e := &fakeEngine{
		tokens:  rapid.SliceOfN(piece, 2, 8).Draw(t, "tokens"),
		context: 64,
		eos:     -1,
	}
	if rapid.Bool().Draw(t, "has EOS") {
		e.eos = 0
		if len(e.tokens) > 2 && rapid.Bool().Draw(t, "has another EOS") {
			e.moreEOS = []int{2}
		}
	}
	prompt := rapid.SliceOfN(rapid.IntRange(0, len(e.tokens)-1), 1, 4).Draw(t, "prompt")
	stop := rapid.SampledFrom([]string{"ab", "aab", "aaa", "ba", "b", "中a", "中", "é中", "\ufffd", "\ufffd\ufffda", "END", "NDa", "aaaaaaaab", "a\nb", "aaba", "aabaa"})
	maxTokens := rapid.IntRange(1, 40).Draw(t, "max")
	return e, prompt, Params{
		MaxTokens:   maxTokens,
		Temperature: 3,
		TopP:        1,
		Seed:        rapid.Uint64().Draw(t, "seed"),
		Stop:        rapid.SliceOfN(stop, 0, 3).Draw(t, "stop"),
		MinTokens:   rapid.OneOf(rapid.Just(0), rapid.IntRange(0, maxTokens)).Draw(t, "min"),
	}
}

func TestGenerateContinuesExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, prompt, p := drawRun(t)
		deltas, result := generate(t, e, prompt, nil, p)
		tokens, text := join(deltas)

		// Generate must return the text and the number of tokens that textByDefinition
		// returns.
		want, used, stopped := textByDefinition(e, tokens, p.Stop, p.MinTokens)
		if text != want || used != len(tokens) {
			t.Fatalf("tokens %v have text %q, want %q of the first %d", tokens, text, want, used)
		}
		if !utf8.ValidString(text) {
			t.Fatalf("text %q is not UTF-8", text)
		}
		reason := FinishStop
		if !stopped && len(tokens) == p.MaxTokens {
			reason = FinishLength
		}
		if want := (Result{reason, len(prompt), len(tokens)}); result != want {
			t.Fatalf("result %+v, want %+v", result, want)
		}
		if slices.ContainsFunc(tokens, e.Info().Ends) {
			t.Fatalf("tokens %v contain an end-of-text token", tokens)
		}

		// Every delta must have tokens. The text of every delta but the last must be the
		// decoded text of its own tokens.
		for i, d := range deltas {
			if len(d.Tokens) == 0 {
				t.Fatalf("delta %d has no tokens", i)
			}
			if i < len(deltas)-1 && d.Text != Text(e.Decode(d.Tokens)) {
				t.Fatalf("delta %d of %v has text %q", i, d.Tokens, d.Text)
			}
		}

		// A run that is interrupted after any delta and continued must emit the
		// remaining deltas.
		for i := range len(deltas) + 1 {
			past, _ := join(deltas[:i])
			rest, again := generate(t, e, prompt, past, p)
			if diff := cmp.Diff(deltas[i:], rest); diff != "" || again != result {
				t.Fatalf("continued after %d deltas: %+v, want %+v, %s", i, again, result, diff)
			}
		}
	})
}

func TestGenerateComputesNothingForAFinishedText(t *testing.T) {
	e := &fakeEngine{tokens: []string{"a", "b", "\xf0\x9f"}, context: 20, eos: -1}
	p := Params{MaxTokens: 3, Temperature: 1, TopP: 1, Stop: []string{"ab"}}
	for _, c := range []struct {
		past []int
		want string
	}{
		{[]int{1, 1, 1}, FinishLength},
		{[]int{1, 1, 1, 1}, FinishLength},
		{[]int{1, 1, 2}, FinishLength},
		{[]int{0, 1}, FinishStop},
		{[]int{1, 0, 1}, FinishStop},
	} {
		deltas, r := generate(t, e, []int{0}, c.past, p)
		if len(deltas) != 0 || r != (Result{c.want, 1, len(c.past)}) || e.steps != 0 {
			t.Errorf("past %v: %v, %+v, %d tokens computed", c.past, deltas, r, e.steps)
		}
	}
}

func TestGenerateRefusesInvalidArguments(t *testing.T) {
	e := &fakeEngine{tokens: []string{"a", "b"}, context: 10, eos: -1}
	p := Params{MaxTokens: 4, Temperature: 1, TopP: 1}
	negative := p
	negative.Temperature = -1
	huge := p
	huge.MaxTokens = math.MaxInt
	for _, c := range []struct {
		name         string
		prompt, past []int
		p            Params
		want         error
		message      string
	}{
		{"no prompt", nil, nil, p, ErrPrompt, ""},
		{"bad parameters", []int{0}, nil, negative, ErrParams, "temperature"},
		{"unknown token", []int{0, 2}, nil, p, ErrToken, "2"},
		{"negative token", []int{-1}, nil, p, ErrToken, "-1"},
		{"unknown token in the past", []int{0}, []int{7}, p, ErrToken, "7"},
		{"no room", []int{0, 0, 0, 0, 0, 0, 0}, nil, p, ErrContext, "7 of the prompt and 4 to generate, the model has room for 10"},
		{"no room at all", []int{0}, nil, huge, ErrContext, "room for 10"},
	} {
		_, err := Generate(t.Context(), e, c.prompt, c.past, c.p, func(Delta) error { return errors.New("emitted") })
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.want, c.message)
		}
	}
	if deltas, _ := generate(t, e, []int{0, 0, 0, 0, 0, 0}, nil, p); len(deltas) != 4 {
		t.Errorf("a full context gives %d deltas", len(deltas))
	}
}

func TestGenerateReturnsErrorsOfEngineAndEmit(t *testing.T) {
	want := errors.New("no")
	p := Params{MaxTokens: 5, Temperature: 1, TopP: 1}
	newEngine := func() *fakeEngine { return &fakeEngine{tokens: []string{"a", "b"}, context: 10, eos: -1} }

	e := newEngine()
	calls := 0
	_, err := Generate(t.Context(), e, []int{0}, nil, p, func(Delta) error { calls++; return want })
	if err != want || calls != 1 || e.open != 0 {
		t.Errorf("emit: %v after %d calls, %d open", err, calls, e.open)
	}

	e = newEngine()
	p.MaxTokens = 1 // with one token, the only delta is the last delta
	if _, err = Generate(t.Context(), e, []int{0}, nil, p, func(Delta) error { return want }); err != want {
		t.Errorf("emit of the last delta: %v", err)
	}
	p.MaxTokens = 5

	e = newEngine()
	e.fail, e.failAt = want, 3
	if _, err = Generate(t.Context(), e, []int{0}, nil, p, func(Delta) error { return nil }); err != want || e.open != 0 {
		t.Errorf("Next: %v, %d open", err, e.open)
	}

	e = newEngine()
	ctx, cancel := context.WithCancel(t.Context())
	calls = 0
	_, err = Generate(ctx, e, []int{0}, nil, p, func(Delta) error { calls++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || calls != 1 || e.steps != 1 {
		t.Errorf("cancelled: %v after %d deltas, %d tokens", err, calls, e.steps)
	}
}

func TestGenerateDoesNotChangeItsArguments(t *testing.T) {
	e := &fakeEngine{tokens: []string{"a", "b"}, context: 30, eos: -1}
	prompt, past := make([]int, 2, 10), make([]int, 1, 10)
	deltas, _ := generate(t, e, prompt, past, Params{MaxTokens: 6, Temperature: 1, TopP: 1})
	before, _ := join(deltas)
	generate(t, e, prompt, past, Params{MaxTokens: 6, Temperature: 1, TopP: 1, Seed: 9})
	if after, _ := join(deltas); !slices.Equal(before, after) || slices.Max(prompt[:10]) > 0 || slices.Max(past[:10]) > 0 {
		t.Errorf("prompt %v, past %v, deltas %v and %v", prompt[:10], past[:10], before, after)
	}
}
