//go:build !unix

package httpd

import "math"

// maxDescriptors returns a very large number, because this system has no limit of file
// descriptors.
func maxDescriptors() uint64 { return math.MaxUint64 }
