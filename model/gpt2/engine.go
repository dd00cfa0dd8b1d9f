package gpt2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"time"

	"colophon/model"
	"colophon/model/kernel"
)

// ErrClosed is returned by an Engine, and by the sequences it opened, once it
// has been closed.
var ErrClosed = errors.New("engine is closed")

// Options are what a checkpoint leaves open. Of them, Weights alone changes a
// logit.
type Options struct {
	Name      string        // for Info; "gpt2" if empty
	Weights   kernel.Format // how weights are kept and multiplied; halves if 0
	Threads   int           // threads that compute; as many as Go uses if 0
	Sequences int           // most sequences open at a time; 16 if 0
}

// An Engine runs a GPT-2 network. It implements [model.Engine].
//
// One goroutine computes, a step at a time. A step has the next token of every
// sequence that waits for the logits after one token, and tokens of those that
// wait with more, in the order in which they came: while other sequences run,
// so many that a step takes not quite twice as long as without them, and promptTokens
// otherwise. A call of Next whose context is done returns at once, and what it
// asked for leaves with the step that is being computed.
//
// Beyond the weights, memory is for the keys and values of the open sequences:
// at most Sequences times Context tokens of them, kept for later sequences once
// allocated.
type Engine struct {
	info      model.Info
	network   *network
	tokenizer *Tokenizer
	slots     chan struct{} // holds one for each open sequence
	wake      chan struct{} // holds one when the queue may have changed
	stopped   chan struct{} // closed when nothing computes any more

	mu     sync.Mutex
	closed bool
	queue  []*sequence // with tokens to compute, oldest first
	free   []*kernel.Panels
	step   uint64 // number of steps begun
	due    int    // sequences that the last step finished and that have not come back
	pace   pace
	times  Times

	// The open sequences that have had logits: most likely they are sampled
	// from and come back soon.
	running int
}

var _ model.Engine = (*Engine)(nil)

const (
	// A step waits for the sequences of the last one to come back, so that
	// they stay together, for an eighth of what that took, but no longer than
	// maxGather.
	maxGather = 3 * time.Millisecond
)

// Load reads a directory with config.json, model.safetensors, vocab.json and
// merges.txt and starts an engine.
func Load(fsys fs.FS, opts Options) (*Engine, error) {
	tok, err := ReadTokenizer(fsys)
	if err != nil {
		return nil, err
	}
	ck, err := ReadCheckpoint(fsys)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	return New(ck, tok, opts)
}

// New starts an engine with the weights of a checkpoint, which it does not
// need any more when it returns. The tokenizer may have fewer ids than the
// checkpoint, whose others then stand for no text. It may be nil for work on
// token ids alone; Encode and Decode then return nothing.
func New(ck *Checkpoint, tok *Tokenizer, opts Options) (*Engine, error) {
	if tok.Size() > ck.Config.Vocab {
		return nil, fmt.Errorf("tokenizer has %d ids, the network only %d", tok.Size(), ck.Config.Vocab)
	}
	if opts.Threads < 0 || opts.Sequences < 0 {
		return nil, fmt.Errorf("%d threads and %d sequences: neither may be negative", opts.Threads, opts.Sequences)
	}
	var digest string
	var digestErr error
	var reading sync.WaitGroup
	reading.Go(func() { digest, digestErr = ck.Digest() })
	threads := cmp.Or(opts.Threads, runtime.GOMAXPROCS(0))
	n, err := load(ck, opts.Weights, threads)
	reading.Wait()
	if err := cmp.Or(err, digestErr); err != nil {
		return nil, err
	}
	e := newEngine(n, tok, opts)
	e.info.Weights = digest + "/" + opts.Weights.String()
	go e.run(kernel.NewPool(threads))
	return e, nil
}

func newEngine(n *network, tok *Tokenizer, opts Options) *Engine {
	return &Engine{
		info: model.Info{
			Name:    cmp.Or(opts.Name, "gpt2"),
			Kernel:  kernel.Fingerprint(n.format),
			Context: n.Context,
			Vocab:   n.Vocab,
			EOS:     n.EOS,
		},
		network:   n,
		tokenizer: tok,
		slots:     make(chan struct{}, cmp.Or(opts.Sequences, 16)),
		wake:      make(chan struct{}, 1),
		stopped:   make(chan struct{}),
	}
}

// Info implements [model.Engine].
func (e *Engine) Info() model.Info { return e.info }

// Encode implements [model.Engine].
func (e *Engine) Encode(text string) []int { return e.tokenizer.Encode(text) }

// Decode implements [model.Engine].
func (e *Engine) Decode(ids []int) []byte { return e.tokenizer.Decode(ids) }

