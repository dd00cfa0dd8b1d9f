package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// A direction is a way through a proxy.
type direction int

const (
	requests direction = iota // from the clients to the service
	answers
)

// Proxy is a network between its clients, which dial it over TCP on the loopback
// interface, and a service. It can be cut, slowed down, and made to pass nothing
// on. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	ended    sync.WaitGroup

	mu       sync.Mutex
	upstream [2]string // network and address; empty: there is no service
	delay    time.Duration
	holes    [2]chan struct{} // by direction: closed when the hole is; nil if there is none
	links    map[*link]struct{}
	closed   bool
}

// link is one connection through a proxy.
type link struct {
	ends [2]net.Conn
	once sync.Once
	done chan struct{}
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		for _, conn := range l.ends {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset, which drops bytes in transit
			}
			_ = conn.Close()
		}
	})
}

// NewProxy listens for connections. Serve names the service.
func NewProxy(ctx context.Context) (*Proxy, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a proxy: %w", err)
	}
	p := &Proxy{listener: listener, links: map[*link]struct{}{}}
	p.ended.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.ended.Go(func() { p.connect(conn) })
		}
	})
	return p, nil
}

// Addr returns the address to dial, HOST:PORT.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Serve names the service for connections from now on.
func (p *Proxy) Serve(network, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = [2]string{network, address}
}

// Close cuts all connections and stops listening.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Mend()
	p.Cut()
	p.ended.Wait()
}

// Cut resets all connections. Bytes in transit are lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// Delay delays all bytes by a time, in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Swallow passes nothing on until Mend. Connections stay open and silent, and the
// bytes wait, as in a network that retransmits. New connections are accepted and
// are as silent.
func (p *Proxy) Swallow(ways ...direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, way := range ways {
		if p.holes[way] == nil {
			p.holes[way] = make(chan struct{})
		}
	}
}

// Mend ends Swallow.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for way, hole := range p.holes {
		if hole != nil {
			close(hole)
			p.holes[way] = nil
		}
	}
}

// connect dials the service for a client and copies until either side ends.
func (p *Proxy) connect(client net.Conn) {
	l := &link{done: make(chan struct{})}
	l.ends[requests] = client
	p.mu.Lock()
	upstream := p.upstream
	p.mu.Unlock()
	var dialer net.Dialer
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	service, err := dialer.DialContext(ctx, upstream[0], upstream[1])
	cancel()
	if err != nil {
		_ = client.Close()
		return
	}
	l.ends[answers] = service
	p.mu.Lock()
	if p.closed {
		l.close()
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { p.copy(l, requests) })
	both.Go(func() { p.copy(l, answers) })
	both.Wait()
}

// piece is the result of one read. No bytes stand for the end of the stream.
type piece struct {
	at    time.Time
	bytes []byte
}

// copy passes bytes on in one direction until either side ends, then ends the link.
func (p *Proxy) copy(l *link, way direction) {
	from, to := l.ends[way], l.ends[1-way]
	const onTheWay = 256 // pieces; a sender of more has to wait
	pieces := make(chan piece, onTheWay)
	go func() {
		defer close(pieces)
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				n = 0
			}
			select {
			case pieces <- piece{time.Now(), bytes.Clone(buf[:n])}:
			case <-l.done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for next := range pieces {
		if !p.pass(l, way, next.at) {
			break
		}
		if len(next.bytes) == 0 {
			break
		}
		if _, err := to.Write(next.bytes); err != nil {
			break
		}
	}
	// After one side has left, the other side's bytes have no reader.
	l.finish()
	for range pieces { // the reader ends with the link
	}
}

// finish ends a link in order: written bytes arrive.
func (l *link) finish() {
	l.once.Do(func() {
		close(l.done)
		for _, conn := range slices.Backward(l.ends[:]) {
			_ = conn.Close()
		}
	})
}

// pass waits until bytes that came at a time may go on. It reports whether the link
// is still there.
func (p *Proxy) pass(l *link, way direction, came time.Time) bool {
	for {
		p.mu.Lock()
		hole, wait := p.holes[way], time.Until(came.Add(p.delay))
		p.mu.Unlock()
		var due <-chan time.Time
		if hole == nil {
			if wait <= 0 {
				return true
			}
			due = time.After(wait)
		}
		select {
		case <-l.done:
			return false
		case <-hole:
		case <-due:
		}
	}
}
