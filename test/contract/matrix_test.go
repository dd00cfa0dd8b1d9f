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

// publicOperations are the operations that need no access token. Each value is the
// reason.
var publicOperations = map[string]string{
	"/.well-known/jwks.json GET": "public keys that verify access tokens",
	"/healthz GET":               "probe of a process supervisor",
	"/log/checkpoint GET":        "the log is for everybody",
	"/log/key GET":               "the log is for everybody",
	"/readyz GET":                "probe of a load balancer",
	"/revoke POST":               "the token to revoke is enough (RFC 7009)",
	"/token POST":                "this is the sign-in",
	"/users POST":                "this is the registration",
}

// TestOnlyListedOperationsNeedNoAccessToken sends every operation without an access
// token. Only the operations in publicOperations may accept such a request.
//
// security: ASVS 8.2.1, ASVS 13.4.5, API5:2023, API9:2023, ASVS 6.3.4
func TestOnlyListedOperationsNeedNoAccessToken(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.fetchDocument()
	g := &generator{Rand: rand.New(rand.NewPCG(1, 1)), doc: doc, caller: s.signUp("caller")}
	found := map[string]bool{}
	for _, op := range doc.operations {
		found[op.String()] = true
		if op.private() == (publicOperations[op.String()] != "") {
			t.Errorf("%s: the document says private: %v, the list here says %q", op, op.private(), publicOperations[op.String()])
		}
		r := g.compose(op)
		for !r.valid { // a path with dots leads to no operation
			r = g.compose(op)
		}
		r.header = slices.DeleteFunc(r.header, func(h [2]string) bool { return h[0] == "Authorization" })
		a := s.roundTrip(r)
		if op.private() != (a.Status == 401 && a.Code() == "missing_access_token") {
			t.Errorf("%s: the document says private: %v, but without an access token the answer is %d %s", op, op.private(), a.Status, a.Code())
		}
	}
	for op := range publicOperations {
		if !found[op] {
			t.Errorf("%s is listed here but not in the document", op)
		}
	}
}

// target is an object on which an operation is tried.
type target struct {
	what  string
	ids   map[string]string // ids by path parameter; nil if the path has no parameter
	owned bool              // the object belongs to the owner
}

func withID(id string) map[string]string { return map[string]string{"id": id} }

// targets returns the objects for an operation. Objects that do not exist come first. All
// callers that may not change an account use the same account.
func (s *service) targets(owner *person, op *operation) []target {
	s.t.Helper()
	s.startWorker() // POST /generate waits for a text
	s.endBatches(owner)
	unknown := uuid.Must(uuid.NewV7()).String()
	switch {
	case !strings.Contains(op.path, "{"):
		return []target{{what: "no object"}}
	case strings.HasPrefix(op.path, "/jobs/{id}"):
		ended := s.as(owner).Submit(`{"prompt":"` + canary + `","max_length":20}`)
		s.as(owner).Do("GET", "/jobs/"+ended+"/events", "", "Accept", "text/event-stream").Must(s.t, 200) // the stream ends when the job ends
		return []target{
			{"the id of an account", withID(owner.id), false},
			{"a job that does not exist", withID(unknown), false},
			{"a running job", withID(s.runningJob(owner)), true},
			{"a job that has ended", withID(ended), true},
		}
	case op.path == "/users/me/sessions/{id}":
		return []target{
			{"the id of an account", withID(owner.id), false},
			{"a session that does not exist", withID(unknown), false},
			{"a session", withID(s.session(owner)), true},
		}
	case strings.HasPrefix(op.path, "/keys/{id}"):
		var key struct{ ID string }
		s.as(owner).Do("POST", "/keys", `{"name":"target"}`).Must(s.t, 201).Into(s.t, &key)
		return []target{
			{"a key that does not exist", withID(unknown), false},
			{"a key", withID(key.ID), true},
		}
	case op.path == "/v1/models/{model}":
		return []target{{"the model", map[string]string{"model": "opticks"}, false}}
	case strings.HasPrefix(op.path, "/v1/responses/{id}"):
		var response struct{ ID string }
		s.as(owner).Do("POST", "/v1/responses", `{"model":"opticks","input":"`+canary+`","max_output_tokens":20}`).Must(s.t, 200).Into(s.t, &response)
		return []target{
			{"the id of an account", withID("resp_" + owner.id), false},
			{"a response that does not exist", withID("resp_" + unknown), false},
			{"a response", withID(response.ID), true},
		}
	case strings.HasPrefix(op.path, "/v1/files/{id}"), strings.HasPrefix(op.path, "/v1/batches/{id}"):
		file, batch := s.batch(owner)
		prefix, id := "file-", file
		if strings.HasPrefix(op.path, "/v1/batches/") {
			prefix, id = "batch_", batch
		}
		return []target{
			{"the id of an account", withID(prefix + owner.id), false},
			{"an object that does not exist", withID(prefix + unknown), false},
			{"an object of a batch", withID(id), true},
		}
	case strings.HasPrefix(op.path, "/webhooks/{id}"):
		hook, delivery := s.webhook(owner)
		return []target{
			{"a webhook that does not exist", map[string]string{"id": unknown, "delivery": unknown}, false},
			{"a webhook", map[string]string{"id": hook, "delivery": delivery}, true},
		}
	case strings.HasPrefix(op.path, "/users/{id}"):
		return []target{
			{"an account that does not exist", withID(unknown), false},
			{"an account", withID(s.victim()), false},
		}
	}
	s.t.Errorf("%s: add the objects of its path to this test", op)
	return nil
}

