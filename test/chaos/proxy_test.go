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

// echo returns a proxy in front of a server that says back what it hears.
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

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("heard %q, %v, want %q", got, err, text)
	}
}

// silent checks that nothing comes for a moment.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("heard %d bytes, %v", n, err)
	}
}

// broken checks that the connection is.
func broken(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("heard %d bytes, %v", n, err)
	}
}

func TestProxyPassesOn(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		conn := dial(t, echo(t, network, address))
		say(t, conn, "one")
		hear(t, conn, "one")
		say(t, conn, "two")
		hear(t, conn, "two")
	}
}

func TestProxyCutsConnectionsAndTakesNewOnes(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	say(t, conn, "one")
	hear(t, conn, "one")
	p.Cut()
	broken(t, conn)
	conn = dial(t, p)
	say(t, conn, "two")
	hear(t, conn, "two")
}

func TestProxyDelays(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	const delay = 60 * time.Millisecond
	p.Delay(delay)
	begin := time.Now()
	say(t, conn, "one")
	hear(t, conn, "one")
	if took := time.Since(begin); took < 2*delay {
		t.Errorf("there and back took %v", took)
	}
}

func TestProxySwallowsUntilMended(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	before := dial(t, p)
	say(t, before, "one")
	hear(t, before, "one")
	p.Swallow(answers)
	during := dial(t, p)
	say(t, before, "two")
	say(t, during, "three")
	silent(t, before)
	silent(t, during)
	p.Mend()
	hear(t, before, "two")
	hear(t, during, "three")
}

func TestProxyCutsSilentConnections(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	say(t, conn, "one")
	hear(t, conn, "one")
	p.Swallow(requests, answers)
	say(t, conn, "lost")
	silent(t, conn)
	p.Cut()
	broken(t, conn)
}

func TestProxyEndsWithTheService(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	p.Serve("tcp", "127.0.0.1:1") // where nobody listens
	broken(t, dial(t, p))
}

func TestProxyCloses(t *testing.T) {
	p := echo(t, "tcp", "127.0.0.1:0")
	conn := dial(t, p)
	say(t, conn, "one")
	hear(t, conn, "one")
	p.Swallow(requests, answers)
	p.Close()
	broken(t, conn)
	var dialer net.Dialer
	if conn, err := dialer.DialContext(t.Context(), "tcp", p.Addr()); err == nil {
		conn.Close()
		t.Error("the address is still listened on")
	}
}
