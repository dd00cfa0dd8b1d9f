//go:build !linux

package httpd

import (
	"syscall"
	"time"
)

// limitUnacknowledged returns nil, because only Linux has this timeout for unacknowledged
// data.
func limitUnacknowledged(time.Duration) func(string, string, syscall.RawConn) error { return nil }
