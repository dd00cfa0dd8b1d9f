package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/events"
	"colophon/internal/limit"
	"colophon/test/apitest"
)

// TestEachTextCounts asks for several texts with an API key and without one, with counts in
// memory and in the database. All texts of a request must count or none, and the call once.
//
// security: ASVS 2.4.1, API4:2023, LLM10:2025
func TestEachTextCounts(t *testing.T) {
	t.Parallel()
	rate := func(n uint64) limit.Rate { return limit.Rate{Requests: n, Per: time.Hour} }
	for name, limited := range map[string]func(*fixture) api.Limits{
		"memory": func(f *fixture) api.Limits {
			l := inMemory(f.T, 1000)
			for to, n := range map[**limit.Limit]uint64{&l.Keys: 15, &l.Generate: 15} {
				var err error
				if *to, err = limit.InMemory((*to).Name(), rate(n)); err != nil {
					f.T.Fatal(err)
				}
			}
			return l
		},
		"shared": func(f *fixture) api.Limits {
			l := inMemory(f.T, 1000)
			l.Keys, l.Generate = limit.Shared(f.db.App, "keys", rate(15)), limit.Shared(f.db.App, "generate", rate(15))
			l.Calls = limit.Shared(f.db.App, "calls", rate(1000))
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, withOpticks, func(f *fixture) { f.api.Limits = limited(f) })
			f.work()
			made, calls := 0, uint64(0)
			ask := func(c apitest.Client, of string, texts, status, left, most int, headers ...string) apitest.Answer {
				t.Helper()
				body := `{"model":"opticks","max_tokens":1,"prompt":["a","b","c"],"n":` + fmt.Sprint(texts/3) + `}`
				path := "/v1/completions"
				if texts < 3 {
					path, body = "/v1/chat/completions", `{"model":"opticks","max_tokens":1,"messages":[{"role":"user","content":"a"}],"n":`+fmt.Sprint(texts)+`}`
				}
				if texts == 1 {
					path, body = "/v1/responses", `{"model":"opticks","max_output_tokens":1,"input":"a"}`
				}
				a := c.Do("POST", path, body, headers...)
				if a.Status != status || !strings.HasPrefix(a.Header.Get("RateLimit"), fmt.Sprintf(`%q;r=%d;t=`, of, left)) || a.Header.Get("RateLimit-Policy") != fmt.Sprintf(`%q;q=%d;w=3600`, of, most) {
					t.Errorf("%d texts: %d %s %v; want %d, and %d of %d left", texts, a.Status, a.Body, a.Header, status, left, most)
				}
				if calls++; status == 200 {
					made += texts
				}
				return a
			}
			key := f.As(createKey(f.Client, `{"name":"plain"}`).Key)
			own := f.As(createKey(f.Client, `{"name":"own","generations_per_minute":1}`).Key) // 60 an hour, more than the service allows
			ask(key, "keys", 6, 200, 9, 15)
			ask(key, "keys", 2, 200, 7, 15)
			ask(key, "keys", 1, 200, 6, 15)
			refused := ask(key, "keys", 9, 429, 6, 15)
			if refused.Refused(t, 429, "rate_limit_exceeded"); refused.Header.Get("Retry-After") == "" || refused.Header.Get("X-Should-Retry") != "false" {
				t.Errorf("%v: an hour is too long to wait for", refused.Header)
			}
			ask(key, "keys", 6, 200, 0, 15, "Idempotency-Key", "k")
			ask(key, "keys", 1, 429, 0, 15)
			// A repetition makes no text, so it counts as a call alone.
			if a := key.Do("POST", "/v1/completions", `{"model":"opticks","max_tokens":1,"prompt":["a","b","c"],"n":2}`, "Idempotency-Key", "k").Must(t, 200); !strings.HasPrefix(a.Header.Get("RateLimit"), `"calls";`) {
				t.Errorf("%v", a.Header)
			}
			calls++
			ask(own, "keys", 18, 400, 15, 15).Refused(t, 400, "over_rate_limit")
			ask(f.Client, "generate", 12, 200, 3, 15)
			calls-- // not a call with a key
			ask(f.Client, "generate", 6, 429, 3, 15)
			calls--
			if a := key.Do("POST", "/v1/completions", `{"model":"opticks"}`).Must(t, 400); !strings.HasPrefix(a.Header.Get("RateLimit"), fmt.Sprintf(`"calls";r=%d;`, 1000-calls-1)) {
				t.Errorf("%v after %d calls", a.Header, calls)
			}
			f.newest(made)
		})
	}
}

// TestKeysOwnLimitCountsTexts gives a key a limit below that of the service.
func TestKeysOwnLimitCountsTexts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks, func(f *fixture) {
		f.api.Limits = inMemory(f.T, 1000)
		f.api.Limits.Keys = limit.Shared(f.db.App, "keys", limit.Rate{Requests: 20, Per: time.Minute})
	})
	f.work()
	own := f.As(createKey(f.Client, `{"name":"own","generations_per_minute":5}`).Key)
	const three, two = `{"model":"opticks","max_tokens":1,"prompt":["a","b","c"]}`, `{"model":"opticks","max_tokens":1,"prompt":["a","b"]}`
	own.Do("POST", "/v1/completions", three).Must(t, 200)
	own.Do("POST", "/v1/completions", three).Refused(t, 429, "rate_limit_exceeded")
	if a := own.Do("POST", "/v1/completions", two).Must(t, 200); !strings.HasPrefix(a.Header.Get("RateLimit"), `"keys";r=0;`) || a.Header.Get("RateLimit-Policy") != `"keys";q=5;w=60` {
		t.Errorf("%v", a.Header)
	}
	own.Do("POST", "/jobs", `{"prompt":"a"}`).Refused(t, 429, "rate_limit_exceeded")
	f.newest(5)
}

