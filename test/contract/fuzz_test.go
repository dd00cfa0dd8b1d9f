package contract

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/test/apitest"
)

var (
	requests = flag.Int("requests", 2000, "number of requests that TestContract sends")
	seed     = flag.Uint64("seed", 1, "seed of the generated requests")
)

// callers is the number of accounts that send requests at the same time.
const callers = 6

// campaign is one run of requests against one service.
type campaign struct {
	*service
	doc      *document
	requests int
	findings findings

	// thorough is a number of requests. A run with at least this many requests must try
	// every mutation on every operation to which it applies.
	thorough int

	check func(*generator, *request, *http.Request, apitest.Answer) // checks an answer

	left       atomic.Int64
	mu         sync.Mutex
	sent       map[string]map[int]int // number of requests by kind and status
	tried      coverage
	unsent     int      // number of requests that no client could send
	accounts   int      // number of accounts registered during the run
	jobIDs     []string // latest jobs of all callers
	accountIDs []string // latest accounts that no caller uses
}

// TestContract sends requests that the document allows, requests that the document does
// not allow, and sequences of requests. Every answer must agree with the document.
//
// security: ASVS 2.2.1, ASVS 2.2.2, ASVS 4.1.1, ASVS 15.3.1, ASVS 15.3.5, API3:2023, API8:2023
func TestContract(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.startWorker()
	c := newCampaign(s.withT(apitest.Beside(t)), s.fetchDocument(), *requests)
	c.run(s, c.contractStep)
}

// TestContractHoldsUnderRateLimits sends more requests than the service accepts. The
// refusals and the rate-limit headers must agree with the document too.
//
// security: ASVS 2.4.1
func TestContractHoldsUnderRateLimits(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.startWorker()
	limited := s.withT(apitest.Beside(t))
	limited.wire = s.rateLimited("10/10s").wire // the service s registers the accounts, because it has no limit
	c := newCampaign(limited, s.fetchDocument(), 400)
	c.findings.rateLimited = true
	c.run(s, c.sendOne)
	if n := c.sent["valid"][429]; n == 0 || c.sent["valid"][200] == 0 {
		t.Errorf("%d valid requests were over the limit, %d were answered 200", n, c.sent["valid"][200])
	}
}

func newCampaign(s *service, doc *document, requests int) *campaign {
	c := &campaign{service: s, doc: doc, requests: requests, thorough: 20_000, sent: map[string]map[int]int{}, tried: coverage{}}
	c.check = c.findings.checkAnswer
	c.left.Store(int64(requests))
	return c
}

// run sends the requests of the campaign from several callers at once. Each call of step
// sends at least one request. The callers sign up through s, in the test's own goroutine.
func (c *campaign) run(s *service, step func(*generator)) {
	begin := time.Now()
	all := make([]*generator, callers)
	for i := range all {
		all[i] = &generator{Rand: rand.New(rand.NewPCG(*seed, uint64(i))), doc: c.doc, caller: s.signUp("caller-" + strconv.Itoa(i))}
		if i < 2 { // an admin and an auditor may read or change the accounts of other users
			s.setRole(all[i].caller, []string{"admin", "auditor"}[i])
		}
	}
	var wg sync.WaitGroup
	for _, g := range all {
		wg.Go(func() {
			for c.left.Load() > 0 {
				step(g)
			}
		})
	}
	wg.Wait()
	for _, line := range c.logged("panic") {
		c.findings.add(panicked, "the log has\n%.3000s", line)
	}
	c.checkLogs()
	c.report(time.Since(begin))
}

