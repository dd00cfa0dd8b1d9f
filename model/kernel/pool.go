package kernel

import (
	"runtime"
	"sync/atomic"
)

// A Pool runs loops on several threads. One goroutine at a time may use it.
//
// A loop is over before its threads could be woken up and put to sleep again,
// so a helper that has nothing to do looks out for the next loop for some
// microseconds before it sleeps. Run waits for those alone that have begun a
// range, so a helper that the system does not run at the moment holds up
// nothing.
type Pool struct {
	spins   int // how long to look out
	helpers []helper

	// Which loop runs, in the upper half, and how many of its ranges nobody
	// has taken. A range is taken by counting it down, after which the fields
	// below stay as they are until the range is done.
	_    cacheLine
	open atomic.Uint64
	_    cacheLine
	left atomic.Int64 // ranges that are not done
	_    cacheLine

	ranges, n, chunk int
	body             func(worker, lo, hi int)

	asleep atomic.Bool   // Run waits for done
	done   chan struct{} // holds one when left may be 0
}

type helper struct {
	asleep atomic.Bool
	wake   chan struct{} // holds one when there is a loop, or is closed
	_      cacheLine
}

// A cacheLine keeps what different threads write to apart.
type cacheLine [64]byte

// lookOut is how often to look before going to sleep. A look takes from a
// hundredth to a tenth of a microsecond.
const lookOut = 2000

// NewPool returns a pool of some threads, at least 1: the one that calls Run
// and as many helpers as are missing, which live until Close.
func NewPool(threads int) *Pool {
	p := &Pool{helpers: make([]helper, max(threads, 1)-1), done: make(chan struct{}, 1)}
	if threads <= runtime.GOMAXPROCS(0) { // or else looking out keeps others from running
		p.spins = lookOut
	}
	for i := range p.helpers {
		p.helpers[i].wake = make(chan struct{}, 1)
		go p.help(i)
	}
	return p
}

// Threads returns the number of threads, which bounds the worker numbers.
func (p *Pool) Threads() int { return len(p.helpers) + 1 }

// Run calls body with ranges that cover 0 to n-1, chunk long but for the last,
// and returns when all are done. Calls with different worker numbers run at
// the same time. Which worker gets a range is not fixed.
func (p *Pool) Run(n, chunk int, body func(worker, lo, hi int)) {
	if len(p.helpers) == 0 || n <= chunk {
		if n > 0 {
			body(0, 0, n)
		}
		return
	}
	p.ranges = (n + chunk - 1) / chunk
	p.n, p.chunk, p.body = n, chunk, body
	p.left.Store(int64(p.ranges))
	loop := p.open.Load()>>32 + 1
	p.open.Store(loop<<32 | uint64(p.ranges))
	for i := range min(len(p.helpers), p.ranges-1) {
		if h := &p.helpers[i]; h.asleep.CompareAndSwap(true, false) {
			h.wake <- struct{}{}
		}
	}
	p.work(0)
	for spins := 0; p.left.Load() > 0; spins++ {
		if spins < p.spins {
			pause()
			continue
		}
		p.asleep.Store(true)
		if p.left.Load() == 0 && p.asleep.CompareAndSwap(true, false) {
			break
		}
		<-p.done
	}
}

// work takes ranges of the loop that runs until none is left.
func (p *Pool) work(worker int) {
	for {
		open := p.open.Load()
		if uint32(open) == 0 {
			return
		}
		if !p.open.CompareAndSwap(open, open-1) {
			continue
		}
		lo := (p.ranges - int(uint32(open))) * p.chunk
		p.body(worker, lo, min(lo+p.chunk, p.n))
		if p.left.Add(-1) == 0 && p.asleep.CompareAndSwap(true, false) {
			p.done <- struct{}{}
		}
	}
}

// help is what a helper does.
func (p *Pool) help(i int) {
	h := &p.helpers[i]
	for {
		p.work(i + 1)
		for spins := 0; uint32(p.open.Load()) == 0; spins++ {
			if spins < p.spins {
				pause()
				continue
			}
			h.asleep.Store(true)
			if uint32(p.open.Load()) != 0 && h.asleep.CompareAndSwap(true, false) {
				break
			}
			if _, ok := <-h.wake; !ok {
				return
			}
			spins = 0
		}
	}
}

// Close ends the helpers. The pool may not be used afterwards.
func (p *Pool) Close() {
	for i := range p.helpers {
		close(p.helpers[i].wake)
	}
}
