package kernel

import (
	"runtime"
	"syscall"
)

// allocate returns n zero bytes that live as long as owner. The owner must keep the
// slice. Large blocks come from mmap, so the garbage collector does not count them.
// Weights, keys and values are most of a program's memory. If the collector counted
// them, it would let the garbage grow to the same size. Huge pages make address
// translation cheaper.
func allocate[T any](owner *T, n int) []byte {
	const worthwhile = 1 << 16
	if n < worthwhile {
		return make([]byte, n)
	}
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return make([]byte, n)
	}
	_ = syscall.Madvise(b, syscall.MADV_HUGEPAGE) // no error matters, because this call is only a hint
	runtime.AddCleanup(owner, func(b []byte) { _ = syscall.Munmap(b) }, b)
	return b
}
