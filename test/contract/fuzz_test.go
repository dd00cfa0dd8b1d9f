package contract

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"colophon/internal/auth"
	"colophon/internal/limit"
	"colophon/test/apitest"
)

var (
	requests = flag.Int("requests", 2000, "requests that TestContract sends")
	seed     = flag.Uint64("seed", 1, "the seed of what they are")
)

const (
	callers  = 6
	patience = time.Minute // for an answer
	earshot  = 300 * time.Millisecond
)

// campaign is one run of requests against one service.
type campaign struct {
	*service
	doc      *document
	requests int
	findings findings

	left    atomic.Int64
	mu      sync.Mutex
	sent    map[string]map[int]int // by kind and status
	tried   coverage
	unsent  int      // requests that no client could send
	renewed int      // accounts that were used up
	shared  []string // ids of everybody's jobs
	joined  []string // ids of accounts that nobody needs
}

// TestContract sends requests that the document allows, requests that it does
// not allow, and sequences of them, and holds every answer against it.
//
// security: ASVS 2.2.1, ASVS 2.2.2, ASVS 4.1.1, ASVS 15.3.1, ASVS 15.3.5, API3:2023, API8:2023
func TestContract(t *testing.T) {
	s := newService(t)
	beside := *s
	beside.t = apitest.Beside(t)
	c := newCampaign(&beside, s.describe(), *requests)
	c.run(s, 0.05)
}

// TestContractOfLimits sends more than the service takes, and holds those answers
// against the document too, with what each says of its limit.
//
// security: ASVS 2.4.1
func TestContractOfLimits(t *testing.T) {
	s := newService(t)
	limited := s.limitedTo(limit.Rate{Requests: 10, Per: time.Second})
	limited.t, limited.url = apitest.Beside(t), s.url // who joins is not counted
	c := newCampaign(limited, s.describe(), 400)
	c.findings.limited = true
	c.run(s, 0)
	if n := c.sent["valid"][429]; n == 0 || c.sent["valid"][200] == 0 {
		t.Errorf("%d valid requests are too many, and %d not", n, c.sent["valid"][200])
	}
}

func newCampaign(s *service, doc *document, requests int) *campaign {
	c := &campaign{service: s, doc: doc, requests: requests, sent: map[string]map[int]int{}, tried: coverage{}}
	c.left.Store(int64(requests))
	return c
}

// run has callers, whom the service of the test's own goroutine knows, send what
// is left to send; some of it in stories.
func (c *campaign) run(s *service, stories float64) {
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		g := &generator{Rand: rand.New(rand.NewPCG(*seed, uint64(i))), doc: c.doc}
		g.who = s.join("caller-" + strconv.Itoa(i))
		if i < 2 { // those who look at others' accounts, and change them
			s.promote(g.who, []auth.Role{auth.Admin, auth.Auditor}[i])
		}
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
	if log := c.log.String(); strings.Contains(log, "panic") {
		c.findings.add(panicked, "the log has\n%.3000s", log)
	}
	c.quiet()
	c.report(time.Since(begin))
}

// report prints what was done, and fails the test for every finding.
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
		total, *seed, len(c.doc.operations), took.Seconds(), callers+c.renewed, c.unsent, strings.Join(lines, "\n"))
	g := &generator{Rand: rand.New(rand.NewPCG(*seed, callers)), doc: c.doc, who: &person{name: "nobody", access: "no.access.token", refresh: "crt_none"}}
	apply, untried := c.tried.missing(g)
	c.t.Logf("%d of %d pairs of operations, parts of them and what is done to them were tried", apply-len(untried), apply)
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
				c.t.Errorf("there is nothing to do %q to", kind)
				return
			}
			r = g.compose(pick(g, c.doc.operations...))
		}
		r.kind, r.valid = kind, false
	}
	c.send(g, r)
}

// send sends a request, judges the answer and learns from it.
func (c *campaign) send(g *generator, r *request) apitest.Answer {
	out := r.http()
	if out == nil {
		c.mu.Lock()
		c.unsent++
		c.mu.Unlock()
		return apitest.Answer{}
	}
	wait := patience
	if strings.Contains(out.Header.Get("Accept"), "text/event-stream") {
		wait = earshot // of a job that waits for its turn
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	out = out.WithContext(ctx)
	a := c.serve(out)
	c.left.Add(-1)
	c.mu.Lock()
	if c.sent[r.kind] == nil {
		c.sent[r.kind] = map[int]int{}
	}
	c.sent[r.kind][a.Status]++
	c.tried.add(r)
	c.mu.Unlock()
	c.findings.judge(g, r, out, a)
	if r.valid && a.Status == 401 && r.op.private() {
		if _, err := c.auth.Verify(ctx, g.who.access); err == nil {
			c.findings.add(refused, "%s\n    answered 401 to a valid access token", r)
		}
	}
	c.learn(g, r, a)
	return a
}

// learn keeps what later requests can be about.
func (c *campaign) learn(g *generator, r *request, a apitest.Answer) {
	const keep = 50
	if tag := a.Header.Get("ETag"); tag != "" {
		g.etag = tag
	}
	if r.op.private() && !r.guest && a.Status == 401 { // a request has ended the session or the account
		c.mu.Lock()
		c.renewed++
		name := fmt.Sprintf("caller-%d-%d", *seed, c.renewed)
		c.mu.Unlock()
		role := g.who.role
		g.who, g.own = c.join(name), nil
		if role != "" {
			c.promote(g.who, role)
		}
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

// story is a life of an account: it joins, has a job, and goes through all that
// can be done to it in any order, as itself and as somebody else.
func (c *campaign) story(g *generator) {
	c.mu.Lock()
	c.renewed += 2
	n := c.renewed
	c.mu.Unlock()
	owner, other := c.join(fmt.Sprintf("owner-%d-%d", *seed, n)), c.join(fmt.Sprintf("other-%d-%d", *seed, n))
	id := c.as(owner).Submit(`{"prompt":"a story","max_length":20}`)
	var about []*operation
	for _, op := range c.doc.operations {
		if strings.HasPrefix(op.path, "/jobs/{") {
			about = append(about, op)
		}
	}
	for range 4 + g.IntN(12) {
		op := pick(g, about...)
		as, want := owner, ""
		if g.chance(0.4) {
			as, want = other, "404"
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
		if teller.who != as {
			return // the account is used up
		}
		if got := strconv.Itoa(a.Status); want != "" && got != want {
			c.findings.add(crossed, "%s\n    answered %d to somebody else: %.500s", r, a.Status, a.Body)
		} else if want == "" && a.Status == 404 {
			c.findings.add(crossed, "%s\n    answered 404 to its owner", r)
		}
	}
}
