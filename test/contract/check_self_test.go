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

// TestCheckFindsPlantedFaults tests checkAnswer, which compares the answers of the
// service with its document. It plants one fault in each request or answer. checkAnswer
// must report the fault, because otherwise it could also miss a fault of the service.
func TestCheckFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.fetchDocument()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 3)), doc: doc, caller: s.signUp("caller")}
	id := s.as(g.caller).Submit(`{"prompt":"light"}`)
	g.own = []string{id}
	find := func(name string) *operation { return doc.operation(t, name) }
	header := http.Header{"Content-Type": {"application/json"}}
	for _, name := range commonHeaders {
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
	overLimit := answer(429, with("Content-Type", "application/problem+json"), `{"error":{"code":"`+rateLimitExceeded+`"}}`)
	right := s.roundTrip(requestFor(g, find("get-job"), id))
	for _, c := range []struct {
		what, want string
		change     func(*request)
		answer     apitest.Answer
	}{
		{"no fault", "", nil, right},
		{"an internal error", serverError, nil, answer(500, with("Content-Type", "application/problem+json"), `{}`)},
		{"an unavailability without a reason", serverError, nil, answer(503, with("Content-Type", "application/problem+json"), `{}`)},
		{"an error of Go", leakedInternal, nil, answer(422, with("Content-Type", "application/problem+json"), `{"detail":"json: cannot unmarshal number"}`)},
		{"an error of Postgres", leakedInternal, nil, answer(422, with("Content-Type", "application/problem+json"), `{"detail":"ERROR (SQLSTATE 22P05)"}`)},
		{"a submitted value in an error", repeatedInput, func(r *request) { r.query = [][2]string{{"color", "ultramarine"}} },
			answer(422, with("Content-Type", "application/problem+json"), `{"detail":"ultramarine is no color"}`)},
		{"an undocumented status", undocumentedStatus, nil, answer(418, header, `{}`)},
		{"a redirect", undocumentedStatus, nil, answer(307, header, "")},
		{"a missing member", schemaMismatch, nil, answer(200, header, `{"id":"`+id+`"}`)},
		{"an undocumented member", schemaMismatch, nil, answer(200, header, strings.Replace(string(right.Body), "{", `{"owner":1,`, 1))},
		{"an unknown state", schemaMismatch, nil, answer(200, header, strings.Replace(string(right.Body), `"state":"`, `"state":"un`, 1))},
		{"another media type", schemaMismatch, nil, answer(200, with("Content-Type", "text/html"), string(right.Body))},
		{"an error that is not a problem", schemaMismatch, nil, answer(404, header, `{"error":"no"}`)},
		{"a wrong event", schemaMismatch, func(r *request) { r.op = find("job-events"); r.path = append(r.path, "events") },
			answer(200, with("Content-Type", "text/event-stream"), "id: 1\ndata: {\"version\":0}\n\n")},
		{"an invalid request accepted", acceptedInvalid, func(r *request) { r.invalid = true }, right},
		{"a request accepted that the validator refuses", acceptedInvalid, func(r *request) { r.path[1] = "x" }, right},
		{"a request without an access token accepted", acceptedUnauthorized, func(r *request) { r.unauthorized = true }, right},
		{"a valid request refused", refusedValid, func(r *request) { r.valid = true },
			answer(422, with("Content-Type", "application/problem+json"), `{"error":{"code":"invalid_request"}}`)},
		{"a valid request refused with an unknown code", refusedValid, func(r *request) { r.valid = true },
			answer(422, with("Content-Type", "application/problem+json"), `{"error":{"code":"not_today"}}`)},
		{"a request over the limit of a service without limits", refusedValid, func(r *request) { r.valid = true }, overLimit},
		{"a documented header missing", wrongHeader, nil, answer(200, without(right.Header, "Etag"), string(right.Body))},
		{"a malformed documented header", wrongHeader, nil, answer(200, with("X-Request-Id", "7"), string(right.Body))},
		{"an undocumented header", undocumentedHeader, nil, answer(200, with("X-Powered-By", "light"), string(right.Body))},
		{"a security header missing", missingSecurityHeader, nil, answer(200, with("Content-Security-Policy", ""), string(right.Body))},
		{"a password in an error", leakedSecret, nil, answer(422, with("Content-Type", "application/problem+json"), `{"detail":"`+g.caller.password+`"}`)},
	} {
		var f findings
		r := requestFor(g, find("get-job"), id)
		r.valid = false
		if c.change != nil {
			c.change(r)
		}
		f.checkAnswer(g, r, r.http(), c.answer)
		if c.want == "" && len(f.count) > 0 || c.want != "" && f.count[c.want] == 0 {
			t.Errorf("%s: found %v, want %q\n%v", c.what, f.count, c.want, f.first)
		}
	}
}

