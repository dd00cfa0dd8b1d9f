package httpd

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not name.
const tcpUserTimeout = 0x12

// unacknowledged bounds how long sent data may wait for the client to acknowledge it.
// A write fails only once the kernel's buffers are full, and a stream may never fill
// them.
const unacknowledged = 9 * time.Second

// control sets the timeout on a listening socket, from which its connections inherit
// it. The service serves also where the kernel refuses.
func control(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(unacknowledged.Milliseconds()))
	})
}
