// Package flight shares calls among concurrent callers that want the same result,
// such as the result of a database query.
//
// There are two ways to share a call. [Group.Do] returns the result of the running call
// or of a recent call. [Group.DoFresh] is for callers that know of a change. It returns
// the result of a call that begins after DoFresh was called. A group may have callers of
// both kinds.
//
// Callers may rely on the following, for each key of a group:
//   - At most one call runs at a time. At most one more call waits for the end of the
//     running call. If [Group.Overtake] is set, the waiting call begins after that time
//     even if the running call has not ended.
//   - A call is shared by all of its callers. It runs in a goroutine of its own. The
//     call's context has the values of one caller's context but does not end with it.
//     The call's context ends after [Group.Timeout].
//   - The end of a caller's context ends only that caller's wait. The call continues,
//     even if no caller is left, so that its result can be kept.
//   - If the function panics, the callers get an error with the panic's value and
//     stack. The function must not call runtime.Goexit.
//
// Results are shared. Callers must not change the data that a result points to.
package flight

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// A Group is a set of calls with results of type V. A key identifies each call. A Group
// with a Timeout is ready for use and safe for concurrent use. The fields of a Group must
// not change after its first use.
type Group[V any] struct {
	Timeout time.Duration // bounds each call; required

	// Overtake is the longest time for which a call waits for the end of the running call;
	// 0 means no limit. So a call that hangs does not hold up the callers of DoFresh.
	Overtake time.Duration

	// Keep is the time after the end of a call during which Do returns the call's result
	// or error. If Keep is not zero, the group holds the latest result of every key for
	// ever. So the number of keys must be small.
	Keep time.Duration
	Now  func() time.Time // the clock for Keep; nil means time.Now

	waiting singleflight.Group // the calls that have not begun

	mu      sync.Mutex
	pending map[string]bool     // the keys of the calls in waiting
	running map[string]*call[V] // the calls that have begun
	kept    map[string]*call[V] // the latest calls that have ended, if Keep is set
}

// call is a call of a function that has begun.
type call[V any] struct {
	done  chan struct{} // closed when the fields below are set
	value V
	err   error
	ended time.Time
}

// Do returns the result of the running call. If no call is running, Do returns the result
// of the latest call, provided that this call ended less than Keep ago. Otherwise Do starts
// or joins a call like DoFresh. If ctx ends first, Do returns ctx's error.
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

// DoFresh returns the result of a call of fn that begins after DoFresh was called. If a call
// for key already waits for the running call to end, DoFresh joins it. Otherwise it starts a
// new call, which waits for the running call, if any. If ctx ends first, DoFresh returns
// ctx's error.
func (g *Group[V]) DoFresh(ctx context.Context, key string, fn func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	return g.next(ctx, key, fn)
}

// Busy reports whether a call with the key is running or waiting.
func (g *Group[V]) Busy(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pending[key] || g.running[key] != nil
}

// next joins the call that has not begun. If there is no such call, next starts one. The
// caller must hold g.mu. The lock is released by next.
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

// begin makes the waiting call the running call. After that, g.waiting starts another call
// for new callers.
func (g *Group[V]) begin(key string) *call[V] {
	c := &call[V]{done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if before := g.running[key]; before != nil { // wait until before ends; a third call cannot begin meanwhile, because g.waiting holds back all others
		g.mu.Unlock()
		var overtake <-chan time.Time
		if g.Overtake > 0 {
			overtake = time.After(g.Overtake)
		}
		select {
		case <-before.done:
		case <-overtake:
		}
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
	c.ended = g.now()
	if g.running[key] == c { // c is still the latest call, because no call has begun before its end
		delete(g.running, key)
		if g.Keep > 0 {
			g.kept[key] = c
		}
	}
	close(c.done)
}

func (g *Group[V]) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now()
}
