package program

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
)

// Log keeps the output of processes in memory. The zero value is an empty log.
type Log struct {
	mu    sync.Mutex
	all   bytes.Buffer
	grown chan struct{} // closed by the next Write; nil if no Await waits
}

// Write appends to the log.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
	return l.all.Write(b)
}

// String returns the whole log.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// Await waits until the log contains a text, and returns the whole log so far. If ctx
// ends before that, Await returns an error.
func (l *Log) Await(ctx context.Context, text string) (string, error) {
	for {
		l.mu.Lock()
		all := l.all.String()
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		grown := l.grown
		l.mu.Unlock()
		if strings.Contains(all, text) {
			return all, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return all, fmt.Errorf("wait for %q in the log: %w", text, context.Cause(ctx))
		}
	}
}
