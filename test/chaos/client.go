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
	// callTimeout bounds a call that the service answers at once.
	callTimeout = 6 * time.Second

	// maxTries is so large that a client can repeat a call until the run ends.
	maxTries = 1 << 30

	password = "chaos-and-old-night"
)

// user is an account. Several clients submit and follow the jobs of one user. A user is
// safe for concurrent use.
type user struct {
	*client.Client
	id    string
	count *counters
}

// newUser registers a user and signs in. Each try of a call goes to a random API process,
// which may be down.
func newUser(ctx context.Context, name string, bases []string, transport http.RoundTripper, count *counters) (*user, error) {
	c, err := client.New(bases[0], client.Options{
		Transport: meter{transport, count},
		Base:      func() string { return bases[rand.IntN(len(bases))] },
		Tries:     maxTries,
		Timeout:   callTimeout,
	})
	if err != nil {
		return nil, err
	}
	account, err := c.Register(ctx, name, password)
	if err != nil {
		return nil, err
	}
	return &user{c, account.ID, count}, c.SignIn(ctx, name, password)
}

// meter is a transport that counts failed and repeated calls.
type meter struct {
	http.RoundTripper
	count *counters
}

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
		m.count.addStatus(resp.StatusCode)
	}
	retried := resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
	if submits && retried {
		m.count.resubmitted.Add(1)
	}
	if r.Header.Get("Last-Event-ID") != "" && resp.StatusCode == http.StatusOK {
		m.count.resumed.Add(1)
	}
	if r.Header.Get("Accept") != "text/event-stream" { // the clients end streams on purpose, so a broken stream is not counted
		resp.Body = &countedBody{resp.Body, func() {
			m.count.broken.Add(1)
			if submits {
				m.count.resubmitted.Add(1)
			}
		}}
	}
	return resp, nil
}

// countedBody is the body of an answer. It calls the function broken if a read fails.
type countedBody struct {
	io.ReadCloser
	broken func()
}

func (a *countedBody) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		a.broken()
	}
	return n, err
}

// modes are the ways to follow a job. Client n uses modes[n%len(modes)].
var modes = []string{"poll", "pieces", "sse", "sse", "wait"}

// do submits a request and follows its job to the end, or until the service answers that
// the job is damaged. If do returns an error, it also returns the observation so far.
func (u *user) do(ctx context.Context, key string, n int, r request) (observation, error) {
	o := observation{request: n, mode: modes[n%len(modes)]}
	err := u.observe(ctx, key, r, &o)
	if problem, ok := errors.AsType[*client.Problem](err); ok && problem.Code == client.CodeDamaged {
		o.refused, err = true, nil
	}
	if err == nil {
		u.count.followed.Add(1)
	}
	return o, err
}

// observe submits a request and follows its job to the end.
func (u *user) observe(ctx context.Context, key string, r request, o *observation) error {
	job, err := u.submit(ctx, o.mode, key, r)
	if err != nil {
		return err
	}
	o.job = job.ID
	o.addSnapshot(job)
	u.count.accepted.Add(1)
	switch o.mode {
	case "sse":
		return u.follow(ctx, o)
	case "pieces":
		return u.pollEvents(ctx, o)
	}
	return u.poll(ctx, o, job)
}

// submit submits a request. In wait mode the service may wait 1 s to 5 s for the text before
// it answers.
func (u *user) submit(ctx context.Context, mode, key string, r request) (*client.Job, error) {
	submit := client.JobRequest{
		Prompt: r.Prompt, MaxNewTokens: r.MaxNewTokens, Stop: r.Stop,
		Temperature: &r.Temperature, TopK: &r.TopK, TopP: r.TopP, Seed: &r.Seed,
		PresencePenalty: r.PresencePenalty, RepetitionPenalty: r.RepetitionPenalty, MinTokens: r.MinTokens,
		Key: key,
	}
	if mode == "wait" {
		const longest = 5
		submit.Wait = time.Duration(1+rand.IntN(longest)) * time.Second
	}
	return u.Submit(ctx, submit)
}

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
			o.addSnapshot(job)
		}
	}
	return nil
}

// pollEvents polls for new events until it has received the final event.
func (u *user) pollEvents(ctx context.Context, o *observation) error {
	for {
		more, err := u.Events(ctx, o.job, o.lastVersion())
		if err != nil {
			return fmt.Errorf("read the events of a job that was accepted: %w", err)
		}
		for _, e := range more {
			o.addEvent(e)
		}
		if o.ended() {
			return nil
		}
		if err := sleep(ctx, pause()); err != nil {
			return err
		}
	}
}

// follow reads the job's stream to its final event. In a third of its connections, follow
// stops reading early and then resumes the stream.
func (u *user) follow(ctx context.Context, o *observation) error {
	for !o.ended() {
		limit := -1 // number of events to read on this connection; -1 means all
		if rand.IntN(3) == 0 {
			limit = 1 + rand.IntN(6)
		}
		for e, err := range u.Follow(ctx, o.job, o.lastVersion()) {
			if err != nil {
				return fmt.Errorf("follow a job that was accepted: %w", err)
			}
			o.addEvent(e)
			if limit--; limit == 0 {
				break
			}
		}
	}
	return nil
}

// pause returns a random wait between two calls.
func pause() time.Duration { return 50*time.Millisecond + rand.N(250*time.Millisecond) }

func (o *observation) addSnapshot(j *client.Job) {
	o.snapshots = append(o.snapshots, snapshot{j.Version, string(j.State), j.Completion, j.FinishReason, j.MixedKernels})
}

func (o *observation) addEvent(e client.Event) {
	o.events = append(o.events, event{
		Version: e.Version, Type: e.Type, Attempt: e.Attempt, FromToken: e.FromToken, Kernel: e.Kernel,
		Tokens: e.Tokens, Text: e.Text, FinishReason: e.FinishReason, Final: e.Final,
	})
}

// lastVersion returns the version of the last received event, or 0.
func (o *observation) lastVersion() int {
	if len(o.events) == 0 {
		return 0
	}
	return o.events[len(o.events)-1].Version
}

// ended reports whether the client has received the final event.
func (o *observation) ended() bool { return slices.ContainsFunc(o.events, event.final) }
