package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"colophon/client"
)

const (
	// patience is how long a client waits for an answer that the service gives at once.
	patience = 6 * time.Second

	// tries is how often a client tries a call: to the end of the run.
	tries = 1 << 30

	password = "chaos-and-old-night"
)

// user is an account whose jobs clients submit and follow. It is safe for
// concurrent use.
type user struct {
	*client.Client
	count *counters
}

// newUser registers a user and signs in. Each try of a call goes to a random
// API process, whether it is up or not.
func newUser(ctx context.Context, name string, bases []string, transport http.RoundTripper, count *counters) (*user, error) {
	c, err := client.New(bases[0], client.Options{
		Transport: meter{transport, count},
		Base:      func() string { return bases[rand.IntN(len(bases))] },
		Tries:     tries,
		Timeout:   patience,
	})
	if err != nil {
		return nil, err
	}
	if _, err := c.Register(ctx, name, password); err != nil {
		return nil, err
	}
	return &user{c, count}, c.SignIn(ctx, name, password)
}

// meter is a transport that counts what clients meet.
type meter struct {
	http.RoundTripper
	count *counters
}

// RoundTrip makes one try of a call.
func (m meter) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := m.RoundTripper.RoundTrip(r)
	submits := r.Method == http.MethodPost && r.URL.Path == "/jobs"
	if err != nil {
		m.count.broken.Add(1)
		if submits {
			m.count.resubmitted.Add(1)
		}
		return nil, err
	}
	if resp.StatusCode >= 500 {
		m.count.refused(resp.StatusCode)
	}
	again := resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
	if submits && again {
		m.count.resubmitted.Add(1)
	}
	if r.Header.Get("Last-Event-ID") != "" && resp.StatusCode == http.StatusOK {
		m.count.resumed.Add(1)
	}
	if r.Header.Get("Accept") != "text/event-stream" { // clients cut streams themselves
		resp.Body = &answer{resp.Body, func() {
			m.count.broken.Add(1)
			if submits {
				m.count.resubmitted.Add(1)
			}
		}}
	}
	return resp, nil
}

// answer is the body of an answer. It calls broken if it breaks off.
type answer struct {
	io.ReadCloser
	broken func()
}

func (a *answer) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		a.broken()
	}
	return n, err
}

// The ways of following a job.
var modes = []string{"poll", "pieces", "sse", "sse", "wait"}

// do submits a request and follows its job to the end, with as many calls as that
// takes. It returns what it has seen, also when ctx ends first.
func (u *user) do(ctx context.Context, key string, n int, r request) (observation, error) {
	o := observation{request: n, mode: modes[n%len(modes)]}
	job, err := u.submit(ctx, o.mode, key, r)
	if err != nil {
		return o, err
	}
	o.job = job.ID
	o.see(job)
	u.count.accepted.Add(1)
	switch o.mode {
	case "sse":
		err = u.follow(ctx, &o)
	case "pieces":
		err = u.collect(ctx, &o)
	default:
		err = u.poll(ctx, &o, job)
	}
	if err == nil {
		u.count.followed.Add(1)
	}
	return o, err
}

// submit submits a request. A client of the mode wait waits some seconds for the text.
func (u *user) submit(ctx context.Context, mode, key string, r request) (*client.Job, error) {
	submit := client.JobRequest{
		Prompt: r.Prompt, MaxNewTokens: r.MaxNewTokens, Stop: r.Stop,
		Temperature: &r.Temperature, TopK: &r.TopK, TopP: r.TopP, Seed: &r.Seed,
		Key: key,
	}
	if mode == "wait" {
		const longest = 5
		submit.Wait = time.Duration(1+rand.IntN(longest)) * time.Second
	}
	return u.Submit(ctx, submit)
}

// poll polls the job until it has ended.
func (u *user) poll(ctx context.Context, o *observation, job *client.Job) error {
	for !job.State.Final() {
		if err := sleep(ctx, pause()); err != nil {
			return err
		}
		changed, err := u.Poll(ctx, job)
		if err != nil {
			return fmt.Errorf("poll a job that was accepted: %w", err)
		}
		if changed {
			o.see(job)
		}
	}
	return nil
}

// collect polls for new events until the last one.
func (u *user) collect(ctx context.Context, o *observation) error {
	for {
		more, err := u.Events(ctx, o.job, o.last())
		if err != nil {
			return fmt.Errorf("read the events of a job that was accepted: %w", err)
		}
		for _, e := range more {
			o.hear(e)
		}
		if o.ended() {
			return nil
		}
		if err := sleep(ctx, pause()); err != nil {
			return err
		}
	}
}

// follow reads the job's stream to its last event. Now and then it cuts the
// connection itself.
func (u *user) follow(ctx context.Context, o *observation) error {
	for !o.ended() {
		most := -1 // events
		if rand.IntN(3) == 0 {
			most = 1 + rand.IntN(6)
		}
		for e, err := range u.Follow(ctx, o.job, o.last()) {
			if err != nil {
				return fmt.Errorf("follow a job that was accepted: %w", err)
			}
			o.hear(e)
			if most--; most == 0 {
				break
			}
		}
	}
	return nil
}

// pause is how long a client waits between two calls.
func pause() time.Duration { return 50*time.Millisecond + rand.N(250*time.Millisecond) }

// see keeps a job resource that the client received.
func (o *observation) see(j *client.Job) {
	o.snapshots = append(o.snapshots, snapshot{j.Version, string(j.State), j.Completion, j.FinishReason})
}

// hear keeps an event that the client received.
func (o *observation) hear(e client.Event) {
	o.events = append(o.events, event{
		Version: e.Version, Type: e.Type, Attempt: e.Attempt, FromToken: e.FromToken,
		Tokens: e.Tokens, Text: e.Text, FinishReason: e.FinishReason, Final: e.Final,
	})
}

// last is the version of the last event that was seen.
func (o *observation) last() int {
	if len(o.events) == 0 {
		return 0
	}
	return o.events[len(o.events)-1].Version
}

// ended reports whether the last event of the job has been seen.
func (o *observation) ended() bool { return slices.ContainsFunc(o.events, event.final) }
