package kernel

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
)

// A Pool runs loops on several threads. Only one goroutine at a time may use it.
//
// Most loops take less time than it takes to wake a thread. So an idle helper polls for
// some microseconds before it parks. Run waits only for helpers that have taken a
// range. So a helper that the system has not scheduled does not delay Run.
type Pool struct {
	spins   int // number of polls before a thread parks
	helpers []helper

	// state has two parts. The upper 32 bits are the number of the current loop. The
	// lower 32 bits are the number of ranges that no thread has taken yet. A thread
	// takes a range by decrementing state. After that, the fields of the loop do not
	// change until the range is done.
	_       cacheLine
	state   atomic.Uint64
	_       cacheLine
	pending atomic.Int64 // number of ranges that are not done
	_       cacheLine

	ranges, n, chunk int // parameters of the current loop
	body             func(worker, lo, hi int)

	parked atomic.Bool   // true while Run waits for a value on done
	done   chan struct{} // holds one value when pending may have become 0

	panicked atomic.Pointer[Panic] // the first panic of the current loop
}

// A Panic is the value with which Run panics if body has panicked.
type Panic struct {
	Value any    // the value of body's panic
	Stack []byte // the stack of the thread that panicked
}

type helper struct {
	parked atomic.Bool
	wake   chan struct{} // holds one value when a loop has begun; closed by Close
	_      cacheLine
}

// A cacheLine is padding between fields that different threads write. It puts them on
// separate cache lines and so prevents false sharing.
type cacheLine [64]byte

// spinRounds is the number of polls of an idle thread before it parks. A poll takes 10
// to 100 nanoseconds.
const spinRounds = 2000

// NewPool returns a pool with the given number of threads, at least one. The goroutine
// that calls Run is one of the threads. The others are helpers, which Close ends.
func NewPool(threads int) *Pool {
	p := &Pool{helpers: make([]helper, max(threads, 1)-1), done: make(chan struct{}, 1)}
	if threads <= runtime.GOMAXPROCS(0) { // otherwise a spinning thread keeps another thread from running
		p.spins = spinRounds
	}
	for i := range p.helpers {
		p.helpers[i].wake = make(chan struct{}, 1)
		go p.help(i)
	}
	return p
}

// Threads returns the number of threads. The worker numbers that Run passes to body are
// from 0 to Threads()-1.
func (p *Pool) Threads() int { return len(p.helpers) + 1 }

// Run splits the indexes from 0 to n-1 into ranges of chunk indexes. The last range may
// be shorter. Run calls body for each range, and returns when all calls have returned.
// Calls with different worker numbers run in parallel. Any worker may get any range.
// Run does not allocate.
//
// If body panics, Run still waits for the other ranges. Then it panics with a *Panic in the
// goroutine of its caller. The pool may be used again.
func (p *Pool) Run(n, chunk int, body func(worker, lo, hi int)) {
	if len(p.helpers) == 0 || n <= chunk {
		if n > 0 {
			p.body = body
			p.call(0, 0, n)
		}
		p.rethrow()
		return
	}
	p.ranges = (n + chunk - 1) / chunk
	p.n, p.chunk, p.body = n, chunk, body
	p.pending.Store(int64(p.ranges))
	loop := p.state.Load()>>32 + 1
	p.state.Store(loop<<32 | uint64(p.ranges))
	for i := range min(len(p.helpers), p.ranges-1) {
		if h := &p.helpers[i]; h.parked.CompareAndSwap(true, false) {
			h.wake <- struct{}{}
		}
	}
	p.work(0)
	for spins := 0; p.pending.Load() > 0; spins++ {
		if spins < p.spins {
			pause()
			continue
		}
		p.parked.Store(true)
		if p.pending.Load() == 0 && p.parked.CompareAndSwap(true, false) {
			break
		}
		<-p.done
	}
	p.rethrow()
}

// call calls the body for a range, and keeps its panic for rethrow.
func (p *Pool) call(worker, lo, hi int) {
	defer func() {
		if v := recover(); v != nil {
			p.panicked.CompareAndSwap(nil, &Panic{v, debug.Stack()})
		}
	}()
	p.body(worker, lo, hi)
}

// rethrow panics if a call has panicked. All calls must have returned.
func (p *Pool) rethrow() {
	if failed := p.panicked.Load(); failed != nil {
		p.panicked.Store(nil)
		panic(failed)
	}
}

// work takes ranges of the current loop until none is left.
func (p *Pool) work(worker int) {
	for {
		state := p.state.Load()
		if uint32(state) == 0 {
			return
		}
		if !p.state.CompareAndSwap(state, state-1) {
			continue
		}
		lo := (p.ranges - int(uint32(state))) * p.chunk
		p.call(worker, lo, min(lo+p.chunk, p.n))
		if p.pending.Add(-1) == 0 && p.parked.CompareAndSwap(true, false) {
			p.done <- struct{}{}
		}
	}
}

// help runs a helper, which works on every loop until Close. Between loops, the helper
// polls first and then parks.
func (p *Pool) help(i int) {
	h := &p.helpers[i]
	for {
		p.work(i + 1)
		for spins := 0; uint32(p.state.Load()) == 0; spins++ {
			if spins < p.spins {
				pause()
				continue
			}
			h.parked.Store(true)
			if uint32(p.state.Load()) != 0 && h.parked.CompareAndSwap(true, false) {
				break
			}
			if _, ok := <-h.wake; !ok {
				return
			}
			spins = 0
		}
	}
}

// Close ends the helpers. The pool must not be used afterwards.
func (p *Pool) Close() {
	for i := range p.helpers {
		close(p.helpers[i].wake)
	}
}
