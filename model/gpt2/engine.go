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

// ErrClosed is returned by a closed Engine and by its sequences.
var ErrClosed = errors.New("engine is closed")

// Options configure an Engine. Only Weights changes the logits.
type Options struct {
	Name      string        // name of the model in Info; "" means "gpt2"
	Weights   kernel.Format // format in which weights are stored and multiplied; 0 means F16
	Threads   int           // number of threads; 0 means GOMAXPROCS
	Sequences int           // largest number of open sequences; 0 means 16
	Prefixes  int64         // number of bytes of unused pages that the prefix cache may keep; 0 means no cache
	Speculate bool          // guess tokens that may follow, and compute them in the same step where that is faster
}

// An Engine runs a GPT-2 network. It implements [model.Engine] with continuous
// batching.
//
// One goroutine computes all tokens, step by step. A step computes the next token of
// every decoding sequence, and tokens of waiting prompts, oldest prompt first. While
// sequences are decoding, prompt tokens may make a step about twice as long. If even 8
// prompt tokens take longer than that, the step has 8 of them. Without decoding
// sequences, a step has up to 128 prompt tokens. A call of Next returns at once when
// its context is done. The tokens of that call leave the queue after the current step.
//
// If a step panics, its sequences are computed again, each in a step of its own. The
// sequence that panics alone ends with a [model.PanicError], and the others go on.
//
// Besides the weights, an Engine needs memory for the keys and values of open
// sequences: at most Sequences times Context tokens. Later sequences reuse this memory.
//
// With speculation, a step may also compute guesses of the tokens after its own, see
// [model.Sequence].
//
// With a prefix cache, a sequence also reuses keys and values that sequences of the same
// scope have computed for the same first tokens. A sequence computes no page that another one
// of its scope is computing, but waits for it.
type Engine struct {
	info      model.Info
	network   *network
	tokenizer *Tokenizer    // nil if callers use only token ids
	slots     chan struct{} // holds one value for each open sequence
	wake      chan struct{} // holds one value when the queue may have changed
	stopped   chan struct{} // closed when the computing goroutine has ended

	mu       sync.Mutex
	closed   bool
	queue    []*sequence      // sequences with tokens to compute, oldest first
	free     []*kernel.Panels // pages of the KV cache for reuse
	step     uint64           // number of steps begun
	decoding int              // number of open sequences that decode
	expected int              // number of sequences that got logits in the last step and have called neither Next nor Close since
	budget   stepBudget
	times    Times
	prefixes *prefixCache
	expiry   *time.Timer // calls expire when the next unused page expires
	claims   []claim     // pages that sequences with a scope compute in the step being planned

	speculation speculation
}

var _ model.Engine = (*Engine)(nil)

// maxGather is the longest time that a step waits for the sequences of the previous
// step. The wait keeps these sequences together in the same step.
const maxGather = 3 * time.Millisecond

// Load reads config.json, the weights and the tokenizer, and starts an engine. Close ends
// it.
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

