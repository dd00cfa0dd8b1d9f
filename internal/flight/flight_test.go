package flight

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const timeout = time.Minute

// TestFreshCallBeginsAfterItsCallers calls DoFresh several times while another call runs.
// All these callers must share the next call.
func TestFreshCallBeginsAfterItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := Group[int]{Timeout: timeout}
		begun, answer := 0, make(chan struct{})
		fn := func(context.Context) (int, error) {
			begun++ // needs no lock, because calls with the same key never overlap here
			n := begun
			<-answer
			return n, nil
		}
		var callers sync.WaitGroup
		callers.Go(func() {
			if n, err := g.DoFresh(t.Context(), "a", fn); n != 1 || err != nil {
				t.Errorf("the first caller got call %d, %v", n, err)
			}
		})
		synctest.Wait() // the first call is running now
		for range 10 {
			callers.Go(func() {
				if n, err := g.DoFresh(t.Context(), "a", fn); n != 2 || err != nil {
					t.Errorf("a late caller got call %d, %v", n, err)
				}
			})
		}
		synctest.Wait()
		// A call with another key must not wait for the calls above.
		if n, err := g.DoFresh(t.Context(), "b", func(context.Context) (int, error) { return 7, nil }); n != 7 || err != nil {
			t.Errorf("another key got %d, %v", n, err)
		}
		close(answer)
		callers.Wait()
		synctest.Wait()
		if begun != 2 || len(g.running)+len(g.pending)+len(g.kept) != 0 {
			t.Errorf("%d calls were made; left are %v, %v, %v", begun, g.running, g.pending, g.kept)
		}
	})
}

func TestErrorReachesAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := Group[int]{Timeout: timeout}
		broken, answer := errors.New("broken"), make(chan struct{})
		var callers sync.WaitGroup
		for _, do := range []func(context.Context, string, func(context.Context) (int, error)) (int, error){g.DoFresh, g.Do, g.Do} {
			callers.Go(func() {
				if _, err := do(t.Context(), "a", func(context.Context) (int, error) { <-answer; return 0, broken }); err != broken {
					t.Errorf("%v, want %v", err, broken)
				}
			})
		}
		synctest.Wait()
		close(answer)
		callers.Wait()
	})
}

func TestKeepBoundsHowLongAResultIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keep = time.Second
		g := Group[int32]{Timeout: timeout, Keep: keep}
		failing := errors.New("no answer")
		var calls atomic.Int32
		slowly := func(context.Context) (int32, error) {
			n := calls.Add(1)
			time.Sleep(2 * time.Second)
			if n%2 == 1 {
				return n, failing
			}
			return n, nil
		}
		const anyCount = 0 // the number is not checked, because another call may begin just when one ends
		begin := time.Now()
		expect := func(what string, err, want error, n int32, at time.Duration) {
			t.Helper()
			if !errors.Is(err, want) || n != anyCount && calls.Load() != n || time.Since(begin) != at {
				t.Errorf("%s: %v after %v and %d calls, want %v after %v and %d", what, err, time.Since(begin), calls.Load(), want, at, n)
			}
		}
		do := func(ctx context.Context) error { _, err := g.Do(ctx, "", slowly); return err }
		doFresh := func(ctx context.Context) error { _, err := g.DoFresh(ctx, "", slowly); return err }
		var callers sync.WaitGroup
		for range 25 {
			callers.Go(func() { expect("at once", do(t.Context()), failing, 1, 2*time.Second) })
		}
		synctest.Wait()
		leaving, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		expect("a caller that leaves", do(leaving), context.DeadlineExceeded, 1, time.Second)
		callers.Wait()
		expect("just afterwards", do(t.Context()), failing, 1, 2*time.Second)
		time.Sleep(keep)
		// Keep counts from the end of a call. So the callers that have waited for a call
		// must not start another one, even if the call took longer than Keep.
		callers.Go(func() { expect("a second later", do(t.Context()), nil, anyCount, 5*time.Second) })
		synctest.Wait()
		if !g.Busy("") || g.Busy("other") {
			t.Error("Busy does not report the call")
		}
		callers.Go(func() { expect("meanwhile", do(t.Context()), nil, anyCount, 5*time.Second) })
		leaving, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		expect("a fresh caller that leaves", doFresh(leaving), context.DeadlineExceeded, 2, 4*time.Second)
		// DoFresh must not return the result of a call that began before.
		expect("fresh", doFresh(t.Context()), failing, 3, 7*time.Second)
		callers.Wait()
		if g.Busy("") {
			t.Error("Busy after the last call")
		}
	})
}

func TestPanicIsAnErrorForAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := Group[int]{Timeout: timeout}
		answer := make(chan struct{})
		fn := func(context.Context) (int, error) { <-answer; panic("a mistake") }
		var callers sync.WaitGroup
		for _, do := range []func(context.Context, string, func(context.Context) (int, error)) (int, error){g.Do, g.Do, g.DoFresh} {
			callers.Go(func() {
				if _, err := do(t.Context(), "a", fn); err == nil || !strings.Contains(err.Error(), "a mistake") || !strings.Contains(err.Error(), "flight_test.go") {
					t.Errorf("%v, want the panic and its stack", err)
				}
			})
			synctest.Wait()
		}
		close(answer)
		callers.Wait()
		if n, err := g.Do(t.Context(), "a", func(context.Context) (int, error) { return 1, nil }); n != 1 || err != nil {
			t.Errorf("after a panic: %d, %v", n, err)
		}
	})
}

func TestCallOutlivesItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		g := Group[any]{Timeout: timeout, Keep: time.Hour}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), time.Second)
		defer cancel()
		if _, err := g.Do(ctx, "a", func(ctx context.Context) (any, error) {
			<-ctx.Done()
			return ctx.Value(key{}), nil
		}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("the caller: %v after %v", err, time.Since(begin))
		}
		v, err := g.Do(t.Context(), "a", nil)
		if v != "value" || err != nil || time.Since(begin) != timeout {
			t.Errorf("the next caller: %v, %v after %v", v, err, time.Since(begin))
		}
		time.Sleep(30 * time.Minute)
		if v, err := g.Do(t.Context(), "a", nil); v != "value" || err != nil {
			t.Errorf("the kept result: %v, %v", v, err)
		}
	})
}

func TestKeepUsesTheGroupsClock(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	g := Group[int]{Timeout: timeout, Keep: time.Second, Now: func() time.Time { return now }}
	calls := 0
	do := func() int {
		n, err := g.Do(t.Context(), "a", func(context.Context) (int, error) { calls++; return calls, nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := do(); n != 1 {
		t.Errorf("call %d", n)
	}
	now = now.Add(time.Second - 1)
	if n := do(); n != 1 {
		t.Errorf("within a second: call %d", n)
	}
	now = now.Add(1)
	if n := do(); n != 2 {
		t.Errorf("a second later: call %d", n)
	}
}

// TestConcurrentCallersGetFreshResults calls Do and DoFresh from several goroutines.
// Calls with the same key must not overlap. A result of DoFresh must come from a call
// that began after DoFresh was called.
func TestConcurrentCallersGetFreshResults(t *testing.T) {
	g := Group[int64]{Timeout: timeout}
	var clock, running atomic.Int64
	fn := func(context.Context) (int64, error) {
		if running.Add(1) != 1 {
			t.Error("two calls at a time")
		}
		defer running.Add(-1)
		return clock.Add(1), nil
	}
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for range 500 {
				if i == 0 {
					if _, err := g.Do(t.Context(), "a", fn); err != nil {
						t.Error(err)
					}
					continue
				}
				before := clock.Add(1)
				began, err := g.DoFresh(t.Context(), "a", fn)
				if err != nil || began < before {
					t.Errorf("a caller at time %d got a call of time %d, %v", before, began, err)
				}
			}
		})
	}
	callers.Wait()
}

// TestHangingCallIsOvertaken runs a call that hangs. Later callers must get the result of
// a second call. The late end of the first call must not change what they get.
func TestHangingCallIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := Group[int]{Timeout: timeout, Overtake: time.Second, Keep: time.Hour}
		var first sync.WaitGroup
		first.Go(func() {
			_, err := g.DoFresh(t.Context(), "a", func(ctx context.Context) (int, error) { <-ctx.Done(); return 1, ctx.Err() })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the first call: %v", err)
			}
		})
		synctest.Wait()
		begin := time.Now()
		if n, err := g.DoFresh(t.Context(), "a", func(context.Context) (int, error) { return 2, nil }); n != 2 || err != nil || time.Since(begin) != time.Second {
			t.Errorf("the next caller got %d, %v after %v", n, err, time.Since(begin))
		}
		first.Wait()
		if n, err := g.Do(t.Context(), "a", nil); n != 2 || err != nil {
			t.Errorf("kept: %d, %v", n, err)
		}
		synctest.Wait()
		if len(g.running)+len(g.pending) != 0 {
			t.Errorf("left are %v, %v", g.running, g.pending)
		}
	})
}
