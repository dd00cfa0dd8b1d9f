package contract

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"

	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// hostileVariable is the environment variable with the number of requests that
// TestServiceSurvivesHostileRequests sends.
const hostileVariable = "COLOPHON_TEST_HOSTILE_REQUESTS"

// These constants limit the goroutines and the memory that the process may keep after all
// connections are closed. They leave room for caches and pools.
const (
	moreGoroutines = 30
	moreHeap       = 48 << 20 // bytes
)

// TestServiceSurvivesHostileRequests sends hostile requests to a process that serves HTTP
// and runs jobs. Half of them are requests for operations of the OpenAPI document, most
// of them mutated. The others are texts that no HTTP client would send. No answer may
// have a status of 500 or above, except a documented 503. The service must not panic,
// repeat submitted values, or keep memory or goroutines.
//
// The number of requests is COLOPHON_TEST_HOSTILE_REQUESTS, 1000 by default. The report
// has the seed of the run. A finding has the whole request.
//
// security: ASVS 4.2.1, ASVS 16.5.1, API4:2023, API8:2023
func TestServiceSurvivesHostileRequests(t *testing.T) {
	t.Parallel()
	requests := 1000
	if n, err := strconv.Atoi(os.Getenv(hostileVariable)); err == nil {
		requests = n
	}
	s := &service{t: t, db: programtest.Database(t), started: new([]*programtest.Process), hashing: new(sync.Mutex)}
	s.env = []string{"COLOPHON_DATA=" + t.TempDir(), "DATABASE_URL=" + s.db.URL, "COLOPHON_LOG_LEVEL=debug"} // net/http logs panics at this level
	s.listen("up", "--no-rate-limits", "--admin-listen", "127.0.0.1:0")
	s.api.Await("serving metrics and profiles")
	admin := adminListener{t, regexp.MustCompile(`url=(http://\S+)/metrics`).FindStringSubmatch(s.api.Log())[1]}
	h := &hostile{newCampaign(s.withT(apitest.Beside(t)), s.fetchDocument(), requests), map[string]int{}}
	h.thorough, h.campaign.check = 100_000, h.check

	before := admin.usage()
	h.run(s, h.step)
	if !s.api.Running() {
		t.Fatal("the service has ended")
	}
	s.as(nil).Do("GET", "/readyz", "").Must(t, 200)
	s.eventually("all jobs have ended", func() bool {
		var outstanding int
		s.query([]any{&outstanding}, `select count(*) from history where state in ('queued', 'running')`)
		return outstanding == 0
	})
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	after := admin.usage()
	s.eventually("the goroutines of all requests have ended", func() bool {
		after = admin.usage()
		return after.goroutines <= before.goroutines+moreGoroutines
	})
	t.Logf("answers of 503: %v\nbefore: %s\nafter:  %s", h.codes, before, after)
	if after.heap > before.heap+moreHeap {
		t.Errorf("the heap has grown from %d to %d bytes", before.heap, after.heap)
	}
	s.api.Stop()
}

// adminListener is the listener for operators of a process.
type adminListener struct {
	t   testing.TB
	url string
}

// usage is the number of goroutines of a process and its memory in bytes.
type usage struct{ goroutines, heap, resident int }

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %.1f MiB of heap, %.1f MiB resident", u.goroutines, float64(u.heap)/(1<<20), float64(u.resident)/(1<<20))
}

// usage runs the garbage collector of the process and then reads the metrics of the
// process.
func (l adminListener) usage() usage {
	l.t.Helper()
	l.get("/debug/pprof/heap?gc=1")
	metrics := l.get("/metrics")
	read := func(name string) int {
		found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(metrics)
		if found == nil {
			l.t.Fatalf("no metric %s", name)
		}
		n, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			l.t.Fatal(err)
		}
		return int(n)
	}
	return usage{read("go_goroutines"), read("go_memstats_heap_alloc_bytes"), read("process_resident_memory_bytes")}
}

func (l adminListener) get(path string) string {
	l.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, l.url+path, http.NoBody)
	if err != nil {
		l.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		l.t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
	}
	return string(body)
}

// hostile is a campaign that measures only whether the service survives. It does not
// compare the answers with the schemas of the document, as TestContract does.
type hostile struct {
	*campaign
	codes map[string]int // number of answers of 503 by problem code
}

// check counts an answer of 503 by its problem code, and checks the answer.
func (h *hostile) check(g *generator, r *request, out *http.Request, a apitest.Answer) {
	h.note(a)
	h.findings.checkSafety(g, r, out, a)
}

func (h *hostile) note(a apitest.Answer) {
	if a.Status == http.StatusServiceUnavailable {
		code := a.Code()
		h.mu.Lock()
		h.codes[code]++
		h.mu.Unlock()
	}
}

// step sends one request, or one text over a connection of its own.
func (h *hostile) step(g *generator) {
	if g.chance(0.5) {
		h.attack(g)
		return
	}
	r := h.draw(func() *request { return h.compose(g) }, g, 0.75)
	if r == nil || h.costly(r) && !g.chance(0.03) {
		return
	}
	if r.kind == "valid" && g.chance(0.25) {
		r.kind, r.valid = "without an account", false
		r.header = slices.DeleteFunc(r.header, func(h [2]string) bool { return h[0] == "Authorization" })
		r.unauthorized = r.op.private()
	}
	h.send(g, r)
}

// compose returns a random valid request. If the request creates a job, the job has one
// token, so that the run measures the service and not the model.
func (h *hostile) compose(g *generator) *request {
	r := g.compose(pick(g, h.doc.operations...))
	if o, ok := r.body.(object); ok && o.at("prompt") >= 0 {
		r.body = o.without("max_length").with("max_new_tokens", int64(1))
	}
	return r
}

// costly reports whether the request probably makes the service hash a password or end
// the caller's session. After the end of the session the caller would have to sign in
// again, which hashes a password too.
func (h *hostile) costly(r *request) bool {
	if r.invalid || r.unauthorized || r.unknownRoute {
		return false
	}
	return h.doc.hashesPassword(r.op) || r.op.OperationID == "revoke" || r.op.OperationID == "sign-out-everywhere"
}

// attack sends one attack and checks the answers.
func (h *hostile) attack(g *generator) {
	kind := pick(g, sortedKeys(attacks)...)
	a := attacks[kind](h, g)
	a.kind = kind
	answers, err := h.wire.sendText(a.text, a.method, a.ends)
	h.left.Add(-int64(a.requests))
	for _, answer := range answers {
		h.tally(kind, answer.Status, 1)
		h.note(answer)
	}
	if missing := a.requests - len(answers); missing > 0 {
		h.tally(kind, unanswered, missing)
	}
	h.findings.checkAttack(a, answers, err)
}
