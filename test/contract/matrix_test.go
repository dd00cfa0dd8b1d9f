package contract

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/test/apitest"
)

// unauthenticated are the operations that need no access token, each with its
// reason.
var unauthenticated = map[string]string{
	"/.well-known/jwks.json GET": "public keys, to verify access tokens with",
	"/healthz GET":               "a supervisor of processes asks for it",
	"/readyz GET":                "a load balancer asks for it",
	"/revoke POST":               "the token to revoke is enough (RFC 7009)",
	"/token POST":                "this is the sign-in",
	"/users POST":                "this is the registration",
}

// TestOnlyListedOperationsNeedNoAccessToken sends every operation without an access
// token.
//
// security: ASVS 8.2.1, ASVS 13.4.5, API5:2023, API9:2023, ASVS 6.3.4
func TestOnlyListedOperationsNeedNoAccessToken(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.describe()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 1)), doc: doc, who: s.join("caller")}
	found := map[string]bool{}
	for _, op := range doc.operations {
		found[op.String()] = true
		if op.private() == (unauthenticated[op.String()] != "") {
			t.Errorf("%s: the document says private: %v, and the list here %q", op, op.private(), unauthenticated[op.String()])
		}
		r := g.compose(op)
		r.header = slices.DeleteFunc(r.header, func(h [2]string) bool { return h[0] == "Authorization" })
		a := s.serve(r)
		if op.private() != (a.Status == 401 && a.Code() == "missing_access_token") {
			t.Errorf("%s: the document says private: %v, and the answer without an access token is %d %s", op, op.private(), a.Status, a.Code())
		}
	}
	for op := range unauthenticated {
		if !found[op] {
			t.Errorf("%s is listed here and not in the document", op)
		}
	}
}

// target is an object that an operation is about.
type target struct {
	what  string
	ids   map[string]string // by the name of the path's parameter; nil if there is none
	owned bool              // the object is the owner's
}

func withID(id string) map[string]string { return map[string]string{"id": id} }

// targets returns the objects for an operation, the one that does not exist first.
// An account can be used for callers that may not change it.
func (s *service) targets(owner *person, op *operation) []target {
	s.t.Helper()
	s.work() // POST /generate waits for a text
	nobody := uuid.Must(uuid.NewV7()).String()
	switch {
	case !strings.Contains(op.path, "{"):
		return []target{{what: "no object"}}
	case strings.HasPrefix(op.path, "/jobs/{id}"):
		ended := s.as(owner).Submit(`{"prompt":"` + canary + `","max_length":20}`)
		s.as(owner).Do("GET", "/jobs/"+ended+"/events", "", "Accept", "text/event-stream").Must(s.t, 200) // until it has ended
		return []target{
			{"the id of an account", withID(owner.id), false},
			{"a job that does not exist", withID(nobody), false},
			{"a running job", withID(s.running(owner)), true},
			{"a job that has ended", withID(ended), true},
		}
	case strings.HasPrefix(op.path, "/users/{id}"):
		return []target{
			{"an account that does not exist", withID(nobody), false},
			{"an account", withID(s.victim()), false},
		}
	}
	s.t.Errorf("%s: add the objects of its path to this test", op)
	return nil
}

// victim registers an account for others to act on and returns its id.
func (s *service) victim() string {
	s.t.Helper()
	return s.register("victim-"+uuid.NewString(), "a long sentence")
}

// canary is part of the prompts of the owner's jobs.
const canary = "peacockfeather"

var anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// shape returns an answer without what differs between any two answers.
func shape(a apitest.Answer) string {
	var b strings.Builder
	for _, name := range sortedKeys(a.Header) {
		if name != "X-Request-Id" && !strings.HasPrefix(name, "Ratelimit") {
			b.WriteString(name + ": " + strings.Join(a.Header[name], ", ") + "\n")
		}
	}
	return b.String() + anyUUID.ReplaceAllString(string(a.Body), "ID")
}

// caller is one row of the matrix.
type caller struct {
	what   string
	person *person
	token  string // instead of the person's access token
	known  bool   // the service accepts the token
}

// cast are the callers of the matrix.
type cast struct {
	owner, other, auditor, admin *person
	disabled, erased             *person
	joined                       int
}

// join registers a person of the cast.
func (c *cast) join(s *service, name, role string) *person {
	s.t.Helper()
	c.joined++
	p := s.join(fmt.Sprintf("%s-%d", name, c.joined))
	if role != "" {
		s.promote(p, role)
	}
	return p
}

