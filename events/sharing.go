package events

import (
	"fmt"
	"sync"
)

// sharing lets readers share queries. A query that is running already when a
// reader comes may have begun before what the reader has been told of: it gets
// what the next one returns, as do all who come until that begins.
type sharing struct {
	mu      sync.Mutex
	running map[question]*query
}

// A question is for the events of a stream after a version.
type question struct {
	stream Stream
	after  int
}

// A query is one that runs or will.
type query struct {
	done   chan struct{} // closed when it has run
	events []Event
	err    error

	next *query // begins when this one has run; nil if nobody has asked for it
}

func newQuery() *query { return &query{done: make(chan struct{})} }

// ask returns a query that begins after the call. Of the readers with the same
// question, whose ask is whose does not matter.
func (s *sharing) ask(q question, ask func() ([]Event, error)) *query {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.running[q]; ok {
		if now.next == nil {
			now.next = newQuery()
		}
		return now.next
	}
	first := newQuery()
	if s.running == nil {
		s.running = map[question]*query{}
	}
	s.running[q] = first
	go s.run(q, first, ask)
	return first
}

// run runs one query after the other for as long as there are readers.
func (s *sharing) run(q question, now *query, ask func() ([]Event, error)) {
	for now != nil {
		if now.events, now.err = ask(); now.err != nil {
			now.err = fmt.Errorf("read %s: %w", q.stream, now.err)
		}
		close(now.done)
		s.mu.Lock()
		if now = now.next; now != nil {
			s.running[q] = now
		} else {
			delete(s.running, q)
		}
		s.mu.Unlock()
	}
}
