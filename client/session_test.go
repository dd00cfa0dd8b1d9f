package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sessions is a fake service with accounts and tokens. The n-th pair of tokens is a<n>
// and r<n>. Only the latest pair is valid.
type sessions struct {
	*service
	mu      sync.Mutex
	n       int
	refused int // number of requests with a wrong access token
}

func newSessions(t *testing.T) *sessions {
	s := &sessions{service: newService(t)}
	s.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != `{"password":"opticks-1704","username":"isaac"}` || r.Header.Get("Authorization") != "" {
			t.Errorf("registers with %s and %v", body, r.Header)
		}
		text(`{"id":"u","username":"isaac"}`)(w, r)
	})
	s.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		latest := fmt.Sprintf("r%d", s.n)
		switch {
		case r.Header.Get("Authorization") != "":
			t.Errorf("a request for tokens with %v", r.Header)
		case r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") != latest:
			problem(401, "invalid_refresh_token")(w, r)
		case r.FormValue("grant_type") == "password" && r.FormValue("username")+r.FormValue("password") != "isaacopticks-1704":
			problem(401, "invalid_credentials")(w, r)
		default:
			s.n++
			fmt.Fprintf(w, `{"access_token":"a%d","refresh_token":"r%d","token_type":"bearer","expires_in":900}`, s.n, s.n)
		}
	})
	s.HandleFunc("GET /x", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer a%d", s.n) {
			s.refused++
			problem(401, "invalid_access_token")(w, r)
		}
	})
	return s
}

// expire makes all tokens invalid.
func (s *sessions) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += 100
}

// expireAccess makes the client's access token invalid. The refresh token stays valid.
func (s *sessions) expireAccess(c *Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session.tokens.Access = "expired"
}

func code(err error) string {
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		return fmt.Sprint(err)
	}
	return p.Code
}

func (s *sessions) get(c *Client) error {
	_, err := c.Do(s.t.Context(), &Request{Path: "/x"})
	return err
}

func TestSessionIsRenewedAndSignedInAgain(t *testing.T) {
	s := newSessions(t)
	c := s.over(Options{})
	if got := code(s.get(c)); got != "invalid_access_token" {
		t.Errorf("without a user: %s", got)
	}
	account, err := c.Register(t.Context(), "isaac", "opticks-1704")
	if err != nil || *account != (Account{"u", "isaac"}) {
		t.Errorf("%+v, %v", account, err)
	}
	if got := code(c.SignIn(t.Context(), "isaac", "wrong")); got != "invalid_credentials" || c.Tokens() != (Tokens{}) {
		t.Errorf("a wrong password: %s, and %+v", got, c.Tokens())
	}
	if err := c.SignIn(t.Context(), "isaac", "opticks-1704"); err != nil || c.Tokens() != (Tokens{"a1", "r1"}) {
		t.Fatalf("%v, %+v", err, c.Tokens())
	}
	if err := s.get(c); err != nil {
		t.Error(err)
	}
	// After the access token expires, the client must refresh it.
	s.expireAccess(c)
	if err := s.get(c); err != nil || c.Tokens() != (Tokens{"a2", "r2"}) {
		t.Errorf("%v, %+v", err, c.Tokens())
	}
	// After the session ends, the client must sign in again.
	s.expire()
	if err := s.get(c); err != nil || c.Tokens() != (Tokens{"a103", "r103"}) {
		t.Errorf("%v, %+v", err, c.Tokens())
	}
	// A wrong password must change nothing.
	if got := code(c.SignIn(t.Context(), "isaac", "wrong")); got != "invalid_credentials" || c.Tokens().Access != "a103" {
		t.Errorf("a wrong password: %s, and %+v", got, c.Tokens())
	}
}

// TestTokensContinueAnEarlierSession continues a session with a refresh token alone. When
// the service refuses this token, the call must fail, because the client has no password.
func TestTokensContinueAnEarlierSession(t *testing.T) {
	s := newSessions(t)
	s.n = 7
	c := s.client(Options{Tokens: Tokens{Refresh: "r7"}})
	if err := s.get(c); err != nil || c.Tokens() != (Tokens{"a8", "r8"}) {
		t.Errorf("%v, %+v", err, c.Tokens())
	}
	if s.refused != 0 {
		t.Errorf("%d requests without an access token", s.refused)
	}
	s.expire()
	if err := s.get(c); code(err) != "invalid_refresh_token" || !strings.HasPrefix(err.Error(), "GET /x: POST /token: 401 ") {
		t.Errorf("%v", err)
	}
	// An access token alone must work until it expires.
	c = s.client(Options{Tokens: Tokens{Access: "a108"}})
	if err := s.get(c); err != nil {
		t.Error(err)
	}
	s.expire()
	if got := code(s.get(c)); got != "invalid_access_token" {
		t.Error(got)
	}
}

