package contract

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/internal/auth"
	"colophon/test/apitest"
)

// unauthenticated are the operations that are open to all, and why.
var unauthenticated = map[string]string{
	"/.well-known/jwks.json GET": "public keys, for whoever checks access tokens",
	"/healthz GET":               "whoever starts processes asks it",
	"/readyz GET":                "whoever distributes requests asks it",
	"/revoke POST":               "the token that is revoked is all that is needed (RFC 7009)",
	"/token POST":                "this is where one signs in",
	"/users POST":                "this is where one becomes somebody",
}

// TestOpenToAllIsWhatIsListed asks every operation without an access token.
//
// security: ASVS 8.2.1, ASVS 13.4.5, API5:2023, API9:2023, ASVS 6.3.4
func TestOpenToAllIsWhatIsListed(t *testing.T) {
	s := newService(t)
	doc := s.describe()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 1)), doc: doc, who: s.join("somebody")}
	found := map[string]bool{}
	for _, op := range doc.operations {
		found[op.String()] = true
		if op.private() == (unauthenticated[op.String()] != "") {
			t.Errorf("%s: described as private: %v, and listed here as %q", op, op.private(), unauthenticated[op.String()])
		}
		r := g.compose(op)
		r.header = slices.DeleteFunc(r.header, func(h [2]string) bool { return h[0] == "Authorization" })
		a := s.serve(r.http())
		if op.private() != (a.Status == 401 && a.Code() == "missing_access_token") {
			t.Errorf("%s is described as private: %v, and answers %d %s to nobody", op, op.private(), a.Status, a.Code())
		}
	}
	for op := range unauthenticated {
		if !found[op] {
			t.Errorf("%s is listed here and not described", op)
		}
	}
}

// target is something that operations are about.
type target struct {
	what  string
	ids   map[string]string // by the name of the path's parameter
	owned bool              // it is the owner's
}

// targets are what an operation can be about, for all paths that have parameters.
func (s *service) targets(owner *person, op *operation) []target {
	s.t.Helper()
	switch {
	case !strings.Contains(op.path, "{"):
		s.engine.release()
		return []target{{what: "nothing in particular"}}
	case strings.HasPrefix(op.path, "/jobs/{id}"):
		s.engine.release()
		ended := s.as(owner).Submit(`{"prompt":"` + canary + `","max_length":20}`)
		s.as(owner).Do("GET", "/jobs/"+ended+"/events", "", "Accept", "text/event-stream").Must(s.t, 200) // until it has ended
		s.engine.hold()
		id := func(text string) map[string]string { return map[string]string{"id": text} }
		return []target{
			{"a job that has ended", id(ended), true},
			{"a job that runs", id(s.as(owner).Submit(`{"prompt":"` + canary + `"}`)), true},
			{"a job of nobody", id(uuid.Must(uuid.NewV7()).String()), false},
			{"the id of an account", id(owner.id), false},
		}
	case strings.HasPrefix(op.path, "/users/{id}"):
		id := func(text string) map[string]string { return map[string]string{"id": text} }
		s.victims++
		return []target{
			{"an account", id(s.join(fmt.Sprintf("victim-%d", s.victims)).id), false},
			{"an account of nobody", id(uuid.Must(uuid.NewV7()).String()), false},
		}
	}
	s.t.Errorf("%s: say in this test what its path is about", op)
	return nil
}

const canary = "peacockfeather"

var anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// shape is an answer without what differs between any two.
func shape(a apitest.Answer) string {
	var b strings.Builder
	for _, name := range sortedKeys(a.Header) {
		if name != "X-Request-Id" && !strings.HasPrefix(name, "Ratelimit") {
			b.WriteString(name + ": " + strings.Join(a.Header[name], ", ") + "\n")
		}
	}
	return b.String() + anyUUID.ReplaceAllString(string(a.Body), "ID")
}

// TestNobodyReachesWhatIsNotTheirs is the matrix of who does what to what: every
// operation of the description, by everybody, to everything there is.
//
// security: ASVS 7.4.2, ASVS 8.2.1, ASVS 8.2.2, ASVS 8.3.1, API1:2023, API5:2023, LLM02:2025
func TestNobodyReachesWhatIsNotTheirs(t *testing.T) {
	s := newService(t)
	doc := s.describe()
	rng := rand.New(rand.NewPCG(1, 2))
	admin := s.promote(s.join("the-admin"), auth.Admin)
	cells := 0
	for n, op := range doc.operations {
		join := func(name string) *person { return s.join(fmt.Sprintf("%s-%d", name, n)) } // some operations end them
		owner, other := join("owner"), join("other")
		left, gone := join("disabled"), join("erased")
		s.as(admin).Do("POST", "/users/"+left.id+"/disable", "").Must(t, 200)
		s.as(gone).Do("DELETE", "/users/me", fmt.Sprintf(`{"password":%q}`, gone.password)).Must(t, 204)
		for _, who := range []struct {
			what   string
			person *person
			token  string
			known  bool
		}{
			{"nobody", other, "", false},
			{"a forger", other, "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiI" + owner.id + "In0.", false},
			{"a disabled one", left, "Bearer " + left.access, false},
			{"an erased one", gone, "Bearer " + gone.access, false},
			{"another", other, "Bearer " + other.access, true},
			{"an auditor", s.promote(join("auditor"), auth.Auditor), "", true},
			{"an administrator", s.promote(join("administrator"), auth.Admin), "", true},
			{"the owner", owner, "Bearer " + owner.access, true},
		} {
			if who.known && who.token == "" {
				who.token = "Bearer " + who.person.access
			}
			role := who.person.role
			if role == "" {
				role = auth.User
			}
			allowed := op.Roles == nil || slices.Contains(op.Roles, string(role))
			var nowhere string // how what does not exist looks like
			targets := s.targets(owner, op)
			slices.Reverse(targets) // what does not exist comes first
			for _, about := range targets {
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
				a := s.serve(r.http())
				cells++
				cell := op.String() + " by " + who.what + " to " + about.what
				switch {
				case op.private() && (a.Status == 401) == who.known:
					t.Errorf("%s: %d %s", cell, a.Status, a.Body)
				case op.Roles != nil && who.known && (a.Status == 403) == allowed:
					t.Errorf("%s: %d %s", cell, a.Status, a.Body)
				case about.owned && who.known && (a.Status == 404) == (who.person == owner):
					t.Errorf("%s: %d", cell, a.Status)
				}
				if who.person != owner && strings.Contains(string(a.Body), canary) {
					t.Errorf("%s: the owner's text comes back", cell)
				}
				if about.ids == nil || who.person == owner || op.Roles != nil && allowed {
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
	s.engine.release()
	s.quiet()
}

// versions counts what is on record of all jobs by their owners' doing: a worker
// may go on meanwhile.
func (s *service) versions() (n int) {
	s.t.Helper()
	if err := s.db.Owner.QueryRow(s.t.Context(), `select count(*) from events where type in ('job.accepted', 'job.cancelled')`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}
