package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// patience is how long a client waits for an answer that is due at once.
const patience = 6 * time.Second

// user is an account whose jobs clients submit and follow. It is safe for
// concurrent use.
type user struct {
	name  string
	bases []string // of all API processes
	http  *http.Client
	count *counters

	mu     sync.Mutex
	access string // access token; empty: sign in first
}

const password = "chaos-and-old-night"

// errAnswer is an answer that no client should get, whatever happens to the
// service.
var errAnswer = errors.New("an answer that should not be")

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// base is the way to some API process; which one is up is found out by asking.
func (u *user) base() string { return u.bases[rand.IntN(len(u.bases))] }

// send sends a request to some API process and reads the answer.
func (u *user) send(ctx context.Context, within time.Duration, method, path, media string, body []byte, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, u.base()+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", media)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := u.http.Do(req)
	if err != nil {
		u.count.broken.Add(1)
		return answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		u.count.broken.Add(1)
		return answer{}, err
	}
	if resp.StatusCode >= 500 {
		u.count.refused(resp.StatusCode)
	}
	return answer{resp.StatusCode, resp.Header, got}, nil
}

// persist calls try until it says that it is done, with pauses in between.
func persist(ctx context.Context, try func() (done bool, pause time.Duration, err error)) error {
	for {
		done, pause, err := try()
		if done || err != nil {
			return err
		}
		if err := sleep(ctx, max(pause, 50*time.Millisecond+rand.N(250*time.Millisecond))); err != nil {
			return err
		}
	}
}

// pause is how long an answer asks to wait.
func (a answer) pause() time.Duration {
	seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
	return min(time.Duration(seconds)*time.Second, 5*time.Second)
}

// later reports whether an answer means that the same request may do better later.
func (a answer) later() bool {
	return a.status >= 500 || a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout
}

func (a answer) unexpected(what string) error {
	return fmt.Errorf("%w: %s was answered %d %s", errAnswer, what, a.status, quote(string(a.body)))
}

// register makes the account.
func (u *user) register(ctx context.Context) error {
	body := fmt.Appendf(nil, `{"username":%q,"password":%q}`, u.name, password)
	return persist(ctx, func() (bool, time.Duration, error) {
		a, err := u.send(ctx, patience, "POST", "/users", "application/json", body)
		switch {
		case err != nil:
			return false, 0, ctx.Err()
		case a.later():
			return false, a.pause(), nil
		case a.status == http.StatusOK, a.status == http.StatusConflict: // by an answer that was lost
			return true, 0, nil
		}
		return false, 0, a.unexpected("POST /users")
	})
}

// token returns an access token, a new one if the last one was old.
func (u *user) token(ctx context.Context, old string) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.access != old {
		return u.access, nil
	}
	form := url.Values{"username": {u.name}, "password": {password}}.Encode()
	err := persist(ctx, func() (bool, time.Duration, error) {
		a, err := u.send(ctx, patience, "POST", "/token", "application/x-www-form-urlencoded", []byte(form))
		switch {
		case err != nil:
			return false, 0, ctx.Err()
		case a.later():
			return false, a.pause(), nil
		}
		var given struct {
			AccessToken string `json:"access_token"`
		}
		if json.Unmarshal(a.body, &given) != nil || given.AccessToken == "" {
			return false, 0, a.unexpected("POST /token")
		}
		u.access = given.AccessToken
		return true, 0, nil
	})
	return u.access, err
}

// ask sends a request as the user, with an access token that is valid.
func (u *user) ask(ctx context.Context, within time.Duration, method, path string, body []byte, headers ...string) (answer, error) {
	access, err := u.token(ctx, "")
	for {
		if err != nil {
			return answer{}, err
		}
		a, err := u.send(ctx, within, method, path, "application/json", body, append(headers, "Authorization", "Bearer "+access)...)
		if err != nil || a.status != http.StatusUnauthorized {
			return a, err
		}
		if access, err = u.token(ctx, access); err != nil {
			return answer{}, err
		}
	}
}

