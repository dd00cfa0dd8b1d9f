package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestNewAcceptsOnlyAbsoluteHTTPURLs(t *testing.T) {
	for _, good := range []string{"http://127.0.0.1:8000", "https://colophon.example", "https://colophon.example/under/"} {
		if _, err := New(good, Options{}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "colophon.example", "ftp://colophon.example", "http://", "http://a b", "https://colophon.example?x=1", "https://colophon.example/#x"} {
		if c, err := New(bad, Options{}); err == nil {
			t.Errorf("%q: %+v", bad, c)
		}
	}
	if _, err := New("ftp://isaac:secret@colophon.example", Options{}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// TestTemporaryFailuresAreRetried answers the first try with each kind of temporary
// failure. The client must try again with the same idempotency key, and that try must
// succeed.
func TestTemporaryFailuresAreRetried(t *testing.T) {
	for name, test := range map[string]struct {
		first http.HandlerFunc
		after time.Duration // the shortest time that the call may take; the longest is firstPause more
	}{
		"connection":     {abort, firstPause / 2},
		"half an answer": {half, firstPause / 2},
		"408":            {problem(408, "timeout"), firstPause / 2},
		"429":            {problem(429, "too_many_requests", "Retry-After", "7"), 7 * time.Second},
		"429, a minute":  {problem(429, "too_many_requests", "Retry-After", "60"), time.Minute},
		"in flight":      {problem(409, codeKeyInFlight, "Retry-After", "1"), time.Second},
		"500":            {problem(500, "internal"), firstPause / 2},
		"503":            {problem(503, "unavailable", "Retry-After", "2"), 2 * time.Second},
		"a proxy's 502":  {status(502, "<html>"), firstPause / 2},
		"silence":        {hang, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t)
				var mu sync.Mutex // the first handler may still run during the second try
				var bodies []string
				read := func(next http.HandlerFunc) http.HandlerFunc {
					return func(w http.ResponseWriter, r *http.Request) {
						body, _ := io.ReadAll(r.Body)
						mu.Lock()
						bodies = append(bodies, string(body))
						mu.Unlock()
						next(w, r)
					}
				}
				s.answers("POST /jobs", read(test.first), read(status(202, `{"id":"j"}`, "X-Last", "yes")))
				begin := time.Now()
				resp, err := s.client(Options{Timeout: 4 * time.Second}).Do(t.Context(), &Request{Method: "POST", Path: "/jobs", Body: []byte(`{"prompt":"p"}`)})
				if err != nil || resp.Status != 202 || string(resp.Body) != `{"id":"j"}` || resp.Header.Get("X-Last") != "yes" {
					t.Fatalf("%+v, %v", resp, err)
				}
				if took := time.Since(begin); took < test.after || took > test.after+firstPause {
					t.Errorf("it took %s", took)
				}
				if !slices.Equal(bodies, []string{`{"prompt":"p"}`, `{"prompt":"p"}`}) {
					t.Errorf("bodies %q", bodies)
				}
				seen := s.requests()
				first, second := seen[0].Header.Get("Idempotency-Key"), seen[1].Header.Get("Idempotency-Key")
				if len(seen) != 2 || first != second || len(first) < 20 {
					t.Errorf("%d requests with the keys %q, %q", len(seen), first, second)
				}
				if media := seen[1].Header.Get("Content-Type"); media != "application/json" {
					t.Errorf("Content-Type %q", media)
				}
			})
		})
	}
}

// half breaks the connection in the middle of an answer.
func half(w http.ResponseWriter, _ *http.Request) {
	io.WriteString(w, `{"id":`)
	panic(http.ErrAbortHandler)
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// TestFinalAnswersAreNotRetried answers with errors that a retry would not change. The
// client must send each request once.
func TestFinalAnswersAreNotRetried(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   error // ErrProtocol, or nil if the error must be a problem with the code
		code   string
	}{
		"400":                {problem(400, "invalid_request"), nil, "invalid_request"},
		"401":                {problem(401, "missing_access_token"), nil, "missing_access_token"},
		"404":                {problem(404, "not_found"), nil, "not_found"},
		"409":                {problem(409, "username_taken"), nil, "username_taken"},
		"a cancelled job":    {problem(409, CodeJobCancelled), nil, CodeJobCancelled},
		"a failed job":       {problem(500, CodeJobFailed), nil, CodeJobFailed},
		"422":                {problem(422, "no_room"), nil, "no_room"},
		"429 until midnight": {problem(429, "token_budget_spent", "Retry-After", "61"), nil, "token_budget_spent"},
		"a redirect":         {status(308, "", "Location", "https://elsewhere.example/"), ErrProtocol, ""},
		"too much":           {func(w http.ResponseWriter, _ *http.Request) { io.CopyN(w, zeros{}, maxAnswer+1) }, ErrProtocol, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.answers("/", test.answer)
			_, err := s.client(Options{}).Do(t.Context(), &Request{Path: "/x"})
			p, _ := errors.AsType[*Problem](err)
			if test.want != nil && !errors.Is(err, test.want) || test.want == nil && (p == nil || p.Code != test.code) {
				t.Errorf("%v", err)
			}
			if n := len(s.requests()); n != 1 || !strings.HasPrefix(err.Error(), "GET /x: ") {
				t.Errorf("%d requests: %v", n, err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestTriesAreBounded(t *testing.T) {
	for _, test := range []struct{ tries, want int }{{0, 5}, {1, 1}, {2, 2}} {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t)
			s.answers("/", problem(503, "unavailable"))
			_, err := s.client(Options{Tries: test.tries}).Do(t.Context(), &Request{Path: "/x"})
			if p, ok := errors.AsType[*Problem](err); !ok || p.Code != "unavailable" || len(s.requests()) != test.want {
				t.Errorf("%d requests: %v", len(s.requests()), err)
			}
		})
	}
}

// TestPausesDoubleUpToALimit measures the pauses between tries. The limit of a pause must
// be twice the limit of the pause before, up to lastPause.
func TestPausesDoubleUpToALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		var at []time.Time
		s.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			at = append(at, time.Now())
			abort(w, r)
		})
		s.client(Options{Tries: 20}).Do(t.Context(), &Request{Path: "/x"})
		for i := range len(at) - 1 {
			want := min(lastPause, firstPause<<i)
			if got := at[i+1].Sub(at[i]); got < want/2 || got > want {
				t.Errorf("pause %d is %s, want at most %s", i+1, got, want)
			}
		}
		if len(at) != 20 {
			t.Errorf("%d tries", len(at))
		}
	})
}