// webhook creates a webhook with a message, in place of the owner's earlier ones. It returns the
// ids of both.
func (s *service) webhook(owner *person) (id, delivery string) {
	s.t.Helper()
	var all []struct{ ID string }
	s.as(owner).Do("GET", "/webhooks", "").Must(s.t, 200).Into(s.t, &all)
	for _, w := range all {
		s.as(owner).Do("DELETE", "/webhooks/"+w.ID, "").Must(s.t, 204)
	}
	var created struct{ ID string }
	s.as(owner).Do("POST", "/webhooks", `{"url":"https://webhook.invalid/"}`).Must(s.t, 201).Into(s.t, &created)
	id = created.ID
	s.as(owner).Do("POST", "/webhooks/"+id+"/ping", "").Must(s.t, 202).Into(s.t, &created)
	return id, created.ID
}

// endBatches cancels the owner's batches and waits for their ends, because their jobs are events
// that no caller has caused.
func (s *service) endBatches(owner *person) {
	s.t.Helper()
	s.eventually("the batches end", func() bool {
		var all struct{ Data []struct{ ID, Status string } }
		s.as(owner).Do("GET", "/v1/batches?limit=100", "").Must(s.t, 200).Into(s.t, &all)
		ended := true
		for _, b := range all.Data {
			if !slices.Contains([]string{"completed", "failed", "expired", "cancelled"}, b.Status) {
				ended = false
				s.as(owner).Do("POST", "/v1/batches/"+b.ID+"/cancel", "").Must(s.t, 200)
			}
		}
		return ended
	})
}

// batch begins a batch, and returns the ids of its input and of itself. The batch stays open and
// does not go on, because its worker is killed. So its input cannot be deleted.
func (s *service) batch(owner *person) (file, batch string) {
	s.t.Helper()
	s.killWorker()
	var lines strings.Builder
	for i := range 40 {
		fmt.Fprintf(&lines, `{"custom_id":"%d","method":"POST","url":"/v1/completions","body":{"model":"opticks","prompt":%q}}`+"\n", i, canary)
	}
	r := request{media: multipartType, body: object{{"purpose", "batch"}, {"file", lines.String()}}}
	var created struct{ ID string }
	s.as(owner).Do("POST", "/v1/files", string(r.content()), "Content-Type", multipartType+"; boundary="+boundary).Must(s.t, 200).Into(s.t, &created)
	file = created.ID
	s.as(owner).Do("POST", "/v1/batches", `{"input_file_id":"`+file+`","endpoint":"/v1/completions","completion_window":"24h","metadata":{"a":"`+canary+`"}}`).Must(s.t, 200).Into(s.t, &created)
	s.eventually("the batch waits for its worker", func() bool {
		var running int
		s.query([]any{&running}, `select count(*) from batch_lines where state = 'running' and owner = $1`, owner.id)
		return running == 32
	})
	return file, created.ID
}

// victim registers an account on which other users act, and returns the account's id.
func (s *service) victim() string {
	s.t.Helper()
	return s.register("victim-"+uuid.NewString(), "a long sentence")
}

