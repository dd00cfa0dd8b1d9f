package contract

import (
	"context"
	"sync"

	"colophon/model"
)

// engine writes short texts at once, or while it is held none: what a token is
// does not matter here.
type engine struct {
	mu   sync.Mutex
	gate chan struct{} // nil, or open while the engine is held
}

// hold makes sequences wait until release, and release lets them go on: those that
// wait have a worker's slots.
func (e *engine) hold() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gate == nil {
		e.gate = make(chan struct{})
	}
}

func (e *engine) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gate != nil {
		close(e.gate)
		e.gate = nil
	}
}

// wait returns when the engine is not held.
func (e *engine) wait(ctx context.Context) error {
	e.mu.Lock()
	gate := e.gate
	e.mu.Unlock()
	if gate == nil {
		return ctx.Err()
	}
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const (
	vocabulary = 27 // a to z, and the end
	end        = 26
)

func (*engine) Info() model.Info {
	return model.Info{Name: "stub", Weights: "stub/f32", Kernel: "stub", Context: 1024, Vocab: vocabulary, EOS: end}
}

// Encode makes a token of four bytes.
func (*engine) Encode(text string) []int {
	ids := make([]int, 0, len(text)/4+1)
	for i := 0; i < len(text); i += 4 {
		ids = append(ids, int(text[i])%end)
	}
	return ids
}

func (*engine) Decode(ids []int) []byte {
	text := make([]byte, 0, len(ids))
	for _, id := range ids {
		text = append(text, byte('a'+id))
	}
	return text
}

func (e *engine) Open(context.Context) (model.Sequence, error) { return &sequence{engine: e}, nil }

type sequence struct {
	engine      *engine
	calls, last int
}

// Next lets a text end after some ten tokens.
func (s *sequence) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	if err := s.engine.wait(ctx); err != nil {
		return nil, err
	}
	s.calls++
	s.last += tokens[len(tokens)-1] + 7
	logits := make([]float32, vocabulary)
	logits[s.last%end] = 4
	if s.calls > 10 {
		logits[end] = 50
	}
	return logits, nil
}

func (*sequence) Close() {}