// New starts an engine with the weights of a checkpoint. The checkpoint may be closed
// when New returns. The tokenizer may have fewer ids than the checkpoint, or more. Ids that
// it lacks stand for no text, and ids that the network lacks cannot be computed. With a
// nil tokenizer, the engine works only with token ids. Close ends the engine.
func New(ck *Checkpoint, tok *Tokenizer, opts Options) (*Engine, error) {
	if err := opts.check(); err != nil {
		return nil, err
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
	return start(n, tok, opts, n.info(digest), threads), nil
}

func (o Options) check() error {
	if o.Threads < 0 || o.Sequences < 0 {
		return fmt.Errorf("%d threads and %d sequences: want 0 or more of each", o.Threads, o.Sequences)
	}
	return nil
}

// info returns what [model.Info] says of the weights with a digest.
func (n *network) info(digest string) string {
	return digest + "/" + n.format.String() + n.Variant()
}

// start starts an engine with a network, whose weights info names.
func start(n *network, tok *Tokenizer, opts Options, info string, threads int) *Engine {
	e := newEngine(n, tok, opts)
	e.info.Weights = info
	go e.run(kernel.NewPool(threads))
	return e
}

func newEngine(n *network, tok *Tokenizer, opts Options) *Engine {
	l := newLayout(n.Config, n.format)
	e := &Engine{
		info: model.Info{
			Name:    cmp.Or(opts.Name, "gpt2"),
			Kernel:  kernel.Fingerprint(n.format),
			Context: n.Context,
			Vocab:   n.Vocab,
			EOS:     n.EOS,
			MoreEOS: n.MoreEOS,
		},
		network:   n,
		tokenizer: tok,
		slots:     make(chan struct{}, cmp.Or(opts.Sequences, 16)),
		wake:      make(chan struct{}, 1),
		stopped:   make(chan struct{}),
	}
	e.prefixes = newPrefixCache(opts.Prefixes, l.pageBytes(), func(p *kernel.Panels) { e.free = append(e.free, p) })
	e.speculation.on = opts.Speculate
	e.expiry = time.AfterFunc(keepPrefixes, e.expire)
	return e
}

// Info implements [model.Engine].
func (e *Engine) Info() model.Info { return e.info }

// Encode implements [model.Engine].
func (e *Engine) Encode(text string) []int { return e.tokenizer.Encode(text) }

// Decode implements [model.Engine].
func (e *Engine) Decode(ids []int) []byte { return e.tokenizer.Decode(ids) }

// Open implements [model.Engine]. Waiting callers are served in order.
func (e *Engine) Open(ctx context.Context, scope string) (model.Sequence, error) {
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
		s := &sequence{engine: e, logits: [][]float32{make([]float32, e.info.Vocab)}, done: make(chan error, 1)}
		e.mu.Lock()
		defer e.mu.Unlock()
		s.prefix = e.prefixes.open(scope)
		return s, nil
	case <-e.stopped:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReadWeights reads all weights on the threads of a pool, without computing anything.
// It reads them in the order of a step for one sequence, so its duration is a lower
// bound for the duration of a step. ReadWeights returns the number of bytes.
func (e *Engine) ReadWeights(pool *kernel.Pool) int {
	bytes := 0
	for m := range e.network.matrices {
		pool.Run(m.Panels(), 16, func(_, lo, hi int) { m.Read(lo, hi) })
		bytes += m.Bytes()
	}
	return bytes
}

// Times returns the total time of all steps so far.
func (e *Engine) Times() Times {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.times
}

// Close waits for the current step, makes every waiting call of Next return
// [ErrClosed], and frees the threads. It is safe to call twice.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.expiry.Stop()
	e.mu.Unlock()
	e.signal()
	<-e.stopped
}

// signal wakes the computing goroutine, because the queue may have changed.
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
	f := newForward(e.network, pool, cap(e.slots)+maxPromptTokens, cap(e.slots))
	timer := time.NewTimer(0)
	defer timer.Stop()
	var took time.Duration
	for e.gather(timer, min(took/8, maxGather)) { // waits for at most an eighth of the last step's duration
		start := time.Now()
		if e.compute(f, nil) != nil {
			e.isolate(f)
			continue
		}
		took = time.Since(start)
		e.finish(took, f.times)
	}
}

// gather waits until a sequence has tokens to compute. Then it waits up to atMost for
// the sequences that are expected to call Next again. It returns false when the engine
// is closed.
func (e *Engine) gather(timer *time.Timer, atMost time.Duration) bool {
	var timeout <-chan time.Time // nil until a sequence has tokens to compute
	for {
		e.mu.Lock()
		closed, waiting, expected := e.closed, len(e.queue), e.expected
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
		case waiting > 0 && (expected == 0 || atMost <= 0):
			return true
		case waiting > 0 && timeout == nil:
			timer.Reset(atMost)
			timeout = timer.C
		}
		select {
		case <-e.wake:
		case <-timeout:
			return true
		}
	}
}

