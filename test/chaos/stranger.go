package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"colophon/internal/vault"
	"colophon/test/program"
)

// stranger is the name of the worker that has a wrong master key.
const stranger = "stranger"

// refusal describes how a process with a wrong master key ended.
type refusal struct {
	writer string
	ready  bool // the process became ready
	ended  bool
	output string
}

// checkRefusal checks that a process has ended because its master key is wrong.
func checkRefusal(r refusal) []Violation {
	const rule = "a worker with a wrong key does not start"
	switch {
	case r.ready:
		return []Violation{{Changed, "", rule, "an error of " + r.writer, "it works"}}
	case !r.ended:
		return []Violation{{Stuck, "", rule, "the end of " + r.writer, fmt.Sprintf("it runs after %v", startTimeout)}}
	case !r.namesKey():
		return []Violation{{Changed, "", rule, fmt.Sprintf("%s: %v", r.writer, vault.ErrMasterKey), quote(r.output)}}
	}
	return nil
}

func (r refusal) namesKey() bool { return strings.Contains(r.output, vault.ErrMasterKey.Error()) }

// checkStrangers checks that no worker with a wrong key has written an event or held a
// lease.
func checkStrangers(stored *record) (found []Violation) {
	foreign := func(writer string) bool { return strings.HasPrefix(writer, stranger) }
	const rule = "a worker with a wrong key takes no job"
	for id, writes := range stored.writes {
		for _, w := range writes {
			if foreign(w.writer) {
				found = append(found, Violation{Changed, id, rule, "no event", fmt.Sprintf("%s of %s at version %d", w.kind, w.writer, w.version)})
			}
		}
	}
	for id, changes := range stored.leaseChanges {
		for _, c := range changes {
			if foreign(c.writer) {
				found = append(found, Violation{Changed, id, rule, "no lease", "a lease of " + c.writer})
			}
		}
	}
	return found
}

// injectStranger starts a process with a wrong master key and waits until the process has
// ended. A process that ends because Postgres is unavailable shows nothing, so
// injectStranger then starts another process. It calls the function injected at the end.
func (n *node) injectStranger(ctx context.Context, injected func()) error {
	var r refusal
	for deadline := time.Now().Add(startTimeout); ; {
		var log program.Log
		p, err := n.launch(&log)
		if err != nil {
			return err
		}
		starting, cancel := context.WithDeadline(ctx, deadline)
		_, err = p.Ready(starting)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r = refusal{writer: n.writer(), ready: err == nil, ended: hasEnded(p)}
		p.Kill()
		r.output = log.String()
		if r.ready || !r.ended || r.namesKey() || time.Now().After(deadline) {
			break
		}
		n.note("%s: %v", r.writer, err)
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	injected()
	for _, v := range checkRefusal(r) {
		n.addViolation(v)
	}
	return nil
}

func hasEnded(p *program.Process) bool {
	select {
	case <-p.Exited():
		return true
	default:
		return false
	}
}
