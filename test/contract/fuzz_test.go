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

	"colophon/test/apitest"
)

var (
	requests = flag.Int("requests", 2000, "number of requests that TestContract sends")
	seed     = flag.Uint64("seed", 1, "seed of the generated requests")
)

// callers is how many accounts send requests at the same time.
const callers = 6

// campaign is one run of requests against one service.
type campaign struct {
	*service
	doc      *document
	requests int
	findings findings

	left   atomic.Int64
	mu     sync.Mutex
	sent   map[string]map[int]int // by kind and status
	tried  coverage
	unsent int      // requests that no client could send
	people int      // accounts registered so far
	shared []string // ids of all callers' jobs
	joined []string // ids of accounts that no caller uses
}

// TestContract sends requests that the document allows, requests that it does not
// allow, and sequences of requests, and checks every answer against the document.
//
// security: ASVS 2.2.1, ASVS 2.2.2, ASVS 4.1.1, ASVS 15.3.1, ASVS 15.3.5, API3:2023, API8:2023
func TestContract(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.work()
	c := newCampaign(s.in(apitest.Beside(t)), s.describe(), *requests)
	c.run(s, 0.05)
}

// TestContractHoldsUnderRateLimits sends more requests than the service accepts. It
// checks those answers too, and the headers that tell of the limit.
//
// security: ASVS 2.4.1
func TestContractHoldsUnderRateLimits(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.work()
	limited := s.in(apitest.Beside(t))
	limited.wire = s.limited("10/10s").wire // the callers themselves join without a limit
	c := newCampaign(limited, s.describe(), 400)
	c.findings.limited = true
	c.run(s, 0)
	if n := c.sent["valid"][429]; n == 0 || c.sent["valid"][200] == 0 {
		t.Errorf("%d valid requests were over the limit, and %d were not", n, c.sent["valid"][200])
	}
}

func newCampaign(s *service, doc *document, requests int) *campaign {
	c := &campaign{service: s, doc: doc, requests: requests, sent: map[string]map[int]int{}, tried: coverage{}}
	c.left.Store(int64(requests))
	return c
}

// run sends all requests of the campaign from several callers at once, a share of
// them in stories. The callers join through s, in the test's own goroutine.
func (c *campaign) run(s *service, stories float64) {
	begin := time.Now()
	all := make([]*generator, callers)
	for i := range all {
		all[i] = &generator{Rand: rand.New(rand.NewPCG(*seed, uint64(i))), doc: c.doc, who: s.join("caller-" + strconv.Itoa(i))}
		if i < 2 { // these may look at the accounts of others, and change them
			s.promote(all[i].who, []string{"admin", "auditor"}[i])
		}
	}
	var wg sync.WaitGroup
	for _, g := range all {
		wg.Go(func() {
			for c.left.Load() > 0 {
				if g.chance(stories) {
					c.story(g)
				} else {
					c.one(g)
				}
			}
		})
	}
	wg.Wait()
	for _, line := range c.logged("panic") {
		c.findings.add(panicked, "the log has\n%.3000s", line)
	}
	c.quiet()
	c.report(time.Since(begin))
}

// report prints what was sent, and fails the test for every finding.
func (c *campaign) report(took time.Duration) {
	total, lines := 0, []string{}
	for _, kind := range sortedKeys(c.sent) {
		n := 0
		var statuses []string
		for status := 100; status < 600; status++ {
			if m := c.sent[kind][status]; m > 0 {
				n += m
				statuses = append(statuses, fmt.Sprintf("%d: %d", status, m))
			}
		}
		total += n
		lines = append(lines, fmt.Sprintf("%-18s %7d  %s", kind, n, strings.Join(statuses, ", ")))
	}
	c.t.Logf("%d requests with seed %d to %d operations in %.0f s, by %d accounts; %d others could not be sent\n%s",
		total, *seed, len(c.doc.operations), took.Seconds(), callers+c.people, c.unsent, strings.Join(lines, "\n"))
	g := &generator{Rand: rand.New(rand.NewPCG(*seed, callers)), doc: c.doc, who: &person{name: "nobody", access: "no.access.token", refresh: "crt_none"}}
	apply, untried := c.tried.missing(g)
	c.t.Logf("%d of %d pairs of an operation and a mutation or a part were tried", apply-len(untried), apply)
	if c.requests >= thorough && len(untried) > 0 {
		c.t.Errorf("never tried:\n%s", strings.Join(untried, "\n"))
	}
	for _, kind := range kinds {
		c.t.Logf("%6d %s", c.findings.count[kind], kind)
		if c.findings.count[kind] > 0 {
			c.t.Errorf("%s:\n%s", kind, strings.Join(c.findings.first[kind], "\n"))
		}
	}
}

