package httpd

import (
	"net"
	"syscall"
	"testing"
)

func TestConnectionsEndAfter9SecondsWithoutAcknowledgement(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect(t, l.Addr().String())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var milliseconds int
	var optionErr error
	if err := raw.Control(func(fd uintptr) {
		milliseconds, optionErr = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
	}); err != nil || optionErr != nil || milliseconds != 9000 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms, want 9000: %v, %v", milliseconds, err, optionErr)
	}
}
