package contract

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/internal/limit"
	"colophon/test/apitest"
)

// TestFindingsAreFound shows answers that are wrong to who judges them: a judge
// who finds nothing in these would find nothing at all.
func TestFindingsAreFound(t *testing.T) {
	s := newService(t)
	doc := s.describe()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 3)), doc: doc, who: s.join("somebody")}
	id := s.as(g.who).Submit(`{"prompt":"light"}`)
	g.own = []string{id}
	find := func(name string) *operation { return doc.operation(t, name) }
	header := http.Header{"Content-Type": {"application/json"}}
	for _, name := range always {
		header.Set(name, "x")
	}
	with := func(name, value string) http.Header {
		h := header.Clone()
		h.Set(name, value)
		return h
	}
	answer := func(status int, header http.Header, body string) apitest.Answer {
		return apitest.Answer{Status: status, Header: header, Body: []byte(body)}
	}
	without := func(h http.Header, name string) http.Header {
		h = h.Clone()
		h.Del(name)
		return h
	}
	tooManyAnswer := answer(429, with("Content-Type", "application/problem+json"), `{"error":{"code":"`+tooMany+`"}}`)
	right := s.serve(valid(g, find("get-job"), id).http())
	for _, c := range []struct {
		what, want string
		change     func(*request)
		answer     apitest.Answer
	}{
		{"what is right", "", nil, right},
		{"a fault of its own", ownFault, nil, answer(500, with("Content-Type", "application/problem+json"), `{}`)},
		{"an undocumented status", undocumented, nil, answer(418, header, `{}`)},
		{"a redirect", undocumented, nil, answer(307, header, "")},
		{"a member missing", mismatch, nil, answer(200, header, `{"id":"`+id+`"}`)},
		{"a member too many", mismatch, nil, answer(200, header, strings.Replace(string(right.Body), "{", `{"owner":1,`, 1))},
		{"a state that there is not", mismatch, nil, answer(200, header, strings.Replace(string(right.Body), `"state":"`, `"state":"un`, 1))},
		{"another media type", mismatch, nil, answer(200, with("Content-Type", "text/html"), string(right.Body))},
		{"an error that is no problem", mismatch, nil, answer(404, header, `{"error":"no"}`)},
		{"a wrong event", mismatch, func(r *request) { r.op = find("job-events"); r.path = append(r.path, "events") },
			answer(200, with("Content-Type", "text/event-stream"), "id: 1\ndata: {\"version\":0}\n\n")},
		{"what is invalid let through", accepted, func(r *request) { r.invalid = true }, right},
		{"what the validator calls invalid let through", accepted, func(r *request) { r.path[1] = "x" }, right},
		{"no access token", letIn, func(r *request) { r.guest = true }, right},
		{"a valid request refused", refused, func(r *request) { r.valid = true },
			answer(422, with("Content-Type", "application/problem+json"), `{"error":{"code":"invalid_request"}}`)},
		{"a valid request refused for what none is", refused, func(r *request) { r.valid = true },
			answer(422, with("Content-Type", "application/problem+json"), `{"error":{"code":"not_today"}}`)},
		{"a request that is one too many where there is no limit", refused, func(r *request) { r.valid = true }, tooManyAnswer},
		{"a described header missing", absent, nil, answer(200, without(right.Header, "Etag"), string(right.Body))},
		{"a described header of another form", absent, nil, answer(200, with("X-Request-Id", "7"), string(right.Body))},
		{"a header too many", unnamed, nil, answer(200, with("X-Powered-By", "light"), string(right.Body))},
		{"a header missing", unguarded, nil, answer(200, with("Content-Security-Policy", ""), string(right.Body))},
		{"a password that comes back", leaked, nil, answer(422, with("Content-Type", "application/problem+json"), `{"detail":"`+g.who.password+`"}`)},
	} {
		var f findings
		r := valid(g, find("get-job"), id)
		r.valid = false
		if c.change != nil {
			c.change(r)
		}
		f.judge(g, r, r.http(), c.answer)
		if c.want == "" && len(f.count) > 0 || c.want != "" && f.count[c.want] == 0 {
			t.Errorf("%s: found %v, want %q\n%v", c.what, f.count, c.want, f.first)
		}
	}
}