// TestConcurrentCallsShareARenewal makes many calls with an expired access token. The
// calls must share one request for a new token.
func TestConcurrentCallsShareARenewal(t *testing.T) {
	s := newSessions(t)
	c := s.over(Options{})
	if err := c.SignIn(t.Context(), "isaac", "opticks-1704"); err != nil {
		t.Fatal(err)
	}
	s.expireAccess(c)
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			if err := s.get(c); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if s.n != 2 {
		t.Errorf("%d pairs of tokens, want 2", s.n)
	}
}

// TestRenewalOutlivesItsCaller cancels the call that began a renewal. Another waiting
// call must get the new tokens.
func TestRenewalOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			text(`{"access_token":"a","refresh_token":"r"}`)(w, r)
		})
		s.answers("GET /x", text(""))
		c := s.client(Options{Tokens: Tokens{Refresh: "old"}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		other := make(chan error)
		go func() {
			time.Sleep(time.Second / 4)
			_, err := c.Do(t.Context(), &Request{Path: "/x"})
			other <- err
		}()
		if _, err := c.Do(ctx, &Request{Path: "/x"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if err := <-other; err != nil || len(s.requests()) != 2 || c.Tokens() != (Tokens{"a", "r"}) {
			t.Errorf("%v after %d requests, %+v", err, len(s.requests()), c.Tokens())
		}
	})
}

// TestRenewalIsRetried loses the answer to a request for new tokens. The call that waits
// for the tokens must retry with the same refresh token.
func TestRenewalIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("POST /token", abort, problem(503, "busy", "Retry-After", "1"), text(`{"access_token":"a","refresh_token":"r"}`))
		s.answers("GET /x", text(""))
		c := s.client(Options{Tokens: Tokens{Refresh: "old"}})
		if _, err := c.Do(t.Context(), &Request{Path: "/x"}); err != nil || c.Tokens() != (Tokens{"a", "r"}) {
			t.Errorf("%v, %+v", err, c.Tokens())
		}
	})
}

// TestSignInDuringRenewalReplacesTheUser signs in as a second user during a renewal for
// the first user. A renewal for the second user must not wait for that of the first.
func TestSignInDuringRenewalReplacesTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("refresh_token") == "old" {
				time.Sleep(time.Second)
			}
			fmt.Fprintf(w, `{"access_token":"%s %s","refresh_token":"r"}`, r.FormValue("grant_type"), r.FormValue("username"))
		})
		s.HandleFunc("GET /x", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer password isaac" {
				problem(401, "invalid_access_token")(w, r)
			}
		})
		c := s.client(Options{Tokens: Tokens{Refresh: "old"}})
		first := make(chan error)
		go func() {
			_, err := c.Do(t.Context(), &Request{Path: "/x"})
			first <- err
		}()
		synctest.Wait()
		begin := time.Now()
		if err := c.SignIn(t.Context(), "isaac", "opticks-1704"); err != nil {
			t.Error(err)
		}
		_, err := c.Do(t.Context(), &Request{Path: "/x"})
		if took := time.Since(begin); err != nil || took != 0 {
			t.Errorf("%v after %s", err, took)
		}
		if err := <-first; err != nil || c.Tokens() != (Tokens{"refresh_token ", "r"}) || len(s.requests()) != 6 {
			t.Errorf("%v, %+v after %d requests", err, c.Tokens(), len(s.requests()))
		}
	})
}

func TestAnswersWithoutATokenAreErrors(t *testing.T) {
	for _, body := range []string{"", "<html>", "{}", `{"access_token":1}`} {
		s := newService(t)
		s.answers("POST /token", text(body))
		if err := s.client(Options{}).SignIn(t.Context(), "isaac", "opticks-1704"); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// TestSecondRefusalIsFinal refuses an access token and then the renewed one. The call
// must fail.
func TestSecondRefusalIsFinal(t *testing.T) {
	s := newService(t)
	s.answers("POST /token", text(`{"access_token":"a","refresh_token":"r"}`))
	s.answers("GET /x", problem(401, "invalid_access_token"))
	c := s.client(Options{Tokens: Tokens{"old", "old"}})
	if _, err := c.Do(t.Context(), &Request{Path: "/x"}); code(err) != "invalid_access_token" || len(s.requests()) != 3 {
		t.Errorf("%v after %d requests", err, len(s.requests()))
	}
}
