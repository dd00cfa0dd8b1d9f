package policy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// pollEvery is the interval at which a watcher checks its file.
const pollEvery = 2 * time.Second

// Watcher keeps the rules of a file in force while the file changes. It is safe for
// concurrent use.
type Watcher struct {
	file    string // name of the rules file, or empty for the built-in rules
	log     *slog.Logger
	inForce atomic.Pointer[Rules]

	mu     sync.Mutex
	text   string // the file's text at the last read, which may be invalid
	parsed bool   // whether the text has been parsed, and every read since has given the same text
	broken string // the error that was last logged; empty after valid rules
}

// NewWatcher returns a watcher of the given rules file, whose rules are in force at
// once. If file is "", the built-in rules are in force and never change. An error names
// the file. If a line of the file is invalid, the error also names the line.
func NewWatcher(file string, log *slog.Logger) (*Watcher, error) {
	w := &Watcher{file: file, log: log}
	if file == "" {
		w.inForce.Store(Default())
		return w, nil
	}
	var err error
	if w.text, err = w.read(); err == nil {
		err = w.adopt(w.text)
		w.parsed = true
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}

// Rules returns the rules in force.
func (w *Watcher) Rules() *Rules { return w.inForce.Load() }

// Run checks the file every two seconds until ctx is done. Changed rules come into
// force when two checks in a row have read the same text, because a file that is still
// being written is incomplete. If the rules are invalid or the file cannot be read, Run
// logs the error and the previous rules stay in force.
func (w *Watcher) Run(ctx context.Context) {
	if w.file == "" {
		return
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.reload(ctx, false)
		}
	}
}

// Reload reads the file at once. The caller must know that the file is complete.
func (w *Watcher) Reload(ctx context.Context) {
	if w.file != "" {
		w.reload(ctx, true)
	}
}

// reload reads the file and puts its rules in force. If complete is false, it does so
// only if the last check read the same text.
func (w *Watcher) reload(ctx context.Context, complete bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text, err := w.read()
	if !complete && err == nil && (w.parsed || text != w.text) {
		w.text, w.parsed = text, w.parsed && text == w.text
		return
	}
	before := w.Rules().Version()
	if w.parsed = err == nil; w.parsed {
		w.text = text
		err = w.adopt(text)
	}
	switch now := w.Rules().Version(); {
	case err != nil && (complete || err.Error() != w.broken):
		w.broken = err.Error()
		w.log.ErrorContext(ctx, "policy file broken, keeping the previous rules", "file", w.file, "policy", before, "err", err)
	case err == nil && (complete || w.broken != "" || before != now):
		w.broken = ""
		w.log.InfoContext(ctx, "policy file reloaded", "file", w.file, "policy", now, "before", before)
	}
}

// read returns the file's text. It reads at most one byte more than the limit, which is
// enough for Parse to refuse a text that is too long.
func (w *Watcher) read() (string, error) {
	file, err := os.Open(w.file)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, MaxRulesSize+1))
	return string(text), err
}

// adopt parses a text and puts its rules in force. If the text is invalid, the rules in
// force stay unchanged.
func (w *Watcher) adopt(text string) error {
	rules, err := Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", w.file, err)
	}
	w.inForce.Store(rules)
	return nil
}
