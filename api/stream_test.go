package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
	"colophon/test/apitest"
)

// quick has short timeouts. As in production, beat is longer than write. The slow reader
// of these tests reads each write within the timeout write.
var quick = timeouts{body: time.Minute, answer: time.Minute, write: 4 * time.Second, beat: 4500 * time.Millisecond}

// streamed is a server that streams the events of one job.
type streamed struct {
	store *events.Store
	job   events.Job
	url   string
	ended chan string // receives the path of each stream that has ended

	handler http.Handler
	db      *pgtest.DB
	stop    context.CancelFunc
	still   func() // ends the background work of the store

	caller auth.Identity // the caller of the streams that open from now on
}

func newStreamed(t *testing.T) *streamed {
	t.Helper()
	db := pgtest.New(t, migrations.Up)
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.MasterKeySize))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	f := &streamed{db: db, store: events.NewStore(db.App, v, log), ended: make(chan string, 10)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.store.Run(ctx, nil) })
	f.still = func() { cancel(); wg.Wait() }
	t.Cleanup(f.still)
	owner := uuid.Must(uuid.NewV7())
	err = f.store.Write(t.Context(), func(tx *events.Tx) error {
		return tx.AppendAccount(ctx, owner, events.AccountRegistered{Username: "somebody"})
	})
	if err != nil {
		t.Fatal(err)
	}
	f.job = events.Job{ID: uuid.Must(uuid.NewV7()), Owner: owner}
	f.put(t, events.JobAccepted{Prompt: "prompt", Model: "m"}, events.JobStarted{Attempt: 1, Worker: "w", Weights: "w/f32"})
	stopping, stop := context.WithCancel(context.Background())
	f.stop = stop
	accounts, err := auth.New(t.Context(), db.App, f.store, v, auth.Options{Issuer: "test", Audience: "test"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(Options{Store: f.store, Auth: accounts, Stopping: stopping, Log: log, timeouts: quick})
	if err != nil {
		t.Fatal(err)
	}
	job := f.job
	f.caller = auth.Identity{Account: owner, Session: uuid.New(), Expires: time.Now().Add(time.Hour)}
	f.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = s.send(context.WithValue(r.Context(), identityKey, f.caller), w, 0, s.messages(job, 0))
		f.ended <- r.URL.Path
	})
	srv := httptest.NewServer(f.handler)
	t.Cleanup(srv.Close)
	t.Cleanup(stop) // runs before srv.Close, which waits for streams
	f.url = srv.URL
	return f
}

func (f *streamed) put(t *testing.T, facts ...events.Fact) {
	t.Helper()
	for _, fact := range facts {
		var err error
		if f.job, err = f.store.AppendJob(context.Background(), f.job, fact); err != nil {
			t.Fatal(err)
		}
	}
}

// open requests the stream over plain HTTP, and returns the connection.
func (f *streamed) open(t *testing.T, path string) io.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path)
	return conn
}

// overTLS starts a TLS server for the stream. The returned function requests the stream
// like open, but over HTTP/2 or HTTP/1.1 with TLS.
func (f *streamed) overTLS(t *testing.T, http2 bool) func(*testing.T, string) io.Reader {
	t.Helper()
	srv := httptest.NewUnstartedServer(f.handler)
	srv.EnableHTTP2 = http2
	srv.StartTLS()
	t.Cleanup(srv.Close)
	t.Cleanup(f.stop)
	return func(t *testing.T, path string) io.Reader {
		t.Helper()
		resp, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if http2 != (resp.ProtoMajor == 2) {
			t.Fatalf("the protocol is %s", resp.Proto)
		}
		return resp.Body
	}
}

// TestStalledClientIsDropped streams to a fast client, to a slow client, and to a client
// that stops reading. Only the last client must be dropped. The other clients must not
// wait for it.
func TestStalledClientIsDropped(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, *streamed) func(*testing.T, string) io.Reader{
		"plain":  func(_ *testing.T, f *streamed) func(*testing.T, string) io.Reader { return f.open },
		"TLS":    func(t *testing.T, f *streamed) func(*testing.T, string) io.Reader { return f.overTLS(t, false) },
		"HTTP/2": func(t *testing.T, f *streamed) func(*testing.T, string) io.Reader { return f.overTLS(t, true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newStreamed(t)
			testDropped(t, f, open(t, f))
		})
	}
}

