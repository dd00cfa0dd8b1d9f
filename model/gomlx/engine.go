// Package gomlx implements GPT-2 as a GoMLX graph. It is the reference for tests
// of the native engine, and the trainer of the model in package opticks.
//
// Inference and training share one graph. The graph shares no arithmetic with the
// native engine. So a mistake in one of them shows as a difference between the two.
// This package uses package gpt2 only to read files and to tokenise.
//
// An [Engine] keeps the promise of [model.Engine] to the bit on one machine, because it
// computes one token of one sequence at a time. It aims at correctness rather than
// speed. On the CPU, it is several times slower than the native engine. The same graph
// runs on XLA and its devices if [New] opens another backend of GoMLX.
package gomlx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"

	"colophon/model"
	"colophon/model/gpt2"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// An Engine runs a checkpoint in float32 on GoMLX's pure-Go backend. It is safe for
// concurrent use. Concurrent sequences alternate token by token.
type Engine struct {
	config    gpt2.Config
	info      model.Info
	tokenizer *gpt2.Tokenizer
	backend   compute.Backend
	weights   []any // arguments of step; each is a *tensors.Tensor
	step      *graph.Exec
	// computing holds one value during a computation, so only one runs at a time. The
	// backend in version 0.1.2 of the module compute deadlocks when two computations
	// run out of workers at the same time.
	computing chan struct{}
}

// New returns an engine with the weights of a checkpoint. The checkpoint may be closed
// when New returns. name is the name in Info. A nil tokenizer encodes and decodes
// nothing.
func New(name string, checkpoint *gpt2.Checkpoint, tokenizer *gpt2.Tokenizer) (*Engine, error) {
	config := checkpoint.Config
	digest, err := checkpoint.Digest()
	if err != nil {
		return nil, err
	}
	backend, err := gobackend.New("")
	if err != nil {
		return nil, fmt.Errorf("open GoMLX's Go backend: %w", err)
	}
	e := &Engine{
		tokenizer: tokenizer,
		config:    config,
		info: model.Info{
			Name: name, Weights: digest + "/f32" + config.Variant(), Kernel: "gomlx/" + backend.Name() + "/" + runtime.GOARCH,
			Context: config.Context, Vocab: config.Vocab, EOS: config.EOS, MoreEOS: config.MoreEOS,
		},
		backend:   backend,
		computing: make(chan struct{}, 1),
	}
	for tensorName, shape := range config.Tensors() {
		values, err := checkpoint.Tensor(tensorName)
		if err != nil {
			return nil, err
		}
		tensor := tensors.FromFlatDataAndDimensions(values, shape...)
		if err := tensor.MaterializeOnDevice(backend, true, 0); err != nil {
			return nil, fmt.Errorf("load tensor %s: %w", tensorName, err)
		}
		e.weights = append(e.weights, tensor)
	}
	if e.step, err = graph.NewExec(backend, e.graph); err != nil {
		return nil, fmt.Errorf("build the graph: %w", err)
	}
	return e, nil
}

// graph builds the computation of one token. Its inputs are the token [1] and its
// position [1], the keys and values of every layer [1, heads, context, head width], and
// the weights. It returns the logits [1, vocab], and the keys and values with those of
// the token added.
func (e *Engine) graph(in []*graph.Node) []*graph.Node {
	token, position, cache := in[0], in[1], in[2:2+2*e.config.Layers]
	n := newNetwork(e.config, in[2+len(cache):])
	out := make([]*graph.Node, 1+len(cache))
	n.storeKV = func(layer int, keys, values *graph.Node) (*graph.Node, *graph.Node) {
		keys = put(cache[2*layer], keys, position)
		values = put(cache[2*layer+1], values, position)
		out[1+2*layer], out[2+2*layer] = keys, values
		return keys, values
	}
	out[0] = n.logits(n.hidden(graph.Reshape(token, 1, 1), position))
	return out
}

