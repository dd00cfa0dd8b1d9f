package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Limits are the peak rates that some threads reach together, for a roofline model.
type Limits struct {
	FMAGFLOP float64 // float32 operations in fused multiply-adds, 1e9 per second
	Int8GOP  float64 // int8 multiplications and additions of their products, 1e9 per second
}

// Measure runs the given number of threads in parallel, at least one. It returns the
// rates that all threads reach together, and measures each rate for the given duration.
// It uses the best of the instructions that the kernels use on this machine. The speed
// of shared machines varies from minute to minute. So measure the limits and the
// kernels at about the same time. [Matrix.Read] measures memory bandwidth.
func Measure(threads int, duration time.Duration) Limits {
	threads = max(threads, 1)
	l := newLoops()
	return Limits{FMAGFLOP: rate(threads, duration, l.fma), Int8GOP: rate(threads, duration, l.int8)}
}

// Read reads the weights of the panels from lo to hi-1 in the order of Multiply,
// without computing anything. It returns the number of bytes of these weights.
func (m *Matrix) Read(lo, hi int) int {
	defer runtime.KeepAlive(m)
	var weights []byte
	switch {
	case m.single != nil:
		weights = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(m.single))), 4*len(m.single))
	case m.half != nil:
		weights = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(m.half))), 2*len(m.half))
	default:
		weights = m.bytes
	}
	panel := len(weights) / m.Panels()
	weights = weights[lo*panel : hi*panel]
	readAll(weights)
	return len(weights)
}

// loops has one function for each kind of operation that Measure counts. A call takes
// less than a millisecond.
type loops struct {
	fma, int8 func() int // each returns the number of operations of the call
}

// rate runs threads that call f repeatedly for the given duration. It returns the sum
// of all results of f per second, in units of 1e9.
func rate(threads int, duration time.Duration, f func() int) float64 {
	var all sync.WaitGroup
	var ready, done atomic.Int64
	start := sync.OnceValue(time.Now)
	for range threads {
		all.Go(func() {
			// Wait until all threads run, each on its own processor if there are
			// enough.
			ready.Add(1)
			for spin := 1; ready.Load() < int64(threads); spin++ {
				if spin%100_000 == 0 {
					runtime.Gosched() // lets other threads run if there are fewer processors than threads
				}
			}
			n := 0
			for begin := start(); time.Since(begin) < duration; {
				n += f()
			}
			done.Add(int64(n))
		})
	}
	all.Wait()
	return float64(done.Load()) / float64(time.Since(start()).Nanoseconds())
}

// portableLoops returns loops with the scalar operations of the portable kernels.
func portableLoops() loops {
	const rounds = 1 << 14
	return loops{
		fma: func() int {
			_ = multiplyPortably(rounds, 0.5)
			return 16 * rounds
		},
		int8: func() int {
			_ = multiplyInt8Portably(rounds, 3)
			return 16 * rounds
		},
	}
}

// readPortably reads one byte of every cache line, four lines at a time.
//
//go:noinline
func readPortably(p []byte) (sum byte) {
	const line = 64
	for ; len(p) >= 4*line; p = p[4*line:] {
		sum += p[0] + p[line] + p[2*line] + p[3*line]
	}
	return sum
}

// multiplyPortably does 16 float32 operations a round.
//
//go:noinline
func multiplyPortably(rounds int, x float32) float32 {
	var a, b, c, d, e, f, g, h float32
	for range rounds {
		a = float32(a*x) + x
		b = float32(b*x) + x
		c = float32(c*x) + x
		d = float32(d*x) + x
		e = float32(e*x) + x
		f = float32(f*x) + x
		g = float32(g*x) + x
		h = float32(h*x) + x
	}
	return a + b + c + d + e + f + g + h
}

// multiplyInt8Portably does 16 int8 operations a round.
//
//go:noinline
func multiplyInt8Portably(rounds int, x int8) int32 {
	var a, b, c, d, e, f, g, h int32
	for i := range rounds {
		y := int32(int8(i))
		a += int32(x) * y
		b += int32(x+1) * y
		c += int32(x+2) * y
		d += int32(x+3) * y
		e += int32(x+4) * y
		f += int32(x+5) * y
		g += int32(x+6) * y
		h += int32(x+7) * y
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
}
