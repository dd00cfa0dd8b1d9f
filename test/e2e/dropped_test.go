package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"colophon/test/apitest"
)

var (
	drops    = flag.Int("drops", 300, "requests of TestRetriedRequestIsCarriedOutOnce, each with at least one lost answer")
	dropSeed = flag.Uint64("drops.seed", uint64(time.Now().UnixNano()), "seed of the moments at which their connections break")
)

// cut is the moment at which a connection breaks.
type cut struct {
	sending   int           // bytes of the request that are sent before the cut; negative means never
	sent      time.Duration // time from the request to the cut; negative means never
	answering int           // bytes of the answer that are received before the cut; negative means never
}

var never = cut{-1, -1, -1}

// drawCut returns a random moment at which a connection breaks. In one of five cases the
// connection breaks while the request is sent. Otherwise it breaks before, during or
// after the answer.
func drawCut(r *rand.Rand) cut {
	c := never
	switch r.IntN(5) {
	case 0:
		c.sending = r.IntN(500)
	case 1, 2:
		c.sent = time.Duration(r.Int64N(int64(20 * time.Millisecond)))
	default:
		c.answering = r.IntN(1000)
	}
	return c
}

// breakingConn is a connection that breaks at the moment in its field cut.
type breakingConn struct {
	net.Conn
	mu  sync.Mutex
	cut cut
}

var errCut = errors.New("the connection was cut")

// reset ends the connection with a TCP reset, as after the crash of a machine.
func (b *breakingConn) reset() error {
	_ = b.Conn.(*net.TCPConn).SetLinger(0)
	_ = b.Conn.Close()
	return errCut
}

func (b *breakingConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	left, sent := b.cut.sending, b.cut.sent
	b.cut.sending -= len(p)
	b.mu.Unlock()
	if left >= 0 && left < len(p) {
		n, _ := b.Conn.Write(p[:left])
		return n, b.reset()
	}
	n, err := b.Conn.Write(p)
	if sent >= 0 {
		time.AfterFunc(sent, func() { _ = b.reset() })
	}
	return n, err
}

func (b *breakingConn) Read(p []byte) (int, error) {
	b.mu.Lock()
	left := b.cut.answering
	b.mu.Unlock()
	if left == 0 {
		return 0, b.reset()
	}
	if left > 0 {
		p = p[:min(len(p), left)]
	}
	n, err := b.Conn.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if left > 0 {
		b.cut.answering -= n
	}
	return n, err
}

// try sends a request over a new connection. The parameter at is the moment at which the
// connection breaks.
func try(ctx context.Context, c apitest.Client, path, body, key string, at cut) (apitest.Answer, error) {
	c.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &breakingConn{Conn: conn, cut: at}, nil
		},
	}
	return c.Send(ctx, "POST", path, body, "Idempotency-Key", key)
}

// TestRetriedRequestIsCarriedOutOnce sends requests whose connections break at various
// moments, up to the time after the answer. It sends each request again with the same
// key, until an answer arrives after at least one failure. Each request must make exactly
// one job or one account.
func TestRetriedRequestIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	t.Logf("-drops.seed %d", *dropSeed)
	s := up(t, "--no-rate-limits", "--max-outstanding-jobs", "0", "--max-queued-jobs", "0")
	c := apitest.NewUser(t, s.URL, "unlucky")
	var sent, lost atomic.Int64
	start := time.Now()
	var mu sync.Mutex
	jobs, accounts := map[string]bool{}, map[string]bool{}
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range numbers {
				r := rand.New(rand.NewPCG(*dropSeed, uint64(i)))
				path, body, all := "/jobs", fmt.Sprintf(`{"prompt":"Light %d","max_new_tokens":1}`, i), jobs
				switch {
				case i%50 == 0:
					path, body, all = "/users", fmt.Sprintf(`{"username":"user-%d","password":%q}`, i, apitest.Password), accounts
				case i%3 == 0:
					path = "/generate"
				}
				var first struct{ ID string }
				for unanswered := 0; ; {
					at := never
					if unanswered == 0 || r.IntN(3) == 0 {
						at = drawCut(r)
					}
					sent.Add(1)
					a, err := try(t.Context(), c, path, body, fmt.Sprintf(`"key-%d"`, i), at)
					if err != nil {
						unanswered++
						lost.Add(1)
						continue
					}
					if a.Status == http.StatusConflict || a.Status == http.StatusServiceUnavailable {
						continue // the request is still in progress, or too many passwords are hashed at once
					}
					var got struct{ ID string }
					if err := json.Unmarshal(a.Body, &got); err != nil || a.Status != 200 && a.Status != 202 || got.ID == "" {
						t.Errorf("%s %d: %d %s", path, i, a.Status, a.Body)
						break
					}
					if first.ID != "" && got != first {
						t.Errorf("%s %d made %s and %s", path, i, first.ID, got.ID)
					}
					if unanswered > 0 {
						mu.Lock()
						all[got.ID] = true
						mu.Unlock()
						break
					}
					first = got // the answer came before the cut; the client ignores this answer
				}
			}
		})
	}
	for i := range *drops {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
	elapsed := time.Since(start)

	var accepted, registered, queued int
	err := s.db.Owner.QueryRow(t.Context(), `
		select (select count(*) from events where type = 'job.accepted'),
			(select count(*) from accounts where username like 'user-%'),
			(select count(distinct args->>'job') from river.river_job)`).Scan(&accepted, &registered, &queued)
	if err != nil {
		t.Fatal(err)
	}
	users := (*drops + 49) / 50
	if n := *drops - users; accepted != n || len(jobs) != n || queued > n {
		t.Errorf("%d requests made %d jobs, of which clients received %d", n, accepted, len(jobs))
	}
	if registered != users || len(accounts) != users {
		t.Errorf("%d requests made %d accounts, of which clients received %d", users, registered, len(accounts))
	}
	t.Logf("%d requests, sent %d times in %v, %d of them without an answer: %d jobs and %d accounts",
		*drops, sent.Load(), elapsed.Round(time.Millisecond), lost.Load(), accepted, registered)
}