// report logs the requests by kind and status, and fails the test for every finding.
func (c *campaign) report(took time.Duration) {
	total, lines := 0, []string{}
	for _, kind := range sortedKeys(c.sent) {
		n := 0
		var statuses []string
		if m := c.sent[kind][unanswered]; m > 0 {
			n += m
			statuses = append(statuses, fmt.Sprintf("none: %d", m))
		}
		for status := 100; status < 600; status++ {
			if m := c.sent[kind][status]; m > 0 {
				n += m
				statuses = append(statuses, fmt.Sprintf("%d: %d", status, m))
			}
		}
		total += n
		lines = append(lines, fmt.Sprintf("%-24s %7d  %s", kind, n, strings.Join(statuses, ", ")))
	}
	c.t.Logf("%d requests with seed %d to %d operations in %.0f s, by %d accounts; %d others could not be sent\n%s",
		total, *seed, len(c.doc.operations), took.Seconds(), callers+c.accounts, c.unsent, strings.Join(lines, "\n"))
	g := &generator{Rand: rand.New(rand.NewPCG(*seed, callers)), doc: c.doc, caller: &person{name: "nobody", access: "no.access.token", refresh: "crt_none"}}
	pairs, untried := c.tried.missing(g)
	c.t.Logf("%d of %d pairs of an operation and a mutation or a part were tried", pairs-len(untried), pairs)
	if c.requests >= c.thorough && len(untried) > 0 {
		c.t.Errorf("never tried:\n%s", strings.Join(untried, "\n"))
	}
	for _, kind := range kinds {
		c.t.Logf("%6d %s", c.findings.count[kind], kind)
		if c.findings.count[kind] > 0 {
			c.t.Errorf("%s:\n%s", kind, strings.Join(c.findings.first[kind], "\n"))
		}
	}
}

// contractStep sends one request or a sequence of requests.
func (c *campaign) contractStep(g *generator) {
	if g.chance(0.05) {
		c.sequence(g)
	} else {
		c.sendOne(g)
	}
}

// sendOne sends one request, which is valid or mutated.
func (c *campaign) sendOne(g *generator) {
	if r := c.draw(func() *request { return g.compose(pick(g, c.doc.operations...)) }, g, 0.6); r != nil {
		c.send(g, r)
	}
}

// draw returns a request that compose has made. With the given probability it changes the
// request by a random mutation.
func (c *campaign) draw(compose func() *request, g *generator, mutated float64) *request {
	r := compose()
	if !g.chance(mutated) {
		return r
	}
	kind := pick(g, sortedKeys(mutations)...)
	for tries := 0; !mutations[kind](g, r); tries++ {
		if tries == 1000 {
			c.t.Errorf("the mutation %q applies to no request", kind)
			c.left.Store(0)
			return nil
		}
		r = compose()
	}
	r.kind, r.valid = kind, false
	return r
}

// send sends a request, checks the answer, and keeps data of the answer for later
// requests.
func (c *campaign) send(g *generator, r *request) apitest.Answer {
	out := r.http()
	if out == nil {
		c.mu.Lock()
		c.unsent++
		c.mu.Unlock()
		return apitest.Answer{}
	}
	a, err := c.exchange(r, out)
	if err != nil {
		c.t.Fatalf("%s: %v", r, err)
	}
	c.left.Add(-1)
	c.tally(r.kind, a.Status, 1)
	c.mu.Lock()
	c.tried.add(r)
	c.mu.Unlock()
	c.check(g, r, out, a)
	if r.valid && a.Status == 401 && r.op.private() && !c.ended(g.caller) {
		c.findings.add(refusedValid, "%s\n    answered 401 to a valid access token", r)
	}
	c.learn(g, r, a)
	return a
}

// unanswered stands for the status of a request that got no answer.
const unanswered = 0

// tally counts requests of a kind whose answers have a status.
func (c *campaign) tally(kind string, status, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent[kind] == nil {
		c.sent[kind] = map[int]int{}
	}
	c.sent[kind][status] += n
}

// exchange sends a request and returns the answer. Requests for which the service hashes
// a password are sent one at a time.
func (c *campaign) exchange(r *request, out *http.Request) (apitest.Answer, error) {
	if c.doc.hashesPassword(r.op) {
		c.hashing.Lock()
		defer c.hashing.Unlock()
	}
	return c.wire.send(r, out)
}

