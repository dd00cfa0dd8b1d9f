package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"colophon/test/program"
)

// startTimeout bounds the time until a process is ready. This time includes the time that
// the process waits for Postgres.
const startTimeout = 90 * time.Second

// stopTimeout bounds the time from SIGTERM to the end of a process. It is longer than the
// grace period of the process, because the machine may be loaded.
const stopTimeout = 30 * time.Second

// node is one API server or one worker, with the proxies on its connections. It runs one
// process at a time. If a fault ends this process, the node starts another process.
type node struct {
	name     string // such as "worker-2"
	path     string // path of the program
	args     []string
	env      []string
	servers  [2]*Proxy // a proxy for each Postgres server
	pooler   *Proxy    // nil for a process that uses no pooler
	database network   // all proxies between the process and Postgres
	clients  network   // one proxy, or none for a worker, which has no clients
	log      io.WriteCloser
	note     func(format string, args ...any) // called for each failed start

	addViolation func(Violation)

	mu         sync.Mutex
	generation int // number of starts
	running    *program.Process
	closed     bool
}

// newNode returns a node with its proxies and its log. It does not start a process.
func newNode(ctx context.Context, name, path, logs string, args, env []string, sockets [2]string) (*node, error) {
	n := &node{name: name, path: path, args: args, env: env}
	for i, socket := range sockets {
		var err error
		if n.servers[i], err = n.addDatabase(ctx, socket); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(name, "api-") {
		proxy, err := NewProxy(ctx)
		if err != nil {
			return nil, err
		}
		n.clients = network{proxy}
	}
	var err error
	n.log, err = os.Create(filepath.Join(logs, name+".log"))
	return n, err
}

// addDatabase adds a proxy of the connections to Postgres.
func (n *node) addDatabase(ctx context.Context, socket string) (*Proxy, error) {
	proxy, err := NewProxy(ctx)
	if err != nil {
		return nil, err
	}
	proxy.Serve("unix", socket)
	proxy.Delay(usualDelay)
	n.database = append(n.database, proxy)
	return proxy, nil
}

// close kills the process and closes the proxies and the log. No process starts afterwards.
func (n *node) close() {
	n.mu.Lock()
	n.closed = true
	p := n.running
	n.mu.Unlock()
	if p != nil {
		p.Kill()
	}
	for _, proxy := range slices.Concat(n.database, n.clients) {
		proxy.Close()
	}
	if n.log != nil {
		n.log.Close()
	}
}

// writer returns the application_name by which Postgres knows the current process.
func (n *node) writer() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("%s.%d", n.name, n.generation)
}

// start starts a process and waits until the process is ready. If the process ends before
// that, for example because Postgres is unavailable, start starts another process, as a
// supervisor does.
func (n *node) start(ctx context.Context) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := n.startOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		n.note("%s: %v", n.writer(), err)
		if time.Now().After(deadline) {
			return fmt.Errorf("start %s: %w", n.name, err)
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// launch starts a process. It writes the output of the process to the node's log and to
// the given writer.
func (n *node) launch(log io.Writer) (*program.Process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, context.Canceled
	}
	n.generation++
	writer := fmt.Sprintf("%s.%d", n.name, n.generation)
	fmt.Fprintf(n.log, "--- %s\n", writer)
	env := []string{"DATABASE_URL=" + databaseURL("colophon", writer, n.servers[:]...)}
	if n.pooler != nil {
		env = []string{"DATABASE_URL=" + databaseURL(poolerLogin, writer, n.pooler), "COLOPHON_DATABASE_DIRECT_URL=" + databaseURL("colophon", writer, n.servers[:]...)}
	}
	p, err := program.Start(io.MultiWriter(n.log, log), append(env, n.env...), n.path, n.args...)
	n.running = p
	return p, err
}

// databaseURL returns the URL of the service's database behind one or more proxies.
func databaseURL(login, writer string, proxies ...*Proxy) string {
	var hosts, ports []string
	for _, proxy := range proxies {
		host, port, _ := strings.Cut(proxy.Addr(), ":")
		hosts, ports = append(hosts, host), append(ports, port)
	}
	at := url.URL{Scheme: "postgres", User: url.User(login), Path: "/colophon"}
	at.RawQuery = url.Values{
		"host": {strings.Join(hosts, ",")}, "port": {strings.Join(ports, ",")},
		"sslmode": {"disable"}, "application_name": {writer}, "pool_max_conns": {"8"},
	}.Encode()
	return at.String()
}

func (n *node) startOnce(ctx context.Context) error {
	p, err := n.launch(io.Discard)
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	base, err := p.Ready(starting)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.Kill()
		return err
	}
	for _, proxy := range n.clients {
		at, err := url.Parse(base)
		if err != nil {
			return err
		}
		proxy.Serve("tcp", at.Host)
	}
	return nil
}

// process returns the running process of the node. If that process has ended by itself,
// the method adds a violation and returns nil.
func (n *node) process() *program.Process {
	n.mu.Lock()
	p := n.running
	n.mu.Unlock()
	if hasEnded(p) {
		n.addViolation(Violation{Lost, "", "no process ends by itself", n.writer() + " running", fmt.Sprint(p.Err())})
		return nil
	}
	return p
}

// inject injects a fault into the process, then makes the process run again. It calls the
// function injected once, when the fault has taken effect.
func (n *node) inject(ctx context.Context, f fault, injected func()) error {
	p := n.process()
	if p == nil {
		injected()
		return n.start(ctx)
	}
	switch f.action {
	case freeze:
		p.Freeze()
		injected()
		err := sleep(ctx, f.lasts)
		p.Thaw()
		return err
	case restart:
		if !p.Stop(stopTimeout) {
			n.addViolation(Violation{Stuck, "", "a process ends after SIGTERM", n.writer() + " gone", fmt.Sprintf("running after %v", stopTimeout)})
			p.Kill()
		}
		injected()
	default:
		p.Kill()
		injected()
		if err := sleep(ctx, f.lasts); err != nil {
			return err
		}
	}
	return n.start(ctx)
}

// network is the set of proxies between a process and its clients, or between a process
// and Postgres.
type network []*Proxy

// inject injects a fault into the connections of all proxies, then removes the fault. It
// calls the function injected once, when the fault has taken effect.
func (n network) inject(ctx context.Context, f fault, usual time.Duration, injected func()) error {
	all := func(do func(*Proxy)) {
		for _, p := range n {
			do(p)
		}
	}
	defer all((*Proxy).Unblock)
	switch f.action {
	case cut:
		all((*Proxy).Cut)
		injected()
		return nil
	case slow:
		all(func(p *Proxy) { p.Delay(usual + 150*time.Millisecond) })
		defer all(func(p *Proxy) { p.Delay(usual) })
	case deafen:
		all(func(p *Proxy) { p.Block(answers) })
	default:
		all(func(p *Proxy) { p.Block(requests, answers) })
	}
	injected()
	err := sleep(ctx, f.lasts)
	if f.action == lose || f.action == deafen {
		all((*Proxy).Cut)
	}
	return err
}

// sleep waits for d. It returns the error of ctx if ctx is done first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
