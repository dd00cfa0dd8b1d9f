package kernel

import (
	"runtime"
	"syscall"
)

// allocate returns n zeros, which owner is about to refer to. Weights are for
// the life of a program and a large part of its memory, so they are kept away
// from the garbage collector, which would otherwise let as much garbage pile up;
// and in large pages where there are some, which the processor finds faster.
func allocate(owner *Matrix, n int) []byte {
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