// one sends one request, valid or not.
func (c *campaign) one(g *generator) {
	r := g.compose(pick(g, c.doc.operations...))
	if g.chance(0.6) {
		kind := pick(g, sortedKeys(mutations)...)
		for tries := 0; !mutations[kind](g, r); tries++ {
			if tries == 1000 {
				c.t.Errorf("the mutation %q applies to no request", kind)
				return
			}
			r = g.compose(pick(g, c.doc.operations...))
		}
		r.kind, r.valid = kind, false
	}
	c.send(g, r)
}

// send sends a request, judges the answer, and keeps from it what later requests
// need.
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
	c.mu.Lock()
	if c.sent[r.kind] == nil {
		c.sent[r.kind] = map[int]int{}
	}
	c.sent[r.kind][a.Status]++
	c.tried.add(r)
	c.mu.Unlock()
	c.findings.judge(g, r, out, a)
	if r.valid && a.Status == 401 && r.op.private() && !c.ended(g.who) {
		c.findings.add(refused, "%s\n    answered 401 to a valid access token", r)
	}
	c.learn(g, r, a)
	return a
}

// exchange sends a request when its turn has come.
func (c *campaign) exchange(r *request, out *http.Request) (apitest.Answer, error) {
	if c.doc.hashes(r.op) {
		c.hashing.Lock()
		defer c.hashing.Unlock()
	}
	return c.wire.send(r, out)
}

// learn keeps what later requests can be about, and lets a caller whose session
// has ended begin another one.
func (c *campaign) learn(g *generator, r *request, a apitest.Answer) {
	const keep = 50
	if tag := a.Header.Get("ETag"); tag != "" {
		g.etag = tag
	}
	if r.op.private() && !r.guest && a.Status == 401 {
		c.renew(g)
	}
	var j struct{ ID, State string }
	if a.Status/100 != 2 || json.Unmarshal(a.Body, &j) != nil || j.ID == "" || j.ID == g.who.id {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.State == "" {
		c.joined = append(c.joined[max(0, len(c.joined)-keep):], j.ID)
		return
	}
	g.own = append(g.own[max(0, len(g.own)-keep):], j.ID)
	c.shared = append(c.shared[max(0, len(c.shared)-keep):], j.ID)
	g.far = append(g.far[:0], c.joined...)
	for _, id := range c.shared {
		if id != j.ID && !slices.Contains(g.own, id) {
			g.far = append(g.far, id)
		}
	}
}

// renew signs a caller in again. An account that is closed, or whose password a
// mutation has changed, is replaced.
func (c *campaign) renew(g *generator) {
	var open bool
	c.query([]any{&open}, `select disabled_at is null from accounts where id = $1`, g.who.id)
	if open && c.signIn(g.who).Status == 200 {
		return
	}
	role := g.who.role
	g.who, g.own = c.newcomer("caller"), nil
	if role != "" {
		c.promote(g.who, role)
	}
}

// newcomer registers an account with a name that no other has.
func (c *campaign) newcomer(name string) *person {
	c.mu.Lock()
	c.people++
	n := c.people
	c.mu.Unlock()
	return c.join(fmt.Sprintf("%s-%d-%d", name, *seed, n))
}

// story sends all requests about one job in any order, as the owner of the job and
// as another user. The stories of a generator have the same two users.
func (c *campaign) story(g *generator) {
	if g.owner == nil {
		g.owner, g.other = c.newcomer("owner"), c.newcomer("other")
	}
	id := c.as(g.owner).Submit(`{"prompt":"a story","max_length":20}`)
	var about []*operation
	for _, op := range c.doc.operations {
		if strings.HasPrefix(op.path, "/jobs/{") {
			about = append(about, op)
		}
	}
	for range 4 + g.IntN(12) {
		op := pick(g, about...)
		as, want := g.owner, ""
		if g.chance(0.4) {
			as, want = g.other, "404"
		}
		teller := &generator{Rand: g.Rand, doc: g.doc, who: as, own: []string{id}}
		r := teller.compose(op)
		r.kind = "in sequence"
		for i, segment := range strings.Split(strings.TrimPrefix(op.path, "/"), "/") {
			if segment == "{id}" {
				r.path[i] = id
			}
		}
		a := c.send(teller, r)
		if teller.who != as { // the account is closed
			g.owner = nil
			return
		}
		if got := strconv.Itoa(a.Status); want != "" && got != want {
			c.findings.add(crossed, "%s\n    answered %d to another user: %.500s", r, a.Status, a.Body)
		} else if want == "" && a.Status == 404 {
			c.findings.add(crossed, "%s\n    answered 404 to its owner", r)
		}
	}
}
