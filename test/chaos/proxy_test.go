package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// echo returns a proxy in front of a server that sends every received byte back.
func echo(t *testing.T, network, address string) *Proxy {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	p, err := NewProxy(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.Serve(network, listener.Addr().String())
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("received %q, %v, want %q", got, err, text)
	}
}

// expectSilence fails the test if a byte arrives within 50 ms.
func expectSilence(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("received %d bytes, %v", n, err)
	}
}

// expectClosed fails the test unless the connection ends without another byte.
func expectClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("received %d bytes, %v", n, err)
	}
}

func TestProxyForwards(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		conn := dial(t, echo(t, network, address))
		send(t, conn, "one")
		receive(t, conn, "one")
		send(t, conn, "two")
		receive(t, conn, "two")
	}
}

func TestProxyAcceptsConnectionsAfterCut(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	send(t, conn, "one")
	receive(t, conn, "one")
	p.Cut()
	expectClosed(t, conn)
	conn = dial(t, p)
	send(t, conn, "two")
	receive(t, conn, "two")
}

func TestProxyDelaysBothDirections(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	const delay = 60 * time.Millisecond
	p.Delay(delay)
	begin := time.Now()
	send(t, conn, "one")
	receive(t, conn, "one")
	if took := time.Since(begin); took < 2*delay {
		t.Errorf("the round trip took %v", took)
	}
}

func TestUnblockDeliversBlockedBytes(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	before := dial(t, p)
	send(t, before, "one")
	receive(t, before, "one")
	p.Block(answers)
	during := dial(t, p)
	send(t, before, "two")
	send(t, during, "three")
	expectSilence(t, before)
	expectSilence(t, during)
	p.Unblock()
	receive(t, before, "two")
	receive(t, during, "three")
}

func TestProxyCutsBlockedConnections(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	send(t, conn, "one")
	receive(t, conn, "one")
	p.Block(requests, answers)
	send(t, conn, "lost")
	expectSilence(t, conn)
	p.Cut()
	expectClosed(t, conn)
}

func TestProxyClosesConnectionsWithoutService(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	p.Serve("tcp", "127.0.0.1:1") // no server listens on this port
	expectClosed(t, dial(t, p))
}

func TestClosedProxyEndsItsConnections(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	send(t, conn, "one")
	receive(t, conn, "one")
	p.Block(requests, answers)
	p.Close()
	expectClosed(t, conn)
	var dialer net.Dialer
	if conn, err := dialer.DialContext(t.Context(), "tcp", p.Addr()); err == nil {
		conn.Close()
		t.Error("the closed proxy accepts connections")
	}
}