// plan chooses the tokens of the next step and allocates pages for them. If only is not
// nil, the step has tokens of this sequence alone.
func (e *Engine) plan(f *forward, only *sequence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.step++
	e.expected = 0
	e.claims = e.claims[:0]
	f.rows = f.rows[:0]
	ready := 0 // number of decoding sequences with a token in this step
	for _, s := range e.queue {
		s.draft = s.draft[:0]
		if len(s.tokens) == 1 {
			ready++
		}
	}
	if ready == len(e.queue) && only == nil { // rows of a prompt would make a draft as expensive as a step
		e.speculation.choose(e.queue)
	}
	budget := e.budget.tokens(e.decoding, ready)
	for _, s := range e.queue {
		if only != nil && s != only {
			continue
		}
		s.reuse()
		if only == nil && e.waits(s) {
			continue
		}
		n := len(s.tokens) - s.computed
		if n > 1 {
			n = min(n, budget)
			budget -= n
		}
		s.inStep = n
		for i, token := range s.tokens[s.computed:][:n] {
			w := s.computed + i - (len(s.tokens) - s.wanted)
			e.addRow(f, s, i, token, w)
		}
		for i, token := range s.draft {
			e.addRow(f, s, n+i, token, s.wanted+i)
		}
	}
}

// addRow adds a row to a step, for the token that is ahead tokens after those in the cache. The
// row's logits are those with index wanted, or none if wanted is negative. The mutex must be held.
func (e *Engine) addRow(f *forward, s *sequence, ahead, token, wanted int) {
	position := s.cache.tokens + ahead
	if position == len(s.cache.pages)*pageTokens {
		s.cache.pages = append(s.cache.pages, e.page(&f.layout))
	}
	r := row{cache: &s.cache, position: position, token: token}
	if wanted >= 0 {
		if wanted == len(s.logits) {
			s.logits = append(s.logits, make([]float32, e.info.Vocab))
		}
		r.logits = s.logits[wanted]
	}
	f.rows = append(f.rows, r)
}

// page returns a page of the KV cache with undefined contents. The mutex must be held.
func (e *Engine) page(l *layout) *kernel.Panels {
	if n := len(e.free); n > 0 {
		p := e.free[n-1]
		e.free = e.free[:n-1]
		return p
	}
	return l.newPage()
}

// finish ends a step. It updates the sequences and wakes the callers whose logits are
// complete. times is the total time of all steps so far.
func (e *Engine) finish(took time.Duration, times Times) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.times = times
	decoded, prompt, drafts := 0, 0, 0
	for _, s := range e.queue {
		drafts += len(s.draft)
		if len(s.tokens) == 1 {
			decoded += s.inStep
		} else {
			prompt += s.inStep
		}
	}
	sequences := decoded
	if prompt > 0 || decoded >= maxDraftedRows {
		sequences = 0
	}
	// The budget counts with steps without draft tokens.
	e.budget.observe(decoded, prompt, e.speculation.observe(sequences, drafts, took, time.Now()))
	e.queue = slices.DeleteFunc(e.queue, func(s *sequence) bool {
		stepped := s.inStep > 0
		s.advance()
		switch {
		case s.abandoned:
			if s.closed {
				e.release(s)
			}
			return true
		case stepped && s.computed == len(s.tokens):
			s.finishedStep, s.guesses = e.step, s.guesses[:0]
			e.expected++
			if s.wanted == 1 && !s.decoding {
				s.decoding = true
				e.decoding++
			}
			s.done <- nil
			return true
		}
		return false
	})
}

// release takes back the pages and the slot of a closed sequence. The mutex must
// be held.
func (e *Engine) release(s *sequence) {
	if s.decoding {
		e.decoding--
	}
	s.takeBack()
	e.free = append(e.free, s.cache.pages[s.sharedPages():]...)
	s.cache.pages = nil
	e.prefixes.close(s.prefix, time.Now())
	<-e.slots
}
