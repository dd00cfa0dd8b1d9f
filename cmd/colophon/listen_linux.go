package main

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not name.
const tcpUserTimeout = 0x12

// unread is how long what has been sent may stay with us because the client does
// not take it or is not there any more. A write fails only once the kernel's
// buffers are full, and a stream may never be that long.
const unread = 9 * time.Second

// control sets up a listening socket; its connections inherit that. A kernel that
// cannot is no reason not to serve.
func control(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(unread.Milliseconds()))
	})
}
