package contract

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"colophon/internal/apitest"
)

// TestFindingsAreFound shows answers that are wrong to who judges them: a judge
// who finds nothing in these would find nothing at all.
func TestFindingsAreFound(t *testing.T) {
	s := newService(t)
	doc := s.describe()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 3)), doc: doc, who: s.join("somebody")}
	id := s.as(g.who).Submit(`{"prompt":"light"}`)
	g.own = []string{id}
	find := func(name string) *operation {
		for _, op := range doc.operations {
			if op.OperationID == name {
				return op
			}
		}
		t.Fatalf("there is no operation %s", name)
		return nil
	}
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

func valid(g *generator, op *operation, id string) *request {
	r := g.compose(op)
	r.path[1] = id
	r.header = [][2]string{{"Authorization", "Bearer " + g.who.access}}
	return r
}