// put returns the cache after it has stored row [1, heads, 1, head width] at position.
// It compares positions because the Go backend has no DynamicUpdateSlice.
func put(cache, row, position *graph.Node) *graph.Node {
	shape := cache.Shape()
	here := graph.Equal(graph.Iota(cache.Graph(), shapes.Make(dtypes.Int32, shape.Dimensions...), 2),
		graph.BroadcastToDims(graph.Reshape(position, 1, 1, 1, 1), shape.Dimensions...))
	return graph.Where(here, graph.BroadcastToDims(row, shape.Dimensions...), cache)
}

// Info implements [model.Engine].
func (e *Engine) Info() model.Info { return e.info }

// Encode implements [model.Engine].
func (e *Engine) Encode(text string) []int { return e.tokenizer.Encode(text) }

// Decode implements [model.Engine].
func (e *Engine) Decode(ids []int) []byte { return e.tokenizer.Decode(ids) }

// Open implements [model.Engine]. There is always room for another sequence.
func (e *Engine) Open(ctx context.Context, _ string) (model.Sequence, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &sequence{engine: e}
	for range 2 * e.config.Layers {
		s.cache = append(s.cache, tensors.FromShape(shapes.Make(dtypes.Float32, 1, e.config.Heads, e.config.Context, e.config.HeadDim())))
	}
	return s, nil
}

// Close frees the weights. No method of the engine or its sequences may be called
// afterwards.
func (e *Engine) Close() {
	e.step.Finalize()
	e.backend.Finalize()
}

// A sequence implements [model.Sequence].
type sequence struct {
	engine *Engine
	length int
	cache  []*tensors.Tensor // keys and values of every layer; undefined from position length on
	logits []float32
	err    error // the first error of Next, which every later call returns too
}

var errClosed = errors.New("sequence is closed")

// Next implements [model.Sequence].
func (s *sequence) Next(ctx context.Context, tokens ...int) ([]float32, error) {
	if s.err == nil {
		s.err = s.next(ctx, tokens)
	}
	return s.logits, s.err
}

// NextEach implements [model.Sequence].
func (s *sequence) NextEach(ctx context.Context, n int, tokens ...int) ([][]float32, error) {
	if s.err == nil {
		s.err = cmp.Or(s.engine.info.CheckTokens(s.length, tokens), model.CheckWanted(n, tokens))
	}
	if s.err != nil {
		return nil, s.err
	}
	var each [][]float32
	for from, to := 0, len(tokens)-n+1; to <= len(tokens); from, to = to, to+1 {
		logits, err := s.Next(ctx, tokens[from:to]...)
		if err != nil {
			return nil, err
		}
		each = append(each, logits) // each computation has logits of its own
	}
	return each, nil
}

func (s *sequence) next(ctx context.Context, tokens []int) error {
	s.logits = nil
	if err := s.engine.info.CheckTokens(s.length, tokens); err != nil {
		return err
	}
	for _, id := range tokens {
		if err := s.append(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// append adds a token to the sequence and computes the logits that follow it.
func (s *sequence) append(ctx context.Context, id int) error {
	e := s.engine
	select {
	case e.computing <- struct{}{}:
		defer func() { <-e.computing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	args := []any{[]int32{int32(id)}, []int32{int32(s.length)}}
	for _, t := range s.cache {
		args = append(args, t)
	}
	out, err := e.step.Call(append(args, e.weights...)...)
	if err != nil {
		return fmt.Errorf("compute token %d: %w", s.length, err)
	}
	s.free()
	s.cache = out[1:]
	s.length++
	s.logits, err = tensors.CopyFlatData[float32](out[0])
	return errors.Join(err, out[0].FinalizeAll())
}

// Expect implements [model.Sequence]. A token is computed when it is known.
func (s *sequence) Expect([]model.Guess) bool { return false }

// Close implements [model.Sequence].
func (s *sequence) Close() {
	s.free()
	s.err, s.logits = errClosed, nil
}

// free frees the cache.
func (s *sequence) free() {
	for _, t := range s.cache {
		t.MustFinalizeAll()
	}
	s.cache = nil
}
