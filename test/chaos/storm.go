package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// storm lets clients submit and follow while it deals blows. It returns when both
// are done, or when the clients have waited for long enough.
func (r *run) storm(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	begin := time.Now()
	var clients, blows sync.WaitGroup
	clients.Go(func() { r.submit(ctx, begin) })
	defer func() { stop(nil); clients.Wait() }()
	// Each target gets one blow after the other. A blow that is late, because the last
	// one took long, is dealt as soon as that is over.
	byTarget := map[string][]blow{}
	for _, b := range r.planned {
		byTarget[b.target] = append(byTarget[b.target], b)
	}
	for _, those := range byTarget {
		blows.Go(func() {
			for _, b := range those {
				if err := sleep(ctx, time.Until(begin.Add(b.at))); err != nil {
					return
				}
				if err := r.deal(ctx, b); err != nil {
					stop(fmt.Errorf("%s %s: %w", b.act, b.target, err))
					return
				}
			}
		})
	}
	blows.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.enter("coming to rest")
	served := make(chan struct{})
	go func() { clients.Wait(); close(served) }()
	rest, cancel := context.WithTimeout(ctx, restWithin)
	defer cancel()
	select {
	case <-served:
	case <-rest.Done(): // the check finds what they have not seen
	}
	r.settle(rest)
	for _, m := range r.members {
		m.alive()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// deal deals one blow and records it.
func (r *run) deal(ctx context.Context, b blow) error {
	s := struck{blow: b}
	hit := func() {
		s.hit = time.Now()
		r.ledger.dealt(b.act)
	}
	var err error
	name, network, _ := strings.Cut(b.target, "/")
	m := r.members[name]
	switch {
	case b.target == "postgres":
		err = r.postgres.strike(ctx, b, hit)
	case network == "database":
		err = m.database.disturb(ctx, b, usualDelay, hit)
	case network == "clients":
		err = m.clients.disturb(ctx, b, 0, hit)
	default:
		s.writer = m.writer()
		err = m.strike(ctx, b, hit)
	}
	s.over = time.Now()
	if !s.hit.IsZero() {
		r.ledger.add(s)
	}
	if ctx.Err() != nil {
		err = nil // the storm is over, and the blow was not finished
	}
	return err
}

// submit submits all requests, spread over the time. It returns when their clients
// have seen the end of their jobs.
func (r *run) submit(ctx context.Context, begin time.Time) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for i, request := range newRequests(r.Jobs, r.Seed) {
		// All are under way before the last blows are dealt.
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
				r.violate(Violation{Changed, o.job, "a client gets answers that it can use", "one", err.Error()})
			}
		})
	}
}

func (r *run) idempotencyKey(i int) string { return fmt.Sprintf("chaos-%d-%d", r.Seed, i) }

// settle waits until no job and no queue entry is left, or ctx is done.
func (r *run) settle(ctx context.Context) {
	for {
		jobs, entries, err := unsettled(ctx, r.postgres.pool)
		if err == nil && jobs+entries == 0 {
			return
		}
		// The check finds what is left then.
		if sleep(ctx, 200*time.Millisecond) != nil {
			return
		}
	}
}