// session signs in to an account once more, and returns the id of the new session.
func (s *service) session(p *person) string {
	s.t.Helper()
	again := *p
	s.signIn(&again).Must(s.t, 200)
	var sessions []struct {
		ID      string
		Current bool
	}
	s.as(&again).Do("GET", "/users/me/sessions", "").Must(s.t, 200).Into(s.t, &sessions)
	for _, found := range sessions {
		if found.Current {
			return found.ID
		}
	}
	s.t.Fatalf("no session of %v is the current one", sessions)
	return ""
}

// canary is a word that only the prompts of the owner's jobs contain.
const canary = "peacockfeather"

var anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// shape returns an answer without its request id, rate-limit headers and UUIDs. These
// parts differ between any two answers.
func shape(a apitest.Answer) string {
	var b strings.Builder
	for _, name := range sortedKeys(a.Header) {
		if name != "X-Request-Id" && !strings.HasPrefix(name, "Ratelimit") {
			b.WriteString(name + ": " + strings.Join(a.Header[name], ", ") + "\n")
		}
	}
	return b.String() + anyUUID.ReplaceAllString(string(a.Body), "ID")
}

// caller is one row of the access matrix.
type caller struct {
	what          string
	person        *person
	authorization string // header value, "" to send none
	authenticated bool   // the service accepts the access token or the API key

	scopes []string // the scopes of the API key, or nil for an access token
}

// permits reports whether the scopes of an API key, if it is one, are enough for the operation.
func (c caller) permits(op *operation) bool {
	return c.scopes == nil || op.Scope == "any" || slices.Contains(c.scopes, op.Scope)
}

// matrixUsers holds the users behind the rows of the access matrix.
type matrixUsers struct {
	owner, other, auditor, admin *person
	disabled, erased             *person
	revoked                      string // an API key
	registered                   int
}

// add signs up a user with a role.
func (c *matrixUsers) add(s *service, name, role string) *person {
	s.t.Helper()
	c.registered++
	p := s.signUp(fmt.Sprintf("%s-%d", name, c.registered))
	if role != "" {
		s.setRole(p, role)
	}
	return p
}

// newMatrixUsers signs up the two users whose accounts are closed. The method renew signs
// up the other users.
func newMatrixUsers(s *service) *matrixUsers {
	s.t.Helper()
	c := &matrixUsers{}
	c.disabled, c.erased = c.add(s, "disabled", ""), c.add(s, "erased", "")
	admin := c.add(s, "admin", "admin")
	s.key(c.disabled, "generate", "read")
	s.key(c.erased, "generate", "read")
	c.revoked = s.key(admin, "generate", "read", "admin")
	s.as(nil).Form("/revoke", "token", c.revoked).Must(s.t, 200)
	s.as(admin).Do("POST", "/users/"+c.disabled.id+"/disable", "").Must(s.t, 200)
	s.as(c.erased).Do("DELETE", "/users/me", fmt.Sprintf(`{"password":%q}`, c.erased.password)).Must(s.t, 204)
	return c
}

// renew signs up each user that is missing, and each user whose session was ended by an
// operation.
func (c *matrixUsers) renew(s *service) {
	s.t.Helper()
	for _, one := range []struct {
		person     **person
		name, role string
	}{{&c.owner, "owner", ""}, {&c.other, "other", ""}, {&c.auditor, "auditor", "auditor"}, {&c.admin, "administrator", "admin"}} {
		if *one.person == nil || s.as(*one.person).Do("GET", "/users/me", "").Status != 200 {
			*one.person = c.add(s, one.name, one.role)
		}
	}
}

