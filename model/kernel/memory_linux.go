package kernel

import (
	"runtime"
	"syscall"
)

// allocate returns n zeros, which owner is about to refer to. Weights, and
// keys and values, stay for long and are most of a program's memory, so they are
// kept away from the garbage collector, which would otherwise let as much garbage
// pile up; and in large pages where there are some, which the processor finds faster.
func allocate[T any](owner *T, n int) []byte {
	const worthwhile = 1 << 16
	if n < worthwhile {
		return make([]byte, n)
	}
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return make([]byte, n)
	}
	_ = syscall.Madvise(b, syscall.MADV_HUGEPAGE) // a wish
	runtime.AddCleanup(owner, func(b []byte) { _ = syscall.Munmap(b) }, b)
	return b
}
