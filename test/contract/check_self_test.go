package contract

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/test/apitest"
)

// TestCheckFindsPlantedFaults checks answers with one fault each. A check that finds
// nothing in them would find nothing in the service.
func TestCheckFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.describe()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 3)), doc: doc, who: s.join("caller")}
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
	right := s.serve(valid(g, find("get-job"), id))
	for _, c := range []struct {
		what, want string
		change     func(*request)
		answer     apitest.Answer
	}{
		{"no fault", "", nil, right},
		{"an internal error", ownFault, nil, answer(500, with("Content-Type", "application/problem+json"), `{}`)},
		{"an undocumented status", undocumented, nil, answer(418, header, `{}`)},
		{"a redirect", undocumented, nil, answer(307, header, "")},
		{"a missing member", mismatch, nil, answer(200, header, `{"id":"`+id+`"}`)},
		{"an undocumented member", mismatch, nil, answer(200, header, strings.Replace(string(right.Body), "{", `{"owner":1,`, 1))},
		{"an unknown state", mismatch, nil, answer(200, header, strings.Replace(string(right.Body), `"state":"`, `"state":"un`, 1))},
		{"another media type", mismatch, nil, answer(200, with("Content-Type", "text/html"), string(right.Body))},
		{"an error that is not a problem", mismatch, nil, answer(404, header, `{"error":"no"}`)},
		{"a wrong event", mismatch, func(r *request) { r.op = find("job-events"); r.path = append(r.path, "events") },
			answer(200, with("Content-Type", "text/event-stream"), "id: 1\ndata: {\"version\":0}\n\n")},
		{"an invalid request accepted", accepted, func(r *request) { r.invalid = true }, right},
		{"a request accepted that the validator refuses", accepted, func(r *request) { r.path[1] = "x" }, right},
		{"a request without an access token accepted", letIn, func(r *request) { r.guest = true }, right},
		{"a valid request refused", refused, func(r *request) { r.valid = true },
			answer(422, with("Content-Type", "application/problem+json"), `{"error":{"code":"invalid_request"}}`)},
		{"a valid request refused with an unknown code", refused, func(r *request) { r.valid = true },
			answer(422, with("Content-Type", "application/problem+json"), `{"error":{"code":"not_today"}}`)},
		{"a request over the limit of a service without limits", refused, func(r *request) { r.valid = true }, tooManyAnswer},
		{"a documented header missing", absent, nil, answer(200, without(right.Header, "Etag"), string(right.Body))},
		{"a malformed documented header", absent, nil, answer(200, with("X-Request-Id", "7"), string(right.Body))},
		{"an undocumented header", unnamed, nil, answer(200, with("X-Powered-By", "light"), string(right.Body))},
		{"a security header missing", unguarded, nil, answer(200, with("Content-Security-Policy", ""), string(right.Body))},
		{"a password in an error", leaked, nil, answer(422, with("Content-Type", "application/problem+json"), `{"detail":"`+g.who.password+`"}`)},
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

// TestCheckFindsMissingRateLimitHeaders removes the headers that tell of the limit
// from answers of a service that has one.
func TestCheckFindsMissingRateLimitHeaders(t *testing.T) {
	t.Parallel()
	s := newService(t)
	limited := s.limited("1/1h")
	g := &generator{Rand: rand.New(rand.NewPCG(1, 5)), doc: s.describe(), who: s.join("caller")}
	for _, status := range []int{404, 429} {
		r := valid(g, g.doc.operation(t, "get-job"), uuid.NewString())
		a := limited.serve(r)
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

// TestMutationsReachEveryPart checks that coverage names everything there is to try,
// and that the mutations try all of it, with some results that are easily lost.
func TestMutationsReachEveryPart(t *testing.T) {
	t.Parallel()
	s := newService(t)
	g := &generator{Rand: rand.New(rand.NewPCG(1, 6)), doc: s.describe(), who: s.join("caller"), own: []string{uuid.NewString()}}
	tried := coverage{}
	all, untried := tried.missing(g)
	if all != len(untried) || all < 200 {
		t.Errorf("%d pairs, %d of them untried", all, len(untried))
	}
	for _, want := range []string{"/jobs POST: NUL", "/jobs POST: body.stop", "/history GET: query", "/history GET: query.before", "/healthz GET: valid"} {
		if !slices.Contains(untried, want) {
			t.Errorf("%s is not among the untried", want)
		}
	}
	if slices.Contains(untried, "/healthz GET: NUL") {
		t.Error("the NUL mutation applies to a request without a body")
	}
	// Results that mutations must have sooner or later.
	missing := map[string]func(*request) bool{
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
	for round := 0; round < 20 || len(missing) > 0 && round < 1000; round++ {
		for _, op := range g.doc.operations {
			tried.add(g.compose(op))
			for kind, mutate := range mutations {
				r := g.compose(op)
				if r.kind = kind; !mutate(g, r) {
					continue
				}
				tried.add(r)
				for what, found := range missing {
					if strings.HasPrefix(what, op.String()+":") && found(r) {
						delete(missing, what)
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
	if len(missing) > 0 {
		t.Errorf("no mutation had the result %q", sortedKeys(missing))
	}
}

func valid(g *generator, op *operation, id string) *request {
	r := g.compose(op)
	r.path[1] = id
	r.header = [][2]string{{"Authorization", "Bearer " + g.who.access}}
	return r
}
