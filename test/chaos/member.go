package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"colophon/test/program"
)

// startWithin is how long a process may take until it is ready. The database may
// have to come back first.
const startWithin = 90 * time.Second

// endWithin is how long a process may take to end after SIGTERM: its grace period,
// and some time for a loaded machine.
const endWithin = 30 * time.Second

// member is one API or worker with the networks around it. It has one process at a
// time, and a new one when that has ended.
type member struct {
	name     string // such as "worker-2"
	path     string // of the program
	args     []string
	env      []string
	database *Proxy
	clients  *Proxy // nil of a worker
	log      io.WriteCloser
	note     func(format string, args ...any) // of what a supervisor has to repair
	violate  func(Violation)

	mu      sync.Mutex
	lives   int
	running *program.Process
	stopped bool // by us
}

// newMember makes the networks and the log of a member.
func newMember(ctx context.Context, name, path, logs string, args, env []string, socket string) (*member, error) {
	m := &member{name: name, path: path, args: args, env: env}
	var err error
	if m.database, err = NewProxy(ctx); err != nil {
		return nil, err
	}
	m.database.Serve("unix", socket)
	if strings.HasPrefix(name, "api-") {
		if m.clients, err = NewProxy(ctx); err != nil {
			return nil, err
		}
	}
	m.log, err = os.Create(filepath.Join(logs, name+".log"))
	return m, err
}

// close ends the process, if there is one, and the networks.
func (m *member) close() {
	m.mu.Lock()
	m.stopped = true
	p := m.running
	m.mu.Unlock()
	if p != nil {
		p.Kill()
	}
	for _, proxy := range []*Proxy{m.database, m.clients} {
		if proxy != nil {
			proxy.Close()
		}
	}
	if m.log != nil {
		m.log.Close()
	}
}

// writer returns the name under which Postgres knows the present process.
func (m *member) writer() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("%s.%d", m.name, m.lives)
}

// start starts a process and waits until it is ready. A process that gives
// up because the database is away is started again, as a supervisor would.
func (m *member) start(ctx context.Context) error {
	deadline := time.Now().Add(startWithin)
	for {
		err := m.try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		m.note("%s: %v", m.writer(), err)
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not start: %w", m.name, err)
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

func (m *member) try(ctx context.Context) error {
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return context.Canceled
	}
	m.lives++
	writer := fmt.Sprintf("%s.%d", m.name, m.lives)
	fmt.Fprintf(m.log, "--- %s\n", writer)
	at := url.URL{Scheme: "postgres", User: url.User("colophon"), Host: m.database.Addr(), Path: "/colophon"}
	at.RawQuery = url.Values{"sslmode": {"disable"}, "application_name": {writer}, "pool_max_conns": {"8"}}.Encode()
	p, err := program.Start(m.log, append([]string{"DATABASE_URL=" + at.String()}, m.env...), m.path, m.args...)
	m.running = p
	m.mu.Unlock()
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	said, err := p.Ready(waiting)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.Kill()
		return err
	}
	if m.clients != nil {
		at, err := url.Parse(said)
		if err != nil {
			return err
		}
		m.clients.Serve("tcp", at.Host)
	}
	return nil
}

// alive returns the process, or nil if it has ended by itself, which is a violation.
func (m *member) alive() *program.Process {
	m.mu.Lock()
	p := m.running
	m.mu.Unlock()
	select {
	case <-p.Exited():
		m.violate(Violation{Lost, "", "no process ends by itself", m.writer() + " running", fmt.Sprint(p.Err())})
		return nil
	default:
		return p
	}
}

// strike deals a blow to the process and starts the process again afterwards. It
// calls hit once the blow has taken effect.
func (m *member) strike(ctx context.Context, b blow, hit func()) error {
	p := m.alive()
	if p == nil {
		hit()
		return m.start(ctx)
	}
	switch b.act {
	case freeze:
		p.Freeze()
		hit()
		err := sleep(ctx, b.lasts)
		p.Thaw()
		return err
	case restart:
		if !p.Stop(endWithin) {
			m.violate(Violation{Stuck, "", "a process ends that is asked to", m.writer() + " gone", fmt.Sprintf("running after %v", endWithin)})
			p.Kill()
		}
		hit()
	default:
		p.Kill()
		hit()
		if err := sleep(ctx, b.lasts); err != nil {
			return err
		}
	}
	return m.start(ctx)
}

// disturb deals a blow to a network and repairs it afterwards.
func (p *Proxy) disturb(ctx context.Context, b blow, usual time.Duration, hit func()) error {
	defer p.Mend()
	switch b.act {
	case cut:
		p.Cut()
		hit()
		return nil
	case slow:
		p.Delay(usual + 150*time.Millisecond)
		defer p.Delay(usual)
	case deafen:
		p.Swallow(answers)
	default:
		p.Swallow(requests, answers)
	}
	hit()
	err := sleep(ctx, b.lasts)
	if b.act == lose || b.act == deafen {
		p.Cut()
	}
	return err
}

// sleep waits for a time. It returns an error if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
