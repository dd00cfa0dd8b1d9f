package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestRunCoversEveryIndexOnce(t *testing.T) {
	for _, threads := range []int{-1, 0, 1, 2, 3, 8} {
		p := NewPool(threads)
		if p.Threads() != max(threads, 1) {
			t.Errorf("NewPool(%d) has %d threads", threads, p.Threads())
		}
		inUse := make([]atomic.Bool, p.Threads())
		for n := range 40 {
			for chunk := 1; chunk < 12; chunk++ {
				seen := make([]int, n)
				p.Run(n, chunk, func(worker, lo, hi int) {
					if inUse[worker].Swap(true) {
						t.Errorf("worker %d runs two ranges at once", worker)
					}
					for i := lo; i < hi; i++ {
						seen[i]++ // the race detector reports it if two workers get the same index
					}
					inUse[worker].Store(false)
				})
				for i, times := range seen {
					if times != 1 {
						t.Fatalf("%d threads, %d elements in chunks of %d: index %d came %d times", threads, n, chunk, i, times)
					}
				}
			}
		}
		p.Close()
	}
}

func TestRunWaitsForHelpers(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	for range 100 {
		var once sync.Once
		started := make(chan struct{})
		var begun, ended atomic.Int64
		p.Run(2, 1, func(worker, lo, hi int) {
			if worker == 0 {
				<-started // keeps worker 0 busy, so that a helper takes the other range
				return
			}
			begun.Add(1)
			once.Do(func() { close(started) })
			for range 50 {
				runtime.Gosched()
			}
			ended.Add(1)
		})
		if ended.Load() != begun.Load() {
			t.Fatal("Run returned before a helper was done")
		}
	}
}

func TestParkedHelpersWakeForTheNextLoop(t *testing.T) {
	for _, threads := range []int{2, 5} {
		p := NewPool(threads)
		for range 20 {
			for i := range p.helpers {
				for !p.helpers[i].parked.Load() {
					runtime.Gosched()
				}
			}
			var all sync.WaitGroup
			all.Add(threads)
			p.Run(threads, 1, func(worker, lo, hi int) {
				all.Done()
				all.Wait() // waits until every thread has a range
			})
		}
		p.Close()
	}
}

func TestRunDoesNotAllocate(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	var sum atomic.Int64
	body := func(worker, lo, hi int) { sum.Add(int64(hi - lo)) }
	if n := testing.AllocsPerRun(100, func() { p.Run(100, 3, body) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// A panic of any range must reach the caller of Run, after the other ranges are done. The
// pool must work afterwards.
func TestPanicReachesTheCallerOfRun(t *testing.T) {
	for _, threads := range []int{1, 2, 8} {
		p := NewPool(threads)
		for bad := range 20 {
			var done atomic.Int64
			func() {
				defer func() {
					failed, ok := recover().(*Panic)
					if !ok || failed.Value != "poison" || len(failed.Stack) == 0 {
						t.Errorf("%d threads: recovered %v", threads, failed)
					}
				}()
				p.Run(20, 1, func(_, lo, hi int) {
					if lo <= bad && bad < hi {
						panic("poison")
					}
					done.Add(1)
				})
			}()
			if n := done.Load(); threads > 1 && n != 19 {
				t.Errorf("%d threads: %d ranges are done, want 19", threads, n)
			}
			done.Store(0)
			p.Run(20, 1, func(_, lo, hi int) { done.Add(int64(hi - lo)) })
			if n := done.Load(); n != 20 {
				t.Errorf("%d threads: %d of 20 indexes after a panic", threads, n)
			}
		}
		p.Close()
	}
}
