package auth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"colophon/internal/auth"
	"colophon/test/apitest"
)

// TestRotationUnderLoadFailsNoRequest rotates the keys while clients sign in, refresh and
// send requests to two processes. No request may fail. The environment variable
// COLOPHON_TEST_ROTATIONS sets the number of rotations.
func TestRotationUnderLoadFailsNoRequest(t *testing.T) {
	t.Parallel()
	rotations := 3
	if text := os.Getenv("COLOPHON_TEST_ROTATIONS"); text != "" {
		var err error
		if rotations, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	f := auth.NewFixture(t)
	f.MustRegister(t)
	log := slog.New(slog.DiscardHandler)
	var clients [2]apitest.Client
	var services [2]*auth.Service
	for i := range clients {
		s, store := f.Process(t, true)
		services[i], clients[i] = s, newClient(t, serve(t, f, s, store, log))
	}
	var requests, failures atomic.Int64
	ask := func(ctx context.Context, method, path, body, authorization string) []byte {
		a, err := call(clients[rand.IntN(len(clients))], method, path, body, authorization)
		requests.Add(1)
		if ctx.Err() == nil && (err != nil || a.Status != http.StatusOK) {
			failures.Add(1)
			t.Errorf("%s %s: %d %s %v", method, path, a.Status, a.Body, err)
		}
		return a.Body
	}
	ctx, done := context.WithCancel(t.Context())
	defer done()
	signed := make(chan string, 1000) // the ids of the keys that signed the access tokens, in order
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				var now apitest.Tokens
				_ = json.Unmarshal(ask(ctx, "POST", "/token", url.Values{"username": {auth.Name}, "password": {auth.Password}}.Encode(), ""), &now)
				for range 5 {
					for range 3 {
						ask(ctx, "GET", "/history", "", "Bearer "+now.Access)
					}
					ask(ctx, "GET", "/.well-known/jwks.json", "", "")
					if ctx.Err() != nil || now.Access == "" {
						return
					}
					signed <- auth.KID(apitest.Beside(t), now.Access)
					refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {now.Refresh}}.Encode()
					_ = json.Unmarshal(ask(ctx, "POST", "/token", refresh, ""), &now)
					time.Sleep(20 * time.Millisecond) // leave processor time for the tests of other packages
				}
			}
		})
	}
	go func() { wg.Wait(); close(signed) }()
	seen := map[string]bool{}
	for kid := range signed { // waits for more than 50 requests before the first rotation
		seen[kid] = true
		if requests.Load() > 50 {
			break
		}
	}
	for i := range rotations {
		r, err := services[i%2].Rotate(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for kid := range signed { // waits until the new key signs
			if seen[kid] = true; kid == r.Key {
				break
			}
		}
	}
	for range 100 { // waits until all clients have tokens of the last key
		seen[<-signed] = true
	}
	done()
	for kid := range signed {
		seen[kid] = true
	}
	if len(seen) != rotations+1 {
		t.Errorf("%d keys have signed, want %d", len(seen), rotations+1)
	}
	t.Logf("%d requests, %d rotations, %d failures", requests.Load(), rotations, failures.Load())
}

// TestStreamEndsWithItsSession ends sessions in one process while the streams and waiting
// requests of these sessions are open in another process. The streams and requests must
// end too.
//
// security: ASVS 7.4.1, ASVS 8.3.2
func TestStreamEndsWithItsSession(t *testing.T) {
	t.Parallel()
	f := auth.NewFixture(t)
	f.MustRegister(t)
	log := slog.New(slog.DiscardHandler)
	s, store := f.Process(t, true)
	here := newClient(t, serve(t, f, s, store, log))
	s, store = f.Process(t, true)
	there := newClient(t, serve(t, f, s, store, log))
	for what, end := range map[string]func(t *testing.T, user string, tokens auth.Tokens){
		"signed-out": func(t *testing.T, _ string, tokens auth.Tokens) {
			here.Form("/revoke", "token", tokens.RefreshToken).Must(t, http.StatusOK)
		},
		"disabled": func(t *testing.T, user string, _ auth.Tokens) {
			f.Exec(t, `update accounts set disabled_at = now() where username = $1`, user)
		},
		"erased": func(t *testing.T, _ string, tokens auth.Tokens) {
			here.As(tokens.AccessToken).Do("DELETE", "/users/me", fmt.Sprintf(`{"password":%q}`, auth.Password)).Must(t, http.StatusNoContent)
		},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := f.Register(t.Context(), what, auth.Password); err != nil {
				t.Fatal(err)
			}
			tokens, err := f.SignIn(t.Context(), what, auth.Password)
			if err != nil {
				t.Fatal(err)
			}
			user := there.As(tokens.AccessToken)
			user.T = t
			const body = `{"prompt":"The nature of light"}`
			job := user.Submit(body)
			next, stop := iter.Pull2(user.Stream(t.Context(), "/jobs/"+job+"/events"))
			defer stop()
			for accepted := false; !accepted; {
				m, err, ok := next()
				if !ok || err != nil {
					t.Fatalf("the stream ends without an event: %v", err)
				}
				accepted = m.Event == "job.accepted" // before it, there is a comment
			}
			waits := make(chan apitest.Answer, 1)
			go func() {
				a, err := user.Send(t.Context(), "POST", "/generate", body)
				if err != nil {
					t.Error(err)
				}
				waits <- a
			}()
			deadline := time.Now().Add(time.Minute)
			for n := 0; n < 2; time.Sleep(5 * time.Millisecond) { // waits until the second job exists
				if time.Now().After(deadline) {
					t.Fatal("the waiting request has created no job")
				}
				if err := f.DB().Owner.QueryRow(t.Context(), `select count(*) from history where created_at >= (select created_at from history where job = $1)`, job).Scan(&n); err != nil {
					t.Fatal(err)
				}
			}
			end(t, what, tokens)
			begin := time.Now()
			for m, err, ok := next(); ok; m, err, ok = next() {
				if err != nil || m.Retry != "" {
					t.Errorf("%+v, %v", m, err)
				}
			}
			// An erasure ends the session and the account's jobs. Either may end first.
			if a := <-waits; a.Code() != "invalid_access_token" && (what != "erased" || a.Code() != "job_cancelled") {
				t.Errorf("the waiting request is answered %d %s", a.Status, a.Body)
			}
			took := time.Since(begin)
			t.Logf("both ended after %v", took)
			if took > 8*time.Second { // this usually takes less than 1 s, and a heartbeat would come only after 10 s
				t.Errorf("the stream and the waiting request lasted %v", took)
			}
			state, want := "", "queued"
			if what == "erased" {
				want = "cancelled"
			}
			if err := f.DB().Owner.QueryRow(t.Context(), `select state from history order by job desc limit 1`).Scan(&state); err != nil || state != want {
				t.Errorf("the waiting request's job is %s, want %s, %v", state, want, err)
			}
		})
	}
}