// resource is the job resource, as far as clients look at it.
type resource struct {
	ID string
	look
}

// The ways of following a job.
var modes = []string{"poll", "pieces", "sse", "sse", "wait"}

// do submits a request and follows its job to the end, whatever it takes. It
// returns what it has seen, also when ctx ends first.
func (u *user) do(ctx context.Context, key string, n int, r request) (observation, error) {
	o := observation{request: n, mode: modes[n%len(modes)]}
	if err := u.submit(ctx, &o, key, r); err != nil {
		return o, err
	}
	u.count.accepted.Add(1)
	var err error
	switch o.mode {
	case "sse":
		err = u.follow(ctx, &o)
	case "pieces":
		err = u.collect(ctx, &o)
	default:
		err = u.poll(ctx, &o)
	}
	if err == nil {
		u.count.followed.Add(1)
	}
	return o, err
}

// submit submits a request until it is accepted. A waiting client waits as long
// as it may, for the text.
func (u *user) submit(ctx context.Context, o *observation, key string, r request) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	within, headers := patience, []string{"Idempotency-Key", `"` + key + `"`}
	if o.mode == "wait" {
		const longest = 5
		seconds := 1 + rand.IntN(longest)
		within += time.Duration(seconds) * time.Second
		headers = append(headers, "Prefer", fmt.Sprintf("wait=%d", seconds))
	}
	return persist(ctx, func() (bool, time.Duration, error) {
		a, err := u.ask(ctx, within, "POST", "/jobs", body, headers...)
		switch {
		case err != nil:
			u.count.resubmitted.Add(1)
			return false, 0, ctx.Err()
		case a.later():
			u.count.resubmitted.Add(1)
			return false, a.pause(), nil
		case a.status == http.StatusConflict:
			return false, a.pause(), nil // an earlier call with the key is under way
		case a.status != http.StatusOK && a.status != http.StatusAccepted:
			return false, 0, a.unexpected("POST /jobs")
		}
		var job resource
		if json.Unmarshal(a.body, &job) != nil || job.ID == "" {
			return false, 0, a.unexpected("POST /jobs")
		}
		o.job = job.ID
		o.looks = append(o.looks, job.look)
		return true, 0, nil
	})
}

// poll looks at the job until it has ended.
func (u *user) poll(ctx context.Context, o *observation) error {
	if over(o.looks[0].State) {
		return nil
	}
	etag := ""
	return persist(ctx, func() (bool, time.Duration, error) {
		var headers []string
		if etag != "" {
			headers = []string{"If-None-Match", etag}
		}
		a, err := u.ask(ctx, patience, "GET", "/jobs/"+o.job, nil, headers...)
		switch {
		case err != nil:
			return false, 0, ctx.Err()
		case a.later(), a.status == http.StatusNotModified:
			return false, 0, nil
		case a.status != http.StatusOK:
			return false, 0, a.unexpected("GET of a job that was accepted")
		}
		var job resource
		if err := json.Unmarshal(a.body, &job); err != nil {
			return false, 0, a.unexpected("GET of a job that was accepted")
		}
		etag = a.header.Get("ETag")
		o.looks = append(o.looks, job.look)
		return over(job.State), 0, nil
	})
}

// collect reads the events that are new until the last one.
func (u *user) collect(ctx context.Context, o *observation) error {
	return persist(ctx, func() (bool, time.Duration, error) {
		path := fmt.Sprintf("/jobs/%s/events?after=%d", o.job, o.last())
		a, err := u.ask(ctx, patience, "GET", path, nil)
		switch {
		case err != nil:
			return false, 0, ctx.Err()
		case a.later():
			return false, 0, nil
		case a.status != http.StatusOK:
			return false, 0, a.unexpected("GET of the events of a job that was accepted")
		}
		var more []event
		if err := json.Unmarshal(a.body, &more); err != nil {
			return false, 0, a.unexpected("GET of the events of a job that was accepted")
		}
		o.events = append(o.events, more...)
		return o.ended(), 0, nil
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