// TestCheckFindsMissingRateLimitHeaders removes rate-limit headers from answers of a
// rate-limited service. The check must report each missing header.
func TestCheckFindsMissingRateLimitHeaders(t *testing.T) {
	t.Parallel()
	s := newService(t)
	limited := s.rateLimited("1/1h")
	g := &generator{Rand: rand.New(rand.NewPCG(1, 5)), doc: s.fetchDocument(), caller: s.signUp("caller")}
	for _, status := range []int{404, 429} {
		r := requestFor(g, g.doc.operation(t, "get-job"), uuid.NewString())
		a := limited.roundTrip(r)
		for name, want := range map[string]string{"": "", "RateLimit": wrongHeader, "RateLimit-Policy": wrongHeader, "Retry-After": wrongHeader} {
			if name == "Retry-After" && status != 429 {
				continue
			}
			bad := a
			bad.Header = a.Header.Clone()
			bad.Header.Del(name)
			f := findings{rateLimited: true}
			f.checkAnswer(g, r, r.http(), bad)
			if a.Status != status || want == "" && len(f.count) > 0 || want != "" && f.count[want] == 0 {
				t.Errorf("%d without %q: found %v, want %q\n%v", a.Status, name, f.count, want, f.first)
			}
		}
	}
}

// TestMutationsReachEveryPart changes valid requests with every mutation, in rounds. At
// the end every mutation must have been tried on every operation to which it applies.
// Every part of an operation must have been changed. The rare results below must also
// have occurred.
func TestMutationsReachEveryPart(t *testing.T) {
	t.Parallel()
	s := newService(t)
	g := &generator{Rand: rand.New(rand.NewPCG(1, 6)), doc: s.fetchDocument(), caller: s.signUp("caller"), own: []string{uuid.NewString()}}
	tried := coverage{}
	all, untried := tried.missing(g)
	if all != len(untried) || all < 200 {
		t.Errorf("%d pairs, %d of them untried", all, len(untried))
	}
	for _, want := range []string{"/jobs POST: NUL", "/jobs POST: body.stop", "/history GET: query", "/history GET: query.before", "/healthz GET: valid"} {
		if !slices.Contains(untried, want) {
			t.Errorf("%s is not listed as untried", want)
		}
	}
	if slices.Contains(untried, "/healthz GET: NUL") {
		t.Error("the NUL mutation applies to a request without a body")
	}
	// missing holds the rare results that have not occurred yet. A key names an operation
	// and a result.
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
	// The mutations take their turns in order: a seed draws the same requests every time.
	kinds := sortedKeys(mutations)
	for round := 0; round < 20 || len(missing)+len(untried) > 0 && round < 1000; round++ {
		for _, op := range g.doc.operations {
			tried.add(g.compose(op))
			for _, kind := range kinds {
				r := g.compose(op)
				if r.kind = kind; !mutations[kind](g, r) {
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
		_, untried = tried.missing(g)
	}
	for id := range refusals {
		g.doc.operation(t, id)
	}
	if len(untried) > 0 {
		t.Errorf("never tried: %q", untried)
	}
	if len(missing) > 0 {
		t.Errorf("no mutation had the result %q", sortedKeys(missing))
	}
}

// requestFor returns a valid request of g's caller for the object with the id.
func requestFor(g *generator, op *operation, id string) *request {
	r := g.compose(op)
	r.path[1] = id
	r.header = [][2]string{{"Authorization", "Bearer " + g.caller.access}}
	return r
}