// TestSingleTryNeedsNoKey sends POSTs that are not retried. They must have no key,
// because a key costs the service a row in its database. A POST that waits for a text
// must have a key, because without a key the service cancels the job of a client that
// disconnects.
func TestSingleTryNeedsNoKey(t *testing.T) {
	s := newService(t)
	s.answers("POST /jobs", text(`{"id":"j"}`))
	c := s.client(Options{Tries: 1})
	for _, wait := range []time.Duration{0, time.Second} {
		if _, err := c.Do(t.Context(), &Request{Method: "POST", Path: "/jobs", Wait: wait}); err != nil {
			t.Fatal(err)
		}
	}
	if key, ok := s.requests()[0].Header["Idempotency-Key"]; ok {
		t.Errorf("the key %q", key)
	}
	if s.requests()[1].Header.Get("Idempotency-Key") == "" {
		t.Error("no key for a POST that waits")
	}
}

// TestContextEndsTries cancels one call that waits for an answer, and another call that
// waits for its next try. Both must return at once.
func TestContextEndsTries(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"an answer":    hang,
		"the next try": problem(503, "unavailable", "Retry-After", "60"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t)
				s.answers("/", answer)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				begin := time.Now()
				_, err := s.client(Options{}).Do(ctx, &Request{Path: "/x"})
				if !errors.Is(err, context.Canceled) || time.Since(begin) != time.Second || len(s.requests()) != 1 {
					t.Errorf("after %s and %d requests: %v", time.Since(begin), len(s.requests()), err)
				}
			})
		})
	}
}

// TestDeadlineBeforeRetryAfterReturnsAtOnce gives a call a deadline that is earlier than
// the end of Retry-After. The call must return at once, because a retry would be too
// late.
func TestDeadlineBeforeRetryAfterReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("/", problem(429, "too_many_requests", "Retry-After", "10"))
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := s.client(Options{}).Do(ctx, &Request{Path: "/x"})
		if p, ok := errors.AsType[*Problem](err); !ok || p.RetryAfter != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 0 {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
	})
}

// TestBaseIsPickedForEachTry calls two replicas, the first of which is down. The second
// try must go to the second replica.
func TestBaseIsPickedForEachTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("down.example/", abort)
		s.answers("up.example/under/x", text("here"))
		bases := []string{"http://down.example", "https://up.example/under/"}
		next := 0
		c := s.client(Options{Base: func() string { next++; return bases[(next-1)%2] }})
		resp, err := c.Do(t.Context(), &Request{Path: "/x"})
		if err != nil || string(resp.Body) != "here" {
			t.Errorf("%+v, %v", resp, err)
		}
		c.base = func() string { return ":" }
		if _, err := c.Do(t.Context(), &Request{Path: "/x"}); !errors.Is(err, errInvalid) {
			t.Errorf("%v", err)
		}
	})
}

// TestRequestsAreNotChanged sends a request whose caller has set an idempotency key and
// headers. The client must send them and must not change the caller's request.
func TestRequestsAreNotChanged(t *testing.T) {
	s := newService(t)
	s.answers("POST /x", text("{}"))
	c := s.over(Options{Tokens: Tokens{Access: "a"}})
	r := &Request{Method: "POST", Path: "/x", Header: http.Header{"Content-Type": {"text/plain"}, "Idempotency-Key": {`"mine"`}}, Body: []byte("x"), Wait: 1500 * time.Millisecond}
	if _, err := c.Do(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got := s.requests()[0].Header
	for name, want := range map[string]string{"Content-Type": "text/plain", "Idempotency-Key": `"mine"`, "Authorization": "Bearer a", "Prefer": "wait=2"} {
		if got.Get(name) != want {
			t.Errorf("%s %q, want %q", name, got.Get(name), want)
		}
	}
	if len(r.Header) != 2 {
		t.Errorf("the caller's headers are %v", r.Header)
	}
	r = &Request{Method: "POST", Path: "/x"}
	if _, err := c.Do(t.Context(), r); err != nil || r.Header != nil || s.requests()[1].Header.Get("Idempotency-Key") == "" {
		t.Errorf("%v, %v", r.Header, err)
	}
}