// callers returns the callers in the order of their rows. The owner's keys and the owner come
// last, because no other caller may change the owner's objects. The keys of a user come before
// the user, who may erase the account.
func (c *matrixUsers) callers(s *service) []caller {
	s.t.Helper()
	stranger := func(what, credential string) caller {
		return caller{what: what, person: c.other, authorization: credential}
	}
	user := func(what string, p *person) caller {
		return caller{what: what, person: p, authorization: "Bearer " + p.access, authenticated: true}
	}
	key := func(what string, p *person, scopes ...string) caller {
		return caller{what: what, person: p, authorization: "Bearer " + s.key(p, scopes...), authenticated: true, scopes: scopes}
	}
	return []caller{
		stranger("nobody", ""),
		stranger("a forger", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiI"+c.owner.id+"In0."),
		stranger("a disabled user", "Bearer "+c.disabled.access),
		stranger("an erased user", "Bearer "+c.erased.access),
		stranger("a forged key", "Bearer "+c.revoked+"x"),
		stranger("a revoked key", "Bearer "+c.revoked),
		stranger("a key of a disabled user", "Bearer "+s.key(c.disabled, "generate", "read")),
		stranger("a key of an erased user", "Bearer "+s.key(c.erased, "generate", "read")),
		key("a key of another user", c.other, "generate", "read"),
		user("another user", c.other),
		key("an auditor's key for administration", c.auditor, "admin"),
		user("an auditor", c.auditor),
		key("an administrator's key for administration", c.admin, "admin"),
		key("an administrator's other key", c.admin, "generate", "read"),
		user("an administrator", c.admin),
		key("the owner's key that reads", c.owner, "read"),
		key("the owner's key that generates", c.owner, "generate"),
		user("the owner", c.owner),
	}
}

// TestCallersReachOnlyPermittedObjects is the access matrix. It sends every operation of
// the OpenAPI document as every caller to every object. Each caller must reach only the
// objects that the caller may use.
//
// security: ASVS 7.4.2, ASVS 8.2.1, ASVS 8.2.2, ASVS 8.3.1, API1:2023, API5:2023, LLM02:2025
func TestCallersReachOnlyPermittedObjects(t *testing.T) {
	t.Parallel()
	s := newService(t)
	doc := s.fetchDocument()
	rng := rand.New(rand.NewPCG(1, 2))
	users := newMatrixUsers(s)
	cells := 0
	for _, op := range doc.operations {
		users.renew(s)
		targets := s.targets(users.owner, op)
		for _, row := range users.callers(s) {
			role := row.person.role
			if role == "" {
				role = "user"
			}
			allowed := op.Roles == nil || slices.Contains(op.Roles, role)
			unknownShape := "" // shape of the answer for an object that does not exist
			for i, object := range targets {
				before := s.requestEvents()
				g := &generator{Rand: rng, doc: doc, caller: row.person}
				r := g.compose(op)
				for i, segment := range strings.Split(strings.TrimPrefix(op.path, "/"), "/") {
					if name, ok := strings.CutPrefix(segment, "{"); ok {
						r.path[i] = object.ids[strings.TrimSuffix(name, "}")]
					}
				}
				r.query, r.header = nil, nil
				if row.authorization != "" {
					r.header = append(r.header, [2]string{"Authorization", row.authorization})
				}
				a := s.roundTrip(r)
				cells++
				cell := op.String() + " by " + row.what + " to " + object.what
				switch {
				case op.private() && (a.Status == 401) == row.authenticated:
					t.Errorf("%s: %d %s", cell, a.Status, a.Body)
				case op.private() && row.authenticated && !row.permits(op):
					want := "key_not_allowed"
					if op.Scope != "" {
						want = "insufficient_scope"
					}
					if a.Status != 403 || a.Code() != want {
						t.Errorf("%s: %d %s, want 403 %s", cell, a.Status, a.Body, want)
					}
				case op.Roles != nil && row.authenticated && (a.Status == 403) == allowed:
					t.Errorf("%s: %d %s", cell, a.Status, a.Body)
				case object.owned && row.authenticated && (a.Status == 404) == (row.person == users.owner):
					t.Errorf("%s: %d", cell, a.Status)
				}
				if row.person != users.owner && strings.Contains(string(a.Body), canary) {
					t.Errorf("%s: the answer contains the owner's text", cell)
				}
				if op.Roles != nil && allowed && row.authenticated && row.permits(op) && object.what == "an account" {
					targets[i].ids = withID(s.victim()) // a new account for the next caller
				}
				if object.ids == nil || row.person == users.owner || op.Roles != nil && allowed {
					continue
				}
				if after := s.requestEvents(); after != before && object.owned {
					t.Errorf("%s: %d events were added to the owner's jobs", cell, after-before)
				}
				if unknownShape == "" {
					unknownShape = shape(a)
				} else if shape(a) != unknownShape {
					t.Errorf("%s: the answer\n%s\ndiffers from that for an unknown object\n%s", cell, shape(a), unknownShape)
				}
			}
		}
	}
	t.Logf("%d cells, %d operations", cells, len(doc.operations))
	s.checkLogs()
}

// requestEvents returns the number of events that requests have added to jobs. It ignores
// the events of the worker.
func (s *service) requestEvents() (n int) {
	s.t.Helper()
	s.query([]any{&n}, `select count(*) from events where type in ('job.accepted', 'job.cancelled', 'job.erased')`)
	return n
}
