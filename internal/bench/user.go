package bench

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"colophon/client"
)

// user is a signed-in user of the service. It is safe for concurrent use. Calls are not
// retried. An error ends the benchmark.
type user struct{ *client.Client }

const (
	userName = "bench"
	password = "measured-and-weighed"
)

// newUser registers a user and signs them in. The user keeps up to the given number of
// connections open.
func newUser(ctx context.Context, url string, connections int) (user, error) {
	c, err := client.New(url, client.Options{Tries: 1,
		Transport: &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections}})
	if err != nil {
		return user{}, err
	}
	if _, err := c.Register(ctx, userName, password); err != nil {
		return user{}, err
	}
	return user{c}, c.SignIn(ctx, userName, password)
}

// tokenRequest returns a sign-in request whose tokens the client does not store.
func tokenRequest() *client.Request {
	form := url.Values{"username": {userName}, "password": {password}}
	return &client.Request{Method: http.MethodPost, Path: "/token",
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, Body: []byte(form.Encode())}
}

// submit returns the id of a new job.
func (u user) submit(ctx context.Context, r client.JobRequest) (string, error) {
	job, err := u.Submit(ctx, r)
	if err != nil {
		return "", err
	}
	return job.ID, nil
}

// follow calls f for each event of a job, including the last event. It returns an error
// unless the job completes.
func (u user) follow(ctx context.Context, id string, f func(client.Event)) error {
	var last client.Event
	for e, err := range u.Follow(ctx, id, 0) {
		if err != nil {
			return err
		}
		f(e)
		last = e
	}
	if last.Type != client.JobCompleted {
		return fmt.Errorf("job %s ended with %s %s", id, last.Type, last.Reason)
	}
	return nil
}
