//go:build !linux

package kernel

// allocate returns n zero bytes that live as long as owner. The owner must keep the
// slice.
func allocate[T any](owner *T, n int) []byte { return make([]byte, n) }
