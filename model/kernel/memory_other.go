//go:build !linux

package kernel

// allocate returns n zeros, which owner is about to refer to.
func allocate[T any](owner *T, n int) []byte { return make([]byte, n) }
