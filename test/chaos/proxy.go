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

// direction is the direction of the bytes in a connection.
type direction int

const (
	requests direction = iota // from the clients to the service
	answers
)

// Proxy forwards TCP connections on the loopback interface to a service. It can cut,
// delay and block these connections. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	ended    sync.WaitGroup

	mu       sync.Mutex
	upstream [2]string // network and address of the service; empty before Serve
	delay    time.Duration
	blocked  [2]chan struct{} // by direction: nil if not blocked, closed by Unblock
	links    map[*link]struct{}
	closed   bool
}

// link is one connection through a proxy.
type link struct {
	ends [2]net.Conn
	once sync.Once
	done chan struct{}
}

// close ends a link with a reset. Bytes in flight are lost.
func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		for _, conn := range l.ends {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // Close sends a reset
			}
			_ = conn.Close()
		}
	})
}

// NewProxy returns a proxy that listens on a free port. Until Serve is called, the proxy
// closes each new connection.
func NewProxy(ctx context.Context) (*Proxy, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a proxy: %w", err)
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

// Addr returns the address of the proxy as HOST:PORT.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Serve sets the service to which new connections are forwarded.
func (p *Proxy) Serve(network, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = [2]string{network, address}
}

// Close resets all connections, stops listening, and waits for all goroutines.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Unblock()
	p.Cut()
	p.ended.Wait()
}

// Cut resets all connections. Bytes in flight are lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// Delay sets the one-way delay of all bytes.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Block stops all connections, also new ones, in the given directions until Unblock. The
// connections stay open. Their bytes are delivered later, as after a TCP retransmission.
func (p *Proxy) Block(directions ...direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, dir := range directions {
		if p.blocked[dir] == nil {
			p.blocked[dir] = make(chan struct{})
		}
	}
}

// Unblock ends Block and delivers the waiting bytes.
func (p *Proxy) Unblock() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for dir, unblocked := range p.blocked {
		if unblocked != nil {
			close(unblocked)
			p.blocked[dir] = nil
		}
	}
}

// connect dials the service and copies bytes in both directions until either side ends
// the connection.
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

// chunk is the result of one read. An empty chunk marks the end of the stream.
type chunk struct {
	readAt time.Time
	bytes  []byte
}

// copy forwards bytes in one direction until either side ends the connection. Then it
// ends the link.
func (p *Proxy) copy(l *link, dir direction) {
	from, to := l.ends[dir], l.ends[1-dir]
	const maxInFlight = 256 // number of chunks in flight before the sender has to wait
	chunks := make(chan chunk, maxInFlight)
	go func() {
		defer close(chunks)
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				n = 0
			}
			select {
			case chunks <- chunk{time.Now(), bytes.Clone(buf[:n])}:
			case <-l.done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for next := range chunks {
		if !p.waitToForward(l, dir, next.readAt) {
			break
		}
		if len(next.bytes) == 0 {
			break
		}
		if _, err := to.Write(next.bytes); err != nil {
			break
		}
	}
	// When one side has ended the connection, nobody reads the bytes of the other side.
	l.finish()
	for range chunks { // waits for the reading goroutine, which ends with the link
	}
}

// finish ends a link without a reset. Bytes that were written before still arrive.
func (l *link) finish() {
	l.once.Do(func() {
		close(l.done)
		for _, conn := range slices.Backward(l.ends[:]) {
			_ = conn.Close()
		}
	})
}

// waitToForward waits until bytes that were read at readAt may be forwarded. It returns
// false if the link ends first.
func (p *Proxy) waitToForward(l *link, dir direction, readAt time.Time) bool {
	for {
		p.mu.Lock()
		unblocked, wait := p.blocked[dir], time.Until(readAt.Add(p.delay))
		p.mu.Unlock()
		var due <-chan time.Time
		if unblocked == nil {
			if wait <= 0 {
				return true
			}
			due = time.After(wait)
		}
		select {
		case <-l.done:
			return false
		case <-unblocked:
		case <-due:
		}
	}
}
