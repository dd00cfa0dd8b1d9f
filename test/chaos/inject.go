package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// injectFaults injects the planned faults while clients submit and follow jobs. It
// returns when all faults and clients are done, or settleTimeout after the last fault. It
// also returns when an injection fails.
func (r *run) injectFaults(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	begin := time.Now()
	var clients, faults sync.WaitGroup
	clients.Go(func() { r.submit(ctx, begin) })
	defer func() { stop(nil); clients.Wait() }()
	// A target has one fault at a time. If a fault is due before the previous fault of
	// its target has ended, it waits for that end.
	byTarget := map[string][]fault{}
	for _, f := range r.planned {
		byTarget[f.target] = append(byTarget[f.target], f)
	}
	for _, planned := range byTarget {
		faults.Go(func() {
			for _, f := range planned {
				if err := sleep(ctx, time.Until(begin.Add(f.at))); err != nil {
					return
				}
				if err := r.inject(ctx, f); err != nil {
					stop(fmt.Errorf("%s %s: %w", f.action, f.target, err))
					return
				}
			}
		})
	}
	faults.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.setStage("settling")
	followed := make(chan struct{})
	go func() { clients.Wait(); close(followed) }()
	settling, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	select {
	case <-followed:
	case <-settling.Done(): // r.check reports clients that still wait
	}
	r.settle(settling)
	for _, n := range r.nodes {
		n.process()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// inject injects one fault, and logs the fault if it took effect.
func (r *run) inject(ctx context.Context, f fault) error {
	entry := injectedFault{fault: f}
	injected := func() {
		entry.injectedAt = time.Now()
		r.faultLog.count(f)
	}
	var err error
	name, network, _ := strings.Cut(f.target, "/")
	n := r.nodes[name]
	switch {
	case f.target == "postgres":
		err = r.postgres.inject(ctx, f, injected)
	case f.target == poolerName && r.pooler == nil:
	case f.target == poolerName:
		err = r.pooler.inject(ctx, f.lasts, injected)
	case f.target == stranger:
		err = r.stranger.injectStranger(ctx, injected)
	case f.target == storedEvent:
		err = r.alterEvent(ctx, injected)
	case network == "database":
		err = n.database.inject(ctx, f, usualDelay, injected)
	case network == "clients":
		err = n.clients.inject(ctx, f, 0, injected)
	default:
		entry.writer = n.writer()
		err = n.inject(ctx, f, injected)
	}
	entry.endedAt = time.Now()
	if !entry.injectedAt.IsZero() {
		r.faultLog.add(entry)
	}
	if ctx.Err() != nil {
		err = nil // the end of the run during a fault is no error
	}
	return err
}

// submit submits all requests, spread over the duration of the run. It returns when the
// clients have followed their jobs to the end, or when ctx is done.
func (r *run) submit(ctx context.Context, begin time.Time) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for i, request := range newRequests(r.Jobs, r.Seed) {
		// All jobs are submitted in the first 97% of the run, so that the last jobs meet faults
		// too.
		at := begin.Add(time.Duration(float64(i) / float64(r.Jobs) * 0.97 * float64(r.For)))
		if err := sleep(ctx, time.Until(at)); err != nil {
			return
		}
		clients.Go(func() {
			o, err := r.users[i%len(r.users)].do(ctx, r.idempotencyKey(i), i, request)
			r.mu.Lock()
			r.seen = append(r.seen, o)
			r.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				r.addViolation(Violation{Changed, o.job, "a client gets a usable answer in the end", "a usable answer", err.Error()})
			}
		})
	}
}

func (r *run) idempotencyKey(i int) string { return fmt.Sprintf("chaos-%d-%d", r.Seed, i) }

// settle waits until no job, lease or queue entry is unfinished, or ctx is done.
func (r *run) settle(ctx context.Context) {
	for {
		jobs, entries, err := countUnfinished(ctx, r.postgres.pool)
		if err == nil && jobs+entries == 0 {
			return
		}
		if sleep(ctx, 200*time.Millisecond) != nil {
			return // r.check reports the unfinished jobs and entries
		}
	}
}