// Open implements [model.Engine]. Those who wait are served in order.
func (e *Engine) Open(ctx context.Context) (model.Sequence, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-e.stopped:
		return nil, ErrClosed
	default:
	}
	select {
	case e.slots <- struct{}{}:
		return &sequence{engine: e, logits: make([]float32, e.info.Vocab), done: make(chan error, 1)}, nil
	case <-e.stopped:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReadWeights reads all weights on the threads of a pool, as a step reads them
// for one sequence, and computes nothing: no step is faster. It returns the
// number of bytes.
func (e *Engine) ReadWeights(pool *kernel.Pool) int {
	bytes := 0
	for m := range e.network.matrices {
		pool.Run(m.Panels(), 16, func(_, lo, hi int) { m.Read(lo, hi) })
		bytes += m.Bytes()
	}
	return bytes
}

// Times returns where the time of all steps so far has gone.
func (e *Engine) Times() Times {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.times
}

// Close ends the step that is being computed, makes every call of Next that
// waits return [ErrClosed], and frees the threads.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.signal()
	<-e.stopped
}

// signal tells the computing goroutine that the queue may have changed.
func (e *Engine) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run computes steps until the engine is closed.
func (e *Engine) run(pool *kernel.Pool) {
	defer close(e.stopped)
	defer pool.Close()
	f := newForward(e.network, pool, cap(e.slots)+promptTokens, cap(e.slots))
	timer := time.NewTimer(0)
	defer timer.Stop()
	var took time.Duration
	for e.gather(timer, min(took/8, maxGather)) {
		e.plan(f)
		start := time.Now()
		f.run()
		took = time.Since(start)
		e.finish(took, f.times)
	}
}

// gather waits until there is something to compute, and then for at most
// patience for the sequences that are due. It returns false when the engine is
// closed.
func (e *Engine) gather(timer *time.Timer, patience time.Duration) bool {
	var timeout <-chan time.Time // nil until there is something to compute
	for {
		e.mu.Lock()
		closed, waiting, due := e.closed, len(e.queue), e.due
		if closed {
			for _, s := range e.queue {
				s.done <- ErrClosed
			}
			e.queue = nil
		}
		e.mu.Unlock()
		switch {
		case closed:
			return false
		case waiting > 0 && (due == 0 || patience <= 0):
			return true
		case waiting > 0 && timeout == nil:
			timer.Reset(patience)
			timeout = timer.C
		}
		select {
		case <-e.wake:
		case <-timeout:
			return true
		}
	}
}

// plan chooses the rows of the next step.
func (e *Engine) plan(f *forward) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.step++
	e.due = 0
	f.rows = f.rows[:0]
	budget := e.pace.budget(e.running)
	for _, s := range e.queue {
		n := len(s.tokens) - s.fed
		if n > 1 {
			n = min(n, budget)
			budget -= n
		}
		s.rows = n
		for i := range n {
			position := s.cache.tokens + i
			if position == len(s.cache.pages)*pageTokens {
				s.cache.pages = append(s.cache.pages, e.page(&f.layout))
			}
			r := row{cache: &s.cache, position: position, token: s.tokens[s.fed+i]}
			if s.fed+i == len(s.tokens)-1 {
				r.logits = s.logits
			}
			f.rows = append(f.rows, r)
		}
	}
}

// page returns a page, which may have anything in it.
func (e *Engine) page(l *layout) *kernel.Panels {
	if n := len(e.free); n > 0 {
		p := e.free[n-1]
		e.free = e.free[:n-1]
		return p
	}
	return l.newPage()
}

// finish hands out the results of a step that took some time; times are those of
// all steps.
func (e *Engine) finish(took time.Duration, times Times) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.times = times
	singles, prompts := 0, 0
	for _, s := range e.queue {
		if len(s.tokens) == 1 {
			singles += s.rows
		} else {
			prompts += s.rows
		}
	}
	e.pace.observe(singles, prompts, took)
	e.queue = slices.DeleteFunc(e.queue, func(s *sequence) bool {
		s.cache.tokens += s.rows
		s.fed += s.rows
		stepped := s.rows > 0
		s.rows = 0
		switch {
		case s.gone:
			if s.closed {
				e.release(s)
			}
			return true
		case stepped && s.fed == len(s.tokens):
			s.finished = e.step
			e.due++
			if !s.running {
				s.running = true
				e.running++
			}
			s.done <- nil
			return true
		}
		return false
	})
}

// release takes back what a sequence held.
func (e *Engine) release(s *sequence) {
	if s.running {
		e.running--
	}
	e.free = append(e.free, s.cache.pages...)
	s.cache.pages = nil
	<-e.slots
}
