package contract

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/api"
	"colophon/internal/limit"
)

const formType = "application/x-www-form-urlencoded"

func seedPassesDisguises(t *testing.T, s *service) {
	p := s.join("disguised")
	for _, word := range []string{
		"v1olence", "h ate", "h\u0430te", "H\u0410TE", "h@te", "ha\u200bte", "h.a.t.e", "ｈａｔｅ", "h\u0430\u0442\u0435", "𝐡𝐚𝐭𝐞", "vіolencе", "v-i-o-l-e-n-c-e",
	} {
		a := s.send(p, "POST", "/generate", fmt.Sprintf(`{"prompt":"so much %s here"}`, word))
		if a.status != 422 || a.code() != "prompt_word" {
			t.Errorf("%q: %d %s", word, a.status, a.body)
		}
	}
}

// The seed went on with a text for somebody who had left, and so could be given
// more to do than it was ever able to, by nobody.
//
// security: ASVS 15.2.2, API4:2023, LLM10:2025
func seedGeneratesForNobody(t *testing.T, s *service) {
	p := s.join("who-leaves")
	s.engine.hold()
	defer s.engine.release()
	var left sync.WaitGroup
	leaving, leave := context.WithCancel(t.Context())
	defer leave()
	for range slots {
		left.Go(func() {
			r, err := http.NewRequestWithContext(leaving, "POST", s.url+"/generate", strings.NewReader(`{"prompt":"light"}`))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+p.access)
			if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
				resp.Body.Close()
				t.Errorf("a text that cannot be written: %s", resp.Status)
			}
		})
	}
	s.jobsOf(p, slots, "running")
	leave()
	left.Wait()
	s.jobsOf(p, slots, "cancelled")

	// Nothing computes for them any more: there is room for somebody who stays,
	// while the engine still waits.
	stays := s.join("who-stays")
	id := s.submit(stays, `{"prompt":"light"}`)
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/jobs/"+id+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Authorization", "Bearer "+stays.access)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var seen []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, is := strings.CutPrefix(lines.Text(), "event: ")
		if !is {
			continue
		}
		if seen = append(seen, name); name == "job.started" {
			s.engine.release()
		}
	}
	if len(seen) < 3 || seen[1] != "job.started" || seen[len(seen)-1] != "job.completed" {
		t.Errorf("who stayed saw %q", seen)
	}
}

// The seed took 264 ms to say no to a name that it knew, and 3 ms to others. What
// is measured here with few tries, and loosely, TestUnknownNamesTakeAsLong
// measures with many.
//
// security: ASVS 6.3.8
func seedTakesLongerForNames(t *testing.T, s *service) {
	s = s.another(func(o *api.Options) { o.Auth = s.accounts(0) })
	s.join("well-known-2") // whose hash costs what they do in production
	var took [2][]time.Duration
	for range 9 {
		for i, name := range []string{"well-known-2", "no-such-user-2"} {
			begin := time.Now()
			s.send(nil, "POST", "/token", url.Values{"username": {name}, "password": {"not the password"}}.Encode(), "Content-Type", formType).must(t, 401)
			took[i] = append(took[i], time.Since(begin))
		}
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	if known, unknown := took[0][4], took[1][4]; known > 3*unknown || unknown > 3*known {
		t.Errorf("%s for a known name, %s for an unknown one", known, unknown)
	}
}

// security: ASVS 15.2.2
func seedHashesAlone(t *testing.T, s *service) {
	p := s.join("reads-meanwhile")
	s = s.another(func(o *api.Options) { o.Auth = s.accounts(0) })
	const many = 30
	signIns := make(chan int, many)
	for i := range many {
		go func() {
			name := fmt.Sprint("stranger-", i)
			signIns <- s.send(nil, "POST", "/token", url.Values{"username": {name}, "password": {"wrong password"}}.Encode(), "Content-Type", formType).status
		}()
	}
	meanwhile := 0
	for ended := 0; ended < many; {
		select {
		case status := <-signIns:
			if ended++; status != 401 && status != 503 { // 503: waited too long for a turn
				t.Errorf("a sign-in: %d", status)
			}
		default:
			s.send(p, "GET", "/history", "").must(t, 200)
			meanwhile++
		}
	}
	if meanwhile < many {
		t.Errorf("%d calls were answered during %d sign-ins", meanwhile, many)
	}
}

// most is how many requests the limited service takes in an hour.
const most = 4

// limited is the service with one rate for everything.
func (s *service) limited() *service {
	s.t.Helper()
	return s.another(func(o *api.Options) {
		for name, at := range map[string]**limit.Limit{
			"users": &o.Limits.Users, "token": &o.Limits.Token, "generate": &o.Limits.Generate,
			"jobs": &o.Limits.Jobs, "calls": &o.Limits.Calls, "anonymous": &o.Limits.Anonymous,
		} {
			var err error
			if *at, err = limit.InMemory(name, limit.Rate{Requests: most, Per: time.Hour}); err != nil {
				s.t.Fatal(err)
			}
		}
	})
}

// The seed's limits stood behind its other checks: 401s, 422s and the history
// cost nothing.
//
// security: ASVS 2.4.1, API4:2023
func seedCountsOnlySuccess(t *testing.T, s *service) {
	p := s.join("persistent")
	for what, c := range map[string]struct {
		as           *person
		method, path string
		body         string
		status       int
		headers      []string
	}{
		"no access token":       {nil, "GET", "/history", "", 401, nil},
		"a wrong password":      {nil, "POST", "/token", "username=persistent&password=not+the+password", 401, []string{"Content-Type", formType}},
		"a short password":      {nil, "POST", "/users", `{"username":"short-password","password":"short"}`, 422, nil},
		"a prompt of no text":   {p, "POST", "/generate", `{"prompt":""}`, 422, nil},
		"a prompt that is none": {p, "POST", "/jobs", `{"prompt":17}`, 422, nil},
		"the history":           {p, "GET", "/history", "", 200, nil},
	} {
		limited := s.limited()
		for range most {
			limited.send(c.as, c.method, c.path, c.body, c.headers...).must(t, c.status)
		}
		if a := limited.send(c.as, c.method, c.path, c.body, c.headers...); a.status != 429 {
			t.Errorf("%s, once more than is allowed: %d %s", what, a.status, a.body)
		}
	}
}

// security: ASVS 15.3.4
func seedBelievesForwarding(t *testing.T, s *service) {
	for _, header := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP"} {
		limited := s.limited()
		for i := range most + 1 {
			address := fmt.Sprint("203.0.113.", i)
			if header == "Forwarded" {
				address = "for=" + address
			}
			a := limited.send(nil, "GET", "/history", "", header, address)
			if want := map[bool]int{true: 429, false: 401}[i == most]; a.status != want {
				t.Errorf("%s: request %d of %d: %d", header, i+1, most, a.status)
			}
		}
	}
}

// security: ASVS 2.4.1
func seedSaysNoRetryAfter(t *testing.T, s *service) {
	limited := s.limited()
	for range most {
		limited.send(nil, "GET", "/nowhere", "").must(t, 404)
	}
	a := limited.send(nil, "GET", "/nowhere", "").must(t, 429)
	if wait, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || wait < 1 || wait > 3600 {
		t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
	}
	if !strings.Contains(a.header.Get("RateLimit"), "r=0") {
		t.Errorf("RateLimit: %q", a.header.Get("RateLimit"))
	}
	if problem(a) != "" || a.code() != "rate_limit_exceeded" {
		t.Errorf("%s: %s", problem(a), a.body)
	}
}
