package kernel

import (
	"sync"
	"sync/atomic"
)

// A Pool runs loops on several threads. One goroutine at a time may use it.
type Pool struct {
	wake []chan struct{} // one for each helper
	busy sync.WaitGroup

	// The loop that runs now; the sends on wake publish it.
	n, chunk int
	body     func(worker, lo, hi int)
	next     atomic.Int64
}

// NewPool returns a pool of some threads, at least 1: the one that calls Run
// and as many helpers as are missing, which live until Close.
func NewPool(threads int) *Pool {
	p := &Pool{wake: make([]chan struct{}, max(threads, 1)-1)}
	for i := range p.wake {
		p.wake[i] = make(chan struct{})
		go func() {
			for range p.wake[i] {
				p.work(i + 1)
				p.busy.Done()
			}
		}()
	}
	return p
}

// Threads returns the number of threads, which bounds the worker numbers.
func (p *Pool) Threads() int { return len(p.wake) + 1 }

// Run calls body with ranges that cover 0 to n-1, chunk long but for the last,
// and returns when all are done. Calls with different worker numbers run at
// the same time. Which worker gets a range is not fixed.
func (p *Pool) Run(n, chunk int, body func(worker, lo, hi int)) {
	helpers := min(len(p.wake), (n-1)/chunk)
	if helpers <= 0 {
		if n > 0 {
			body(0, 0, n)
		}
		return
	}
	p.n, p.chunk, p.body = n, chunk, body
	p.next.Store(0)
	p.busy.Add(helpers)
	for _, w := range p.wake[:helpers] {
		w <- struct{}{}
	}
	p.work(0)
	p.busy.Wait()
}

func (p *Pool) work(worker int) {
	for {
		hi := int(p.next.Add(int64(p.chunk)))
		lo := hi - p.chunk
		if lo >= p.n {
			return
		}
		p.body(worker, lo, min(hi, p.n))
	}
}

// Close ends the helpers. The pool may not be used afterwards.
func (p *Pool) Close() {
	for _, w := range p.wake {
		close(w)
	}
}
