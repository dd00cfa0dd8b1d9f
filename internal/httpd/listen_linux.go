package httpd

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not define.
const tcpUserTimeout = 0x12

// limitUnacknowledged returns a function that sets the timeout for unacknowledged data
// on a listening socket. Connections inherit the timeout. On a kernel without this timeout
// the error is ignored, and the service runs without the timeout.
func limitUnacknowledged(limit time.Duration) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(limit.Milliseconds()))
		})
	}
}
