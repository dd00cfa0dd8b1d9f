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
	requests direction = iota // from those who dial to the service
	answers
)

// Proxy is a network between those who dial it, over TCP on the loopback
// interface, and a service. It can be cut, slowed down, and made to let nothing
// through. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	ended    sync.WaitGroup

	mu       sync.Mutex
	upstream [2]string // network and address; empty: nobody is there
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
				_ = tcp.SetLinger(0) // a reset, and nothing that is still on its way
			}
			_ = conn.Close()
		}
	})
}

// NewProxy listens for connections to a service that Serve is to name.
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

// Addr is the address to dial, HOST:PORT.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Serve names the service for connections from now on.
func (p *Proxy) Serve(network, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = [2]string{network, address}
}

// Close cuts everything and listens no longer.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Mend()
	p.Cut()
	p.ended.Wait()
}

// Cut resets all connections; bytes that were on their way are lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// Delay has bytes take so long for their way, in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Swallow lets nothing through until Mend: connections stay open and silent,
// and the bytes wait, as those of a network do that sends them again. New
// connections come about and are as silent.
func (p *Proxy) Swallow(ways ...direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, way := range ways {
		if p.holes[way] == nil {
			p.holes[way] = make(chan struct{})
		}
	}
}

// Mend ends what Swallow began.
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

// connect dials the service for a connection and copies until either side ends.
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

// piece is what was read at once; no bytes are the end of the stream.
type piece struct {
	at    time.Time
	bytes []byte
}

// copy passes bytes on in one direction until either side ends, then ends the link.
func (p *Proxy) copy(l *link, way direction) {
	from, to := l.ends[way], l.ends[1-way]
	const onTheWay = 256 // pieces; whoever sends more has to wait
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
	// What the other side says after one has left is of no use to anybody here.
	l.finish()
	for range pieces { // the reader ends with the link
	}
}

// finish ends a link in order: what was written arrives.
func (l *link) finish() {
	l.once.Do(func() {
		close(l.done)
		for _, conn := range slices.Backward(l.ends[:]) {
			_ = conn.Close()
		}
	})
}

// pass waits until what came at a time may go on, and reports whether it still can.
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
