//go:build unix

package httpd

import (
	"math"
	"syscall"
)

// maxDescriptors returns the number of file descriptors that the process may open. If the
// number is unknown, maxDescriptors returns a very large one.
func maxDescriptors() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxUint64
	}
	return uint64(limit.Cur) //nolint:unconvert // signed on some systems
}
