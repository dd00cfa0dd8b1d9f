package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"colophon/internal/policy"
)

type policyFlags struct {
	Policy string `placeholder:"FILE" help:"Text policy to use instead of the built-in one: lines of name NAME, word WORD, remove CHARACTERS and # comments. It is read again when it changes, and on SIGHUP ($COLOPHON_POLICY)."`
}

// lookEvery is how often a file of rules is looked at.
const lookEvery = 2 * time.Second

// rules are the ones in force, from a file or built in.
type rules struct {
	file    string // empty are the built-in ones
	log     *slog.Logger
	inForce atomic.Pointer[policy.Rules]
	seen    string // what was last in the file, good or bad
	wrong   string // what was last said to be wrong with it
}

// rules reads the policy that the flag names.
func (f *policyFlags) rules(log *slog.Logger) (*rules, error) {
	r := &rules{file: f.Policy, log: log}
	if r.file == "" {
		r.inForce.Store(policy.Default())
		return r, nil
	}
	var err error
	if r.seen, err = r.read(); err == nil {
		err = r.adopt(r.seen)
	}
	if err != nil {
		return nil, &usageError{fmt.Errorf("--policy: %w", err)}
	}
	return r, nil
}

// now returns the rules that are in force.
func (r *rules) now() *policy.Rules { return r.inForce.Load() }

// read returns what is in the file, as far as is needed to see that it is too long.
func (r *rules) read() (string, error) {
	file, err := os.Open(r.file)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, policy.MaxRulesSize+1))
	return string(text), err
}

// adopt puts rules in force, all of them or none.
func (r *rules) adopt(text string) error {
	parsed, err := policy.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	r.inForce.Store(parsed)
	return nil
}

// watch reads the file again when it has changed, for which it looks every so
// often, and on SIGHUP, until ctx is done or stop is called. Rules that cannot be
// read leave the ones before in force.
func (r *rules) watch(ctx context.Context, every time.Duration) (stop func()) {
	if r.file == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	var running sync.WaitGroup
	running.Go(func() {
		defer signal.Stop(hangup)
		look := time.NewTicker(every)
		defer look.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
				r.reread(ctx, false)
			case <-hangup:
				r.reread(ctx, true)
			}
		}
	})
	return func() { cancel(); running.Wait() }
}

// reread reads the file. If nobody has said that it is complete, it has to be the
// same at two looks: it may be being written.
func (r *rules) reread(ctx context.Context, told bool) {
	text, err := r.read()
	if !told && err == nil && text != r.seen {
		r.seen = text
		return
	}
	before := r.now().Version()
	if err == nil {
		r.seen = text
		err = r.adopt(text)
	}
	switch now := r.now().Version(); {
	case err != nil && (told || err.Error() != r.wrong):
		r.wrong = err.Error()
		r.log.ErrorContext(ctx, "THE POLICY FILE IS BROKEN: the rules before it stay in force", "file", r.file, "policy", before, "err", err)
	case err == nil && (told || r.wrong != "" || before != now):
		r.wrong = ""
		r.log.InfoContext(ctx, "the policy file was read again", "file", r.file, "policy", now, "before", before)
	}
}
