// Package flight shares calls among concurrent callers that want the same result,
// such as an answer of the database.
//
// There are two ways to share. [Group.Do] returns the result of the running call, or
// a recent one. [Group.DoFresh] is for callers that know of a change: it returns the
// result of a call that began after DoFresh was called. A group may have callers of
// both kinds.
//
// Callers may rely on the following, for each key of a group:
//   - At most one call runs at a time, and at most one more waits for its end.
//   - A call belongs to all of its callers. It runs in a goroutine of its own, with
//     the values of one caller's context but not its end. Its own context ends after
//     [Group.Timeout].
//   - A caller's context ends only that caller's wait. The call goes on, even if
//     no caller is left, so that its result can be kept.
//   - If the function panics, its callers get an error with the panic's value and
//     stack. The function must not call runtime.Goexit.
//
// Results are shared, so callers must not change what they point to.
package flight

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// A Group is a set of calls with results of type V, told apart by keys. A Group
// with a Timeout is ready for use and safe for concurrent use. Its fields must
// not change afterwards.
type Group[V any] struct {
	Timeout time.Duration // bounds each call; required

	// Keep is how long after the end of a call Do returns its result or error. If
	// Keep is not zero, the group holds the latest result of every key for ever, so
	// the keys must be few.
	Keep time.Duration
	Now  func() time.Time // the clock of Keep; time.Now if nil

	waiting singleflight.Group // the calls that have not begun

	mu      sync.Mutex
	pending map[string]bool     // the keys that are in waiting
	running map[string]*call[V] // the calls that have begun
	kept    map[string]*call[V] // the latest calls that have ended, if Keep is set
}

// call is one call that has begun.
type call[V any] struct {
	done  chan struct{} // closed when the fields below are set
	value V
	err   error
	ended time.Time
}

// Do returns the result of the running call. If none is running, it returns the
// latest result if that call ended less than Keep ago, and otherwise starts or joins
// a call like DoFresh. It returns ctx's error if ctx ends first.
func (g *Group[V]) Do(ctx context.Context, key string, fn func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	if c := g.running[key]; c != nil {
		g.mu.Unlock()
		select {
		case <-ctx.Done():
			var none V
			return none, ctx.Err()
		case <-c.done:
			return c.value, c.err
		}
	}
	if c := g.kept[key]; c != nil && g.now().Sub(c.ended) < g.Keep {
		g.mu.Unlock()
		return c.value, c.err
	}
	return g.next(ctx, key, fn)
}

// DoFresh returns the result of a call that begins after DoFresh was called. If a
// call waits for the end of the running one, DoFresh joins it. Otherwise it
// starts a call of fn, or makes one wait. It returns ctx's error if ctx ends first.
func (g *Group[V]) DoFresh(ctx context.Context, key string, fn func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	return g.next(ctx, key, fn)
}

// Busy reports whether a call is running or waiting.
func (g *Group[V]) Busy(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pending[key] || g.running[key] != nil
}

// next joins or starts the call that has not begun. The caller holds g.mu, which
// next releases.
func (g *Group[V]) next(ctx context.Context, key string, fn func(context.Context) (V, error)) (V, error) {
	if g.pending == nil {
		g.pending, g.running, g.kept = map[string]bool{}, map[string]*call[V]{}, map[string]*call[V]{}
	}
	g.pending[key] = true
	result := g.waiting.DoChan(key, func() (any, error) { return g.run(ctx, key, fn), nil })
	g.mu.Unlock()
	select {
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	case r := <-result:
		c := r.Val.(*call[V])
		return c.value, c.err
	}
}

// run waits for the running call and then calls fn.
func (g *Group[V]) run(ctx context.Context, key string, fn func(context.Context) (V, error)) (c *call[V]) {
	c = g.begin(key)
	defer g.end(key, c)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.Timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	c.value, c.err = fn(ctx)
	return c
}

// begin makes the waiting call the running one. From then on, the singleflight
// starts another call for new callers.
func (g *Group[V]) begin(key string) *call[V] {
	c := &call[V]{done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if before := g.running[key]; before != nil { // no other call can begin before this one
		g.mu.Unlock()
		<-before.done
		g.mu.Lock()
	}
	g.running[key] = c
	delete(g.pending, key)
	g.waiting.Forget(key)
	return c
}

func (g *Group[V]) end(key string, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.running, key)
	c.ended = g.now()
	if g.Keep > 0 {
		g.kept[key] = c
	}
	close(c.done)
}

func (g *Group[V]) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now()
}