// TestFindingsOfLimitsAreFound shows one that says nothing of its limit.
func TestFindingsOfLimitsAreFound(t *testing.T) {
	s := newService(t)
	limited := s.limitedTo(limit.Rate{Requests: 1, Per: time.Hour})
	g := &generator{Rand: rand.New(rand.NewPCG(1, 5)), doc: s.describe(), who: s.join("somebody")}
	for _, status := range []int{404, 429} {
		r := valid(g, g.doc.operation(t, "get-job"), uuid.NewString())
		a := limited.serve(r.http())
		for name, want := range map[string]string{"": "", "RateLimit": absent, "RateLimit-Policy": absent, "Retry-After": absent} {
			if name == "Retry-After" && status != 429 {
				continue
			}
			bad := a
			bad.Header = a.Header.Clone()
			bad.Header.Del(name)
			f := findings{limited: true}
			f.judge(g, r, r.http(), bad)
			if a.Status != status || want == "" && len(f.count) > 0 || want != "" && f.count[want] == 0 {
				t.Errorf("%d without %q: found %v, want %q\n%v", a.Status, name, f.count, want, f.first)
			}
		}
	}
}

// TestEverythingIsMutated holds what the mutations do against what they are for,
// and coverage against what there is.
func TestEverythingIsMutated(t *testing.T) {
	s := newService(t)
	g := &generator{Rand: rand.New(rand.NewPCG(1, 6)), doc: s.describe(), who: s.join("somebody"), own: []string{uuid.NewString()}}
	tried := coverage{}
	all, untried := tried.missing(g)
	if all != len(untried) || all < 200 {
		t.Errorf("%d pairs, and untried are %d", all, len(untried))
	}
	for _, want := range []string{"/jobs POST: NUL", "/jobs POST: body.stop", "/history GET: query", "/history GET: query.before", "/healthz GET: valid"} {
		if !slices.Contains(untried, want) {
			t.Errorf("%s is not known to be missing", want)
		}
	}
	if slices.Contains(untried, "/healthz GET: NUL") {
		t.Error("a request without a body is to have a NUL in it")
	}
	// What each of them is to do sooner or later.
	is := map[string]func(*request) bool{
		"/jobs POST: NUL in a list": func(r *request) bool {
			o, _ := r.body.(object)
			i := o.at("stop")
			if i < 0 || r.kind != "NUL" {
				return false
			}
			list, _ := o[i].value.([]any)
			return len(list) == 1 && strings.Contains(plain(list[0]), "\x00")
		},
		"/history GET: the same twice": func(r *request) bool {
			n := len(r.query)
			return r.invalid && n > 1 && r.query[n-1] == r.query[n-2]
		},
		"/history GET: an id in another spelling": func(r *request) bool {
			return r.invalid && slices.ContainsFunc(r.query, func(q [2]string) bool { return q[0] == "before" && strings.HasPrefix(q[1], "urn:uuid:") })
		},
		"/jobs/{id} GET: an id in another spelling": func(r *request) bool { return r.invalid && strings.HasPrefix(r.path[1], "{") && len(r.path[1]) > 30 },
	}
	for round := 0; round < 20 || len(is) > 0 && round < 1000; round++ {
		for _, op := range g.doc.operations {
			tried.add(g.compose(op))
			for kind, mutate := range mutations {
				r := g.compose(op)
				if r.kind = kind; !mutate(g, r) {
					continue
				}
				tried.add(r)
				for what, found := range is {
					if strings.HasPrefix(what, op.String()+":") && found(r) {
						delete(is, what)
					}
				}
			}
		}
	}
	for id := range refusals {
		g.doc.operation(t, id)
	}
	if _, untried := tried.missing(g); len(untried) > 0 {
		t.Errorf("never tried: %q", untried)
	}
	if len(is) > 0 {
		t.Errorf("never done: %q", sortedKeys(is))
	}
}

func valid(g *generator, op *operation, id string) *request {
	r := g.compose(op)
	r.path[1] = id
	r.header = [][2]string{{"Authorization", "Bearer " + g.who.access}}
	return r
}