// newCast registers the callers, closes the accounts of two of them, and leaves it
// to renew to register the others.
func newCast(s *service) *cast {
	s.t.Helper()
	c := &cast{}
	c.disabled, c.erased = c.join(s, "disabled", ""), c.join(s, "erased", "")
	admin := c.join(s, "admin", "admin")
	s.as(admin).Do("POST", "/users/"+c.disabled.id+"/disable", "").Must(s.t, 200)
	s.as(c.erased).Do("DELETE", "/users/me", fmt.Sprintf(`{"password":%q}`, c.erased.password)).Must(s.t, 204)
	return c
}

// renew replaces the people whose session has ended: operations may end them.
func (c *cast) renew(s *service) {
	s.t.Helper()
	for _, one := range []struct {
		person     **person
		name, role string
	}{{&c.owner, "owner", ""}, {&c.other, "other", ""}, {&c.auditor, "auditor", "auditor"}, {&c.admin, "administrator", "admin"}} {
		if *one.person == nil || s.as(*one.person).Do("GET", "/users/me", "").Status != 200 {
			*one.person = c.join(s, one.name, one.role)
		}
	}
}

// callers returns the rows of the matrix. The owner comes last, as only the owner
// may change the owner's objects.
func (c *cast) callers() []caller {
	return []caller{
		{"nobody", c.other, "", false},
		{"a forger", c.other, "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiI" + c.owner.id + "In0.", false},
		{"a disabled user", c.disabled, "Bearer " + c.disabled.access, false},
		{"an erased user", c.erased, "Bearer " + c.erased.access, false},
		{"another user", c.other, "Bearer " + c.other.access, true},
		{"an auditor", c.auditor, "Bearer " + c.auditor.access, true},
		{"an administrator", c.admin, "Bearer " + c.admin.access, true},
		{"the owner", c.owner, "Bearer " + c.owner.access, true},
	}
}

// TestCallersReachOnlyWhatTheyMay is the matrix of access: it sends every operation
// of the document as every caller to every object.
//
// security: ASVS 7.4.2, ASVS 8.2.1, ASVS 8.2.2, ASVS 8.3.1, API1:2023, API5:2023, LLM02:2025
func TestCallersReachOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.describe()
	rng := rand.New(rand.NewPCG(1, 2))
	cast := newCast(s)
	cells := 0
	for _, op := range doc.operations {
		cast.renew(s)
		targets := s.targets(cast.owner, op)
		for _, who := range cast.callers() {
			role := who.person.role
			if role == "" {
				role = "user"
			}
			allowed := op.Roles == nil || slices.Contains(op.Roles, role)
			nowhere := "" // the shape of the answer about an object that does not exist
			for i, about := range targets {
				before := s.versions()
				g := &generator{Rand: rng, doc: doc, who: who.person}
				r := g.compose(op)
				for i, segment := range strings.Split(strings.TrimPrefix(op.path, "/"), "/") {
					if name, ok := strings.CutPrefix(segment, "{"); ok {
						r.path[i] = about.ids[strings.TrimSuffix(name, "}")]
					}
				}
				r.query, r.header = nil, nil
				if who.token != "" {
					r.header = append(r.header, [2]string{"Authorization", who.token})
				}
				a := s.serve(r)
				cells++
				cell := op.String() + " by " + who.what + " to " + about.what
				switch {
				case op.private() && (a.Status == 401) == who.known:
					t.Errorf("%s: %d %s", cell, a.Status, a.Body)
				case op.Roles != nil && who.known && (a.Status == 403) == allowed:
					t.Errorf("%s: %d %s", cell, a.Status, a.Body)
				case about.owned && who.known && (a.Status == 404) == (who.person == cast.owner):
					t.Errorf("%s: %d", cell, a.Status)
				}
				if who.person != cast.owner && strings.Contains(string(a.Body), canary) {
					t.Errorf("%s: the answer has the owner's text", cell)
				}
				if op.Roles != nil && allowed && who.known && about.what == "an account" {
					targets[i].ids = withID(s.victim()) // the next caller finds an account that is as new
				}
				if about.ids == nil || who.person == cast.owner || op.Roles != nil && allowed {
					continue
				}
				if after := s.versions(); after != before && about.owned {
					t.Errorf("%s: %d events were added to the owner's jobs", cell, after-before)
				}
				if nowhere == "" {
					nowhere = shape(a)
				} else if shape(a) != nowhere {
					t.Errorf("%s: looks like\n%s\nand what does not exist like\n%s", cell, shape(a), nowhere)
				}
			}
		}
	}
	t.Logf("%d cells, %d operations", cells, len(doc.operations))
	s.quiet()
}

// versions counts the events that requests have added to jobs. A worker may add
// others meanwhile.
func (s *service) versions() (n int) {
	s.t.Helper()
	s.query([]any{&n}, `select count(*) from events where type in ('job.accepted', 'job.cancelled')`)
	return n
}
