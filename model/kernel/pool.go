package kernel

import (
	"runtime"
	"sync/atomic"
)

// A Pool runs loops on several threads. One goroutine at a time may use it.
//
// A loop takes less time than waking a thread, so an idle helper spins for some
// microseconds before it parks. Run waits only for helpers that have taken a
// range: a helper that the system has not scheduled delays nothing.
type Pool struct {
	spins   int // polls before a thread parks
	helpers []helper

	// state has the number of the current loop in its upper 32 bits, and the number
	// of ranges that are left in its lower 32 bits. A thread takes a range by
	// decrementing state. The fields of the loop then do not change until that range
	// is done.
	_       cacheLine
	state   atomic.Uint64
	_       cacheLine
	pending atomic.Int64 // ranges that are not done
	_       cacheLine

	ranges, n, chunk int // the current loop
	body             func(worker, lo, hi int)

	parked atomic.Bool   // Run waits for done
	done   chan struct{} // holds one value when pending may be 0
}

type helper struct {
	parked atomic.Bool
	wake   chan struct{} // holds one value when there is a loop; closed by Close
	_      cacheLine
}

// A cacheLine is padding: it keeps fields that different threads write on
// different cache lines.
type cacheLine [64]byte

// spinRounds is how often an idle thread polls before it parks. A poll takes 10
// to 100 nanoseconds.
const spinRounds = 2000

// NewPool returns a pool of at least one thread: the one that calls Run, and
// helpers for the others. Close ends the helpers.
func NewPool(threads int) *Pool {
	p := &Pool{helpers: make([]helper, max(threads, 1)-1), done: make(chan struct{}, 1)}
	if threads <= runtime.GOMAXPROCS(0) { // otherwise a spinning thread keeps another from running
		p.spins = spinRounds
	}
	for i := range p.helpers {
		p.helpers[i].wake = make(chan struct{}, 1)
		go p.help(i)
	}
	return p
}

// Threads returns the number of threads. Worker numbers are below it.
func (p *Pool) Threads() int { return len(p.helpers) + 1 }

// Run splits 0 to n-1 into ranges of chunk elements, the last one shorter,
// calls body for each, and returns when all calls have returned. Calls with
// different worker numbers run in parallel; which worker gets which range is
// not defined. Run does not allocate.
func (p *Pool) Run(n, chunk int, body func(worker, lo, hi int)) {
	if len(p.helpers) == 0 || n <= chunk {
		if n > 0 {
			body(0, 0, n)
		}
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
		p.body(worker, lo, min(lo+p.chunk, p.n))
		if p.pending.Add(-1) == 0 && p.parked.CompareAndSwap(true, false) {
			p.done <- struct{}{}
		}
	}
}

// help works on every loop until Close: it spins, then parks, between loops.
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