// waitingRequests are requests of all of OpenAI's operations that wait for a text.
var waitingRequests = map[string]string{
	"/v1/completions":      `{"model":"fake","prompt":"light"}`,
	"/v1/chat/completions": `{"model":"fake","messages":[{"role":"user","content":"light"}],"n":2}`,
	"/v1/responses":        `{"model":"fake","input":"light"}`,
}

// TestWaitsForTextsEnd waits for texts that no worker generates. The wait must end with a
// problem. Without an Idempotency-Key, the jobs must end too.
//
// security: API4:2023
func TestWaitsForTextsEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.TextsTimeout(100 * time.Millisecond) })
	for path, body := range waitingRequests {
		for key, want := range map[string]struct {
			retry, again string
			state        events.State
		}{"": {"false", "5", events.Cancelled}, "a-key": {"true", "1", events.Queued}} {
			var headers []string
			if key != "" {
				headers = []string{"Idempotency-Key", key}
			}
			a := f.Do("POST", path, body, headers...)
			if a.Refused(t, 503, "wait_over"); a.Header.Get("X-Should-Retry") != want.retry || a.Header.Get("Retry-After") != want.again {
				t.Errorf("%s: %v", path, a.Header)
			}
			rows, err := f.db.Owner.Query(t.Context(), `select job from history order by job desc limit $1`, 1+strings.Count(body, `"n":2`))
			if err != nil {
				t.Fatal(err)
			}
			var ids []uuid.UUID
			for rows.Next() {
				var id uuid.UUID
				if err := rows.Scan(&id); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
			for _, id := range ids {
				if j, err := f.store.Job(t.Context(), id); err != nil || j.State != want.state || want.state == events.Cancelled && j.Reason != "the wait for the text is over" {
					t.Errorf("%s with %q: %s %q, %v", path, key, j.State, j.Reason, err)
				}
			}
		}
	}
}

// TestWaitsCountAsStreams opens as many waits as an account may have streams. Another one must
// be refused and make no job. When a client leaves, there must be room again.
//
// security: API4:2023
func TestWaitsCountAsStreams(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.MaxStreams, f.api.MaxAllStreams = 1, 2 })
	_, other := f.user("somebody-else")
	jobs := 0
	for path, body := range waitingRequests {
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- f.leaving(ctx, path, body) }()
		jobs += 1 + strings.Count(body, `"n":2`)
		f.newest(jobs)
		for path, body := range waitingRequests {
			f.Do("POST", path, body).Refused(t, 429, "too_many_streams")
			f.Do("POST", path, body[:len(body)-1]+`,"stream":true}`).Refused(t, 429, "too_many_streams")
		}
		f.Do("POST", "/v1/responses", `{"model":"fake","input":"light","background":true}`).Must(t, 200)
		jobs++
		f.newest(jobs)
		leave()
		if err := <-gone; err == nil {
			t.Errorf("%s: answered", path)
		}
	}
	// Two accounts fill the service.
	var leaves []context.CancelFunc
	gone := make(chan error, 2)
	for _, access := range []string{f.Access, other} {
		ctx, leave := context.WithCancel(t.Context())
		leaves = append(leaves, leave)
		go func() {
			_, err := f.As(access).Send(ctx, "POST", "/v1/completions", waitingRequests["/v1/completions"])
			gone <- err
		}()
		jobs++
		f.newest(jobs)
	}
	_, third := f.user("a-third")
	f.As(third).Do("POST", "/v1/completions", waitingRequests["/v1/completions"]).Refused(t, 503, "streams_full")
	for _, leave := range leaves {
		leave()
		if err := <-gone; err == nil {
			t.Error("answered")
		}
	}
}

// TestRepetitionNeedsNoPreviousResponse repeats requests whose previous response was erased
// since. They must get their first answers back, and a new request must be refused.
func TestRepetitionNeedsNoPreviousResponse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	previous := f.respond(f.Client, `"input":"Light"`)
	body := `{"model":"opticks","input":"and","max_output_tokens":4,"previous_response_id":"` + previous.ID + `"}`
	streamed := body[:len(body)-1] + `,"stream":true}`
	background := body[:len(body)-1] + `,"background":true}`
	send := func() [3]string {
		t.Helper()
		var r response
		f.Do("POST", "/v1/responses", body, "Idempotency-Key", "plain").Must(t, 200).Into(t, &r)
		a := f.Do("POST", "/v1/responses", streamed, "Idempotency-Key", "streamed").Must(t, 200)
		var b struct{ ID string }
		f.Do("POST", "/v1/responses", background, "Idempotency-Key", "background").Must(t, 200).Into(t, &b)
		return [3]string{r.ID + r.text(), string(a.Body[strings.Index(string(a.Body), "event:"):]), b.ID}
	}
	first := send()
	f.Do("DELETE", "/v1/responses/"+previous.ID, "").Must(t, 200)
	if again := send(); again != first {
		t.Errorf("%q, want %q", again, first)
	}
	f.newest(4)
	f.Do("POST", "/v1/responses", body).Refused(t, 400, "previous_response_erased")
	f.Do("POST", "/v1/responses", body, "Idempotency-Key", "new").Refused(t, 400, "previous_response_erased")
	f.Do("POST", "/v1/responses", body, "Idempotency-Key", "streamed").Refused(t, 400, "idempotency_key_reused")
	f.newest(4)
}