func testDropped(t *testing.T, f *streamed, open func(*testing.T, string) io.Reader) {
	// After this first byte, the client's transport reads only a little more by itself.
	// The stream therefore stalls.
	stalled := bufio.NewReaderSize(open(t, "/stalled"), 16)
	if _, err := stalled.ReadByte(); err != nil {
		t.Fatal(err)
	}
	read := func(conn io.Reader, pause time.Duration) <-chan string {
		lines := make(chan string, 1000)
		go func() {
			defer close(lines)
			s := bufio.NewScanner(conn)
			s.Buffer(nil, 1<<20)
			for s.Scan() {
				if kind, ok := strings.CutPrefix(s.Text(), "event: "); ok {
					lines <- kind
					time.Sleep(pause)
				} else if strings.HasPrefix(s.Text(), ":") {
					lines <- "beat"
				}
			}
		}()
		return lines
	}
	fast, slow := read(open(t, "/fast"), 0), read(open(t, "/slow"), 12*time.Millisecond)
	const many = 120
	text := strings.Repeat("x", 64<<10) // all texts together are larger than the buffers of the sockets
	for range many {
		f.put(t, events.JobAdvanced{Tokens: []int{1}, Text: text})
	}
	begin := time.Now()
	hear := func(from <-chan string, wanted string, times int) {
		t.Helper()
		for range times {
			for kind := range from {
				if kind == wanted {
					break
				}
			}
		}
	}
	hear(fast, "job.advanced", many)
	t.Logf("the fast client has all events %s after the last one", time.Since(begin))
	if took := time.Since(begin); took > quick.write {
		t.Errorf("the fast client waited for the stalled one: %s", took)
	}
	if who := <-f.ended; who != "/stalled" {
		t.Fatalf("the stream of %s ended first", who)
	}
	t.Logf("the stalled client is dropped %s after the last event", time.Since(begin))
	if took := time.Since(begin); took > 10*time.Second { // dropping takes 4 s on an idle machine
		t.Errorf("the stalled client is dropped after %s", took)
	}
	hear(slow, "job.advanced", many)
	hear(slow, "beat", 1)
	hear(fast, "beat", 1)
	f.put(t, events.JobCompleted{FinishReason: "stop"})
	hear(slow, "job.completed", 1)
	hear(fast, "job.completed", 1)
}

// TestStoppingServiceEndsStreams stops the service while a client follows a job. The
// stream must end with a retry field, which tells the client that the job goes on and
// when to resume.
func TestStoppingServiceEndsStreams(t *testing.T) {
	t.Parallel()
	f := newStreamed(t)
	f.endsWithRetry(t, f.stop)
}

// TestExpiredAccessTokenEndsStreams lets an access token expire before the job has ended.
// The stream must end with a retry field, but not before the token expires.
func TestExpiredAccessTokenEndsStreams(t *testing.T) {
	t.Parallel()
	for name, shift := range map[string]time.Duration{"right": 0, "behind": -time.Hour, "ahead": time.Hour} {
		t.Run("database's clock "+name, func(t *testing.T) {
			t.Parallel()
			f := newStreamed(t)
			// Otherwise the store reads the database's clock again during the stream. A slow
			// round trip would then change the clock by which the stream ends.
			f.still()
			f.db.ShiftClock(t, shift)
			if err := f.store.Clock().Sync(t.Context(), f.db.App); err != nil {
				t.Fatal(err)
			}
			f.caller.Expires = f.store.Clock().Now().Add(300 * time.Millisecond)
			f.endsWithRetry(t, func() {})
			if left := f.caller.Expires.Sub(f.store.Clock().Now()); left > time.Millisecond {
				t.Errorf("the stream ended %v before the access token expired", left)
			}
		})
	}
}

// endsWithRetry reads a stream to its end and calls started at the event job.started. The
// stream must end with a retry field before the job ends.
func (f *streamed) endsWithRetry(t *testing.T, started func()) {
	t.Helper()
	resp, err := http.Get(f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var last apitest.Message
	for m, err := range apitest.Messages(resp.Body) {
		if last = m; err != nil {
			t.Fatal(err)
		}
		if m.Event == "job.started" {
			started()
		}
	}
	if ms, err := strconv.Atoi(last.Retry); err != nil || ms < 500 || ms >= 1500 {
		t.Errorf("the stream ended with %+v", last)
	}
}
