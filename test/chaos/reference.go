package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"colophon/client"
	"colophon/model"
	"colophon/test/program"
)

// reference is an undisturbed service with a database of its own. Its workers have the
// kernel class of another build of the program.
type reference struct {
	process *program.Process
	log     *os.File
}

// startReference starts the service and does not wait until the service is ready.
func startReference(path, dir, pgBin, logs string) (*reference, error) {
	log, err := os.Create(filepath.Join(logs, "reference.log"))
	if err != nil {
		return nil, err
	}
	var env []string
	if pgBin != "" {
		env = append(env, "PGBIN="+pgBin)
	}
	p, err := program.Start(log, env, path, "up", "--listen=127.0.0.1:0", "--no-rate-limits", "--data="+filepath.Join(dir, "reference"))
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &reference{p, log}, nil
}

// close ends the service.
func (r *reference) close() error {
	var err error
	if !r.process.Stop(stopTimeout) {
		r.process.Kill()
		err = fmt.Errorf("the undisturbed service still runs %v after SIGTERM", stopTimeout)
	}
	return errors.Join(err, r.log.Close())
}

// generate returns the texts of requests by index, and the kernel class that generated
// them. The class is empty if there are no requests.
func (r *reference) generate(ctx context.Context, requests map[int]request) (class string, texts map[int]text, err error) {
	base, err := r.process.Ready(ctx)
	if err != nil {
		return "", nil, err
	}
	var transport http.Transport
	defer transport.CloseIdleConnections()
	u, err := newUser(ctx, "reference", []string{base}, &transport, &counters{})
	if err != nil {
		return "", nil, err
	}
	texts = map[int]text{}
	var mu sync.Mutex // guards class, texts and err
	var all sync.WaitGroup
	free := make(chan struct{}, slots)
	for i, wanted := range requests {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			o := observation{request: i, mode: "pieces"}
			failed := u.observe(ctx, fmt.Sprintf("reference-%d", i), wanted, &o)
			of, mixedAt := generatedBy(o.events)
			mu.Lock()
			defer mu.Unlock()
			switch t := recordedText(o.events); {
			case failed != nil:
				err = errors.Join(err, failed)
			case t.FinishReason == "" || mixedAt < len(o.events) || class != "" && of != class:
				err = errors.Join(err, fmt.Errorf("seed %d: the undisturbed service did not complete the job with kernels %q", wanted.Seed, of))
			default:
				class, texts[i] = of, t
			}
		})
	}
	all.Wait()
	if err != nil {
		return "", nil, fmt.Errorf("generate the undisturbed texts of the other kernel class: %w", err)
	}
	return class, texts, nil
}

// expectedTexts returns the expected texts of the requests. The texts of the engine are
// complete. The reference generates only the texts of the jobs that may need them, because
// portable Go is slow.
func (r *run) expectedTexts(ctx context.Context, requests []request, stored *record) (oracle, []Violation, error) {
	all, err := generateAll(ctx, r.Engine, requests)
	if err != nil {
		return nil, nil, err
	}
	native := map[int]text{}
	other := map[int]request{}
	for i, t := range all {
		native[i], other[i] = t, requests[i]
	}
	texts := oracle{r.Engine.Info().Kernel: native}
	if r.reference == nil {
		return texts, nil, nil
	}
	bySeed := indexBySeed(requests)
	for id, stream := range stored.streams {
		if class, _ := generatedBy(stream); class == r.Engine.Info().Kernel {
			delete(other, bySeed[stored.seeds[id]])
		}
	}
	class, slow, err := r.reference.generate(ctx, other)
	if err != nil || class == "" {
		return texts, nil, err
	}
	r.classes[1] = class
	if texts[class] == nil {
		texts[class] = slow
		return texts, nil, nil
	}
	// This processor has no assembly, so both builds are of one class.
	var found []Violation
	for i, t := range slow {
		c := &checker{}
		c.compareText("of the undisturbed service", t.Text, t.Tokens, native[i])
		found = append(found, c.found...)
	}
	return texts, found, nil
}

// generateAll returns the text of each request, in the order of the requests.
func generateAll(ctx context.Context, e model.Engine, requests []request) ([]text, error) {
	texts := make([]text, len(requests))
	errs := make([]error, len(requests))
	var wg sync.WaitGroup
	next := make(chan int)
	for range 4 { // the engine generates the texts of concurrent calls in one batch
		wg.Go(func() {
			for i := range next {
				texts[i], errs[i] = expectedText(ctx, e, requests[i])
			}
		})
	}
	for i := range requests {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// readMixed asks the service, as the owner of each job, whether several kernel classes
// generated its text.
func (r *run) readMixed(ctx context.Context, requests []request, stored *record) error {
	bySeed := indexBySeed(requests)
	var mu sync.Mutex
	var all sync.WaitGroup
	var errs []error
	free := make(chan struct{}, 2*usersPerRun)
	for id := range stored.streams {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			job, err := r.users[bySeed[stored.seeds[id]]%len(r.users)].Job(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			if _, refused := errors.AsType[*client.Problem](err); refused {
				return // checkDamage reports a job that was set aside and is not damaged
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("ask for job %s: %w", id, err))
				return
			}
			stored.mixed[id] = job.MixedKernels
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func indexBySeed(requests []request) map[uint64]int {
	bySeed := map[uint64]int{}
	for i, r := range requests {
		bySeed[r.Seed] = i
	}
	return bySeed
}
