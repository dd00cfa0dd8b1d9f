package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"colophon/jobs"
	"colophon/model"
)

// engine is a fake model whose next token depends on all tokens before it. It can
// pause and fail at given lengths of a sequence.
type engine struct {
	weights  string
	kernel   string
	context  int
	stepTime time.Duration // duration of each step
	says     string        // the text after a prompt of one token, or "" for pseudorandom letters
	open     atomic.Int32  // number of open sequences

	mu    sync.Mutex
	pause map[int]chan struct{} // at these sequence lengths, Next waits until the channel is closed or ctx is done
	fail  map[int]error         // at these sequence lengths, Next returns the error once
	calls int
	parts int // number of calls of NextEach
}

// computed returns the number of calls of NextEach.
func (e *engine) computed() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.parts
}

func newEngine() *engine {
	return &engine{weights: "w/f32", kernel: "fake", context: 1000, pause: map[int]chan struct{}{}, fail: map[int]error{}}
}

func (e *engine) Info() model.Info {
	vocab := 26
	if e.says != "" {
		vocab = 'z' + 2 - 'a' // 26 letters and the character {, which stands for a space
	}
	return model.Info{Name: "fake", Weights: e.weights, Kernel: e.kernel, Context: e.context, Vocab: vocab, EOS: -1}
}

func (e *engine) Encode(text string) []int {
	ids := make([]int, 0, len(text))
	for _, b := range []byte(text) {
		ids = append(ids, int(b)%26)
	}
	return ids
}

func (e *engine) Decode(ids []int) []byte {
	text := make([]byte, 0, len(ids))
	for _, id := range ids {
		text = append(text, byte('a'+id))
	}
	return text
}

func (e *engine) Open(context.Context, string) (model.Sequence, error) {
	e.open.Add(1)
	return &sequence{engine: e}, nil
}

type sequence struct {
	engine *engine
	tokens []int
}

func (s *sequence) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	s.tokens = append(s.tokens, tokens...)
	s.engine.mu.Lock()
	s.engine.calls++
	gate := s.engine.pause[len(s.tokens)]
	err := s.engine.fail[len(s.tokens)]
	delete(s.engine.fail, len(s.tokens))
	s.engine.mu.Unlock()
	if s.engine.stepTime > 0 {
		time.Sleep(s.engine.stepTime) // ignores ctx, as a real engine does, because a step serves several jobs at once
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	if s.engine.says != "" {
		logits := make([]float32, s.engine.Info().Vocab)
		logits[s.engine.says[len(s.tokens)-1]-'a'] = 1
		return logits, ctx.Err()
	}
	logits := make([]float32, 26)
	state := uint32(2166136261)
	for _, t := range s.tokens {
		state = (state ^ uint32(t)) * 16777619
	}
	for i := range logits {
		state = state*1664525 + 1013904223
		logits[i] = float32(state>>16) / (1 << 14)
	}
	return logits, ctx.Err()
}

// NextEach implements model.Sequence.
func (s *sequence) NextEach(ctx context.Context, n int, tokens ...int) ([][]float32, error) {
	s.engine.mu.Lock()
	s.engine.parts++
	s.engine.mu.Unlock()
	return jobs.EachByNext(ctx, s, n, tokens)
}

// Expect implements model.Sequence.
func (s *sequence) Expect([]model.Guess) bool { return false }

func (s *sequence) Close() { s.engine.open.Add(-1) }

var errBroken = errors.New("the engine is broken")

// text returns the text of an uninterrupted job.
func (e *engine) text(prompt string, p model.Params) string { return e.generate(prompt, p).Text }

// logprobs returns the log probabilities of an undisturbed text.
func (e *engine) logprobs(prompt string, p model.Params) []model.TokenLogprobs {
	return e.generate(prompt, p).Logprobs
}

func (e *engine) generate(prompt string, p model.Params) (all model.Delta) {
	undisturbed := newEngine()
	_, err := model.Generate(context.Background(), undisturbed, undisturbed.Encode(prompt), nil, p, func(d model.Delta) error {
		all.Text, all.Logprobs = all.Text+d.Text, append(all.Logprobs, d.Logprobs...)
		return nil
	})
	if err != nil {
		panic(fmt.Sprintf("undisturbed: %v", err))
	}
	return all
}
