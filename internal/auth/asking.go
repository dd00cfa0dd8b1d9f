package auth

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errAskedInVain is what comes of an inquiry that did not return.
var errAskedInVain = errors.New("the database could not be asked")

// asking is a question that one asks at a time, and whose answer the others may
// have as well.
type asking struct {
	now func() time.Time

	mu     sync.Mutex
	asked  *inquiry  // the one under way; nil if there is none
	ended  time.Time // when the latest one did: one that gets no answer takes long
	failed error     // what came of it
}

// inquiry is asking once.
type inquiry struct {
	done chan struct{} // closed when the answer is there
	err  error
}

// wait returns what comes of an inquiry, or ctx's error.
func (q *inquiry) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-q.done:
		return q.err
	}
}

// share returns what comes of the inquiry that is under way, or of the latest
// one if it ended no longer than apart ago; if there is none, it asks.
func (a *asking) share(ctx context.Context, apart time.Duration, ask func() error) error {
	a.mu.Lock()
	if q := a.asked; q != nil {
		a.mu.Unlock()
		return q.wait(ctx)
	}
	if a.now().Sub(a.ended) < apart {
		defer a.mu.Unlock()
		return a.failed
	}
	return a.run(ask)
}

// anew asks, after the inquiry that is under way: it may have begun before what
// the caller has been told of.
func (a *asking) anew(ctx context.Context, ask func() error) error {
	for {
		a.mu.Lock()
		q := a.asked
		if q == nil {
			return a.run(ask)
		}
		a.mu.Unlock()
		if _ = q.wait(ctx); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// busy reports whether an inquiry is under way.
func (a *asking) busy() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked != nil
}

// run asks for whoever holds a.mu, which it gives back.
func (a *asking) run(ask func() error) error {
	q := &inquiry{done: make(chan struct{})}
	a.asked = q
	a.mu.Unlock()
	q.err = errAskedInVain // if ask panics
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked, a.ended, a.failed = nil, a.now(), q.err
		close(q.done)
	}()
	q.err = ask()
	return q.err
}