// learn keeps the ETag and the id of an answer for later requests. It signs a caller in
// again if the caller's session has ended.
func (c *campaign) learn(g *generator, r *request, a apitest.Answer) {
	const keep = 50
	if tag := a.Header.Get("ETag"); tag != "" {
		g.etag = tag
	}
	if r.op.private() && !r.unauthorized && a.Status == 401 {
		c.renew(g)
	}
	var j struct{ ID, State, Prefix string }
	if a.Status/100 != 2 || json.Unmarshal(a.Body, &j) != nil || j.ID == "" || j.ID == g.caller.id || j.Prefix != "" { // only an API key has a prefix
		return
	}
	if _, err := uuid.Parse(j.ID); err != nil { // the name of a model, or the id of an answer in OpenAI's form
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.State == "" {
		c.accountIDs = append(c.accountIDs[max(0, len(c.accountIDs)-keep):], j.ID)
		return
	}
	g.own = append(g.own[max(0, len(g.own)-keep):], j.ID)
	c.jobIDs = append(c.jobIDs[max(0, len(c.jobIDs)-keep):], j.ID)
	g.foreign = append(g.foreign[:0], c.accountIDs...)
	for _, id := range c.jobIDs {
		if id != j.ID && !slices.Contains(g.own, id) {
			g.foreign = append(g.foreign, id)
		}
	}
}

// renew signs a caller in again. The caller gets a new account if the old account is
// closed, or if a mutation has changed the password of that account.
func (c *campaign) renew(g *generator) {
	var open bool
	c.query([]any{&open}, `select disabled_at is null from accounts where id = $1`, g.caller.id)
	if open && c.signIn(g.caller).Status == 200 {
		return
	}
	role := g.caller.role
	g.caller, g.own = c.newPerson("caller"), nil
	if role != "" {
		c.setRole(g.caller, role)
	}
}

// newPerson registers an account with a unique name.
func (c *campaign) newPerson(name string) *person {
	c.mu.Lock()
	c.accounts++
	n := c.accounts
	c.mu.Unlock()
	return c.signUp(fmt.Sprintf("%s-%d-%d", name, *seed, n))
}

// sequence creates a job and sends requests about this job in random order. The owner of
// the job sends some of the requests, and another user sends the others. All sequences of
// a generator have the same two users.
func (c *campaign) sequence(g *generator) {
	if g.owner == nil {
		g.owner, g.other = c.newPerson("owner"), c.newPerson("other")
	}
	id := c.as(g.owner).Submit(`{"prompt":"a sequence","max_length":20}`)
	var ops []*operation
	for _, op := range c.doc.operations {
		if strings.HasPrefix(op.path, "/jobs/{") {
			ops = append(ops, op)
		}
	}
	for range 4 + g.IntN(12) {
		op := pick(g, ops...)
		as, want := g.owner, ""
		if g.chance(0.4) {
			as, want = g.other, "404 not_found"
		}
		sender := &generator{Rand: g.Rand, doc: g.doc, caller: as, own: []string{id}}
		r := sender.compose(op)
		r.kind = "in sequence"
		for i, segment := range strings.Split(strings.TrimPrefix(op.path, "/"), "/") {
			if segment == "{id}" {
				r.path[i] = id
			}
		}
		a := c.send(sender, r)
		if sender.caller != as { // the account was closed, so send has given the caller another one
			g.owner = nil
			return
		}
		if got := strconv.Itoa(a.Status) + " " + a.Code(); want != "" && got != want {
			c.findings.add(reachedForeign, "%s\n    answered %d to another user: %.500s", r, a.Status, a.Body)
		} else if want == "" && a.Status == 404 && !slices.Contains(refusals[op.OperationID], a.Code()) {
			c.findings.add(reachedForeign, "%s\n    answered 404 to the owner", r)
		}
	}
}
