package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// course holds all events of a job.
var course = []string{
	`{"version":1,"type":"job.accepted","at":"2026-11-23T03:03:29Z","prompt":"light","params":{"max_tokens":2,"temperature":0.8,"top_k":40,"top_p":1,"seed":7}}`,
	`{"version":2,"type":"job.started","at":"2026-11-23T03:03:29Z","attempt":1,"worker":"w","from_token":0}`,
	`{"version":3,"type":"job.advanced","at":"2026-11-23T03:03:29Z","tokens":[305,840],"text":" φῶς"}`,
	`{"version":4,"type":"job.completed","at":"2026-11-23T03:03:29Z","finish_reason":"length","usage":{"total_tokens":3},"timings":{"total_ms":9}}`,
}

// stream returns the events of course after a version, as the messages of a stream.
func stream(after int) string {
	var b strings.Builder
	for i, data := range course[after:] {
		_, kind, _ := strings.Cut(data, `"type":"`)
		kind, _, _ = strings.Cut(kind, `"`)
		fmt.Fprintf(&b, ": still here\n\nid: %d\nevent: %s\ndata: %s\n\n", after+i+1, kind, data)
	}
	return b.String()
}

// resumes returns the version after which a request resumes the stream. It also checks
// the headers of the request.
func resumes(t *testing.T, r *http.Request) int {
	after := 0
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		var err error
		if after, err = strconv.Atoi(last); err != nil || after == 0 {
			t.Errorf("Last-Event-ID %q", last)
		}
	}
	if accept := r.Header.Get("Accept"); accept != "text/event-stream" {
		t.Errorf("Accept %q", accept)
	}
	return after
}

// sse returns a handler that answers with a stream of server-sent events.
func sse(stream string) http.HandlerFunc { return text(stream, "Content-Type", "text/event-stream") }

// follow collects the versions of the events that Follow yields.
func follow(ctx context.Context, c *Client, after int) (versions []int, err error) {
	for e, err := range c.Follow(ctx, "j", after) {
		if err != nil {
			return versions, err
		}
		versions = append(versions, e.Version)
	}
	return versions, nil
}

func TestFollowYieldsEveryEventInOrder(t *testing.T) {
	s := newService(t)
	s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) { sse(stream(resumes(t, r)))(w, r) })
	s.answers("GET /jobs/j", text(`{"id":"j","state":"completed","version":4}`))
	c := s.over(Options{})
	var all []Event
	for e, err := range c.Follow(t.Context(), "j", 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if len(all) != 4 || all[0].Params.Seed != 7 || all[2].Text != " φῶς" || !slices.Equal(all[2].Tokens, []int{305, 840}) || all[3].Usage.TotalTokens != 3 || all[3].At.Year() != 2026 {
		t.Errorf("%+v", all)
	}
	if job, err := c.Wait(t.Context(), "j"); err != nil || job.State != Completed {
		t.Errorf("%+v, %v", job, err)
	}
	// The caller stops early, resumes after that event, and then follows the job again
	// from later versions.
	for e, err := range c.Follow(t.Context(), "j", 0) {
		if e.Version == 2 || err != nil {
			break
		}
	}
	for after, want := range map[int][]int{2: {3, 4}, 3: {4}, 4: nil} {
		if got, err := follow(t.Context(), c, after); err != nil || !slices.Equal(got, want) {
			t.Errorf("after %d: %v, %v", after, got, err)
		}
	}
}

// TestFollowSurvivesACutAtEveryByte cuts the first connection after each byte of the
// stream. The connection ends cleanly in one case and breaks in the other. The caller
// must see every event exactly once.
func TestFollowSurvivesACutAtEveryByte(t *testing.T) {
	whole := stream(0)
	for name, end := range map[string]func(){"ended": func() {}, "broken": func() { panic(http.ErrAbortHandler) }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for cut := range len(whole) {
					s := newService(t)
					connections := 0
					s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) {
						rest := stream(resumes(t, r))
						if connections++; connections > 1 {
							sse(rest)(w, r)
							return
						}
						sse(whole[:cut])(w, r)
						end()
					})
					s.answers("GET /jobs/j", text(`{"id":"j","state":"running","version":1}`))
					got, err := follow(t.Context(), s.client(Options{}), 0)
					if err != nil || !slices.Equal(got, []int{1, 2, 3, 4}) || connections != 2 {
						t.Errorf("cut at %d: %v, %v over %d connections", cut, got, err, connections)
					}
				}
			})
		})
	}
}

// TestFollowResumesBrokenConnections breaks every connection after a part of the stream,
// over the network. The caller must see every event exactly once.
func TestFollowResumesBrokenConnections(t *testing.T) {
	s := newService(t)
	connections := 0
	s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) {
		rest := stream(resumes(t, r))
		connections++
		sse(rest[:min(len(rest), 211)])(w, r)
		http.NewResponseController(w).Flush()
		if len(rest) > 211 {
			panic(http.ErrAbortHandler)
		}
	})
	got, err := follow(t.Context(), s.over(Options{}), 0)
	if err != nil || !slices.Equal(got, []int{1, 2, 3, 4}) || connections < 3 {
		t.Errorf("%v, %v over %d connections", got, err, connections)
	}
}

// TestFollowReconnectsAfterAPause ends the first stream in every way that is possible
// before the job ends. The client must reconnect after the right pause.
func TestFollowReconnectsAfterAPause(t *testing.T) {
	for name, test := range map[string]struct {
		first http.HandlerFunc
		after time.Duration
	}{
		"a retry field":         {sse("retry: 1250\n\n"), 1250 * time.Millisecond},
		"a retry of an hour":    {sse("retry: 3600000\n\n"), time.Minute},
		"a retry without end":   {sse("retry: 99999999999999999999\n\n"), firstPause / 2},
		"a retry of nothing":    {sse("retry: 0\n\n"), 0},
		"429":                   {problem(429, "too_many_streams", "Retry-After", "5"), 5 * time.Second},
		"503":                   {problem(503, "streams_full", "Retry-After", "5"), 5 * time.Second},
		"no connection":         {abort, firstPause / 2},
		"silence at the start":  {hang, 30 * time.Second},
		"silence in the stream": {func(w http.ResponseWriter, r *http.Request) { sse(": x\n\n")(w, r); hang(w, r) }, streamSilence},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t)
				s.answers("GET /jobs/j/events", test.first, sse(stream(0)))
				begin := time.Now()
				got, err := follow(t.Context(), s.client(Options{}), 0)
				if err != nil || !slices.Equal(got, []int{1, 2, 3, 4}) {
					t.Errorf("%v, %v", got, err)
				}
				if took := time.Since(begin); took < test.after || took > test.after+firstPause {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// TestHeartbeatsKeepAStreamOpen sends nothing but heartbeats for an hour, as the service
// does. The client must keep the connection.
func TestHeartbeatsKeepAStreamOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) {
			sse("")(w, r)
			for range 360 {
				time.Sleep(10 * time.Second)
				io.WriteString(w, ": still here\n\n")
			}
			io.WriteString(w, stream(0))
		})
		got, err := follow(t.Context(), s.client(Options{Tries: 1}), 0)
		if err != nil || len(got) != 4 || len(s.requests()) != 1 {
			t.Errorf("%v, %v over %d connections", got, err, len(s.requests()))
		}
	})
}

// TestFollowedStreamsShareAConnection ends each stream only after the caller has the last
// event. The next stream must use the same connection.
func TestFollowedStreamsShareAConnection(t *testing.T) {
	s := newService(t)
	seen := make(chan struct{})
	s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) {
		sse(stream(0))(w, r)
		w.(http.Flusher).Flush()
		<-seen
	})
	c := s.over(Options{})
	for range 3 {
		for e, err := range c.Follow(t.Context(), "j", 0) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Ends() {
				seen <- struct{}{}
			}
		}
	}
	connections := map[string]bool{}
	for _, r := range s.requests() {
		connections[r.RemoteAddr] = true
	}
	if len(connections) != 1 {
		t.Errorf("%d connections for 3 streams, want 1", len(connections))
	}
}

// TestFollowEndsAfterTheLastEvent keeps the stream open after the job's last event.
// Follow must still end, within streamEnd.
func TestFollowEndsAfterTheLastEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) {
			sse(stream(0))(w, r)
			<-r.Context().Done()
		})
		begin := time.Now()
		got, err := follow(t.Context(), s.client(Options{}), 0)
		if err != nil || len(got) != 4 || time.Since(begin) > streamEnd {
			t.Errorf("%v, %v after %s", got, err, time.Since(begin))
		}
	})
}

// TestSlowCallerKeepsItsStream spends more time on each event than a stream may be
// silent. The client must not reconnect.
func TestSlowCallerKeepsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("GET /jobs/j/events", sse(stream(0)))
		for _, err := range s.client(Options{Tries: 1}).Follow(t.Context(), "j", 0) {
			if err != nil {
				t.Error(err)
			}
			time.Sleep(2 * streamSilence)
		}
		if n := len(s.requests()); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestFollowRenewsItsToken lets the access token expire during the stream. The caller
// must still see every event.
func TestFollowRenewsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("POST /token", text(`{"access_token":"new","refresh_token":"r"}`))
		s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) {
			switch after := resumes(t, r); {
			case after == 0:
				sse(strings.TrimSuffix(stream(0), stream(2))+"retry: 500\n\n")(w, r)
			case r.Header.Get("Authorization") == "Bearer old":
				problem(401, "invalid_access_token")(w, r)
			default:
				sse(stream(after))(w, r)
			}
		})
		got, err := follow(t.Context(), s.client(Options{Tokens: Tokens{"old", "r"}}), 0)
		if err != nil || !slices.Equal(got, []int{1, 2, 3, 4}) {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// TestFollowGivesUpOnFinalErrors answers with errors that another connection would not
// change. Follow must return the error after one request.
func TestFollowGivesUpOnFinalErrors(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		code   string // code of a problem; "" means ErrProtocol
		seen   int    // number of events before the error
	}{
		"404":                  {problem(404, "not_found"), "not_found", 0},
		"JSON":                 {text("[]", "Content-Type", "application/json"), "", 0},
		"a redirect":           {status(307, ""), "", 0},
		"no JSON":              {sse("id: 1\ndata: x\n\n"), "", 0},
		"another id":           {sse("id: 2\ndata: {\"version\":1}\n\n"), "", 0},
		"no id":                {sse("data: {\"version\":1}\n\n"), "", 0},
		"an event is missing":  {sse("id: 1\ndata: {\"version\":1}\n\nid: 3\ndata: {\"version\":3}\n\n"), "", 1},
		"an event comes twice": {sse("id: 1\ndata: {\"version\":1}\n\nid: 1\ndata: {\"version\":1}\n\n"), "", 1},
		"a line without end":   {sse("data: " + strings.Repeat("x", maxMessage)), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.answers("GET /jobs/j/events", test.answer)
			got, err := follow(t.Context(), s.client(Options{}), 0)
			if test.code != "" && code(err) != test.code || test.code == "" && !errors.Is(err, ErrProtocol) || len(got) != test.seen || len(s.requests()) != 1 {
				t.Errorf("%v, %v after %d requests", got, err, len(s.requests()))
			}
		})
	}
}

// TestFollowGivesUpAfterSilentConnections breaks connections before their first message.
// Follow must end after Options.Tries such connections in a row. A connection with a
// message must reset the count.
func TestFollowGivesUpAfterSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("GET /jobs/j/events", abort, sse(": x\n\n"), sse(""), abort, abort, abort, sse(stream(0)))
		s.answers("GET /jobs/j", text(`{"id":"j","state":"queued","version":1}`))
		_, err := follow(t.Context(), s.client(Options{Tries: 5}), 0)
		if err == nil || len(s.requests()) != 7 { // six streams, and a request for the job after the empty stream
			t.Errorf("%v after %d requests", err, len(s.requests()))
		}
		got, err := follow(t.Context(), s.client(Options{Tries: 5}), 0)
		if err != nil || len(got) != 4 {
			t.Errorf("%v, %v", got, err)
		}
		// With Options.Tries of 1, a stream that is cut must end Follow with an error. A
		// stream that ends with a retry field must not end Follow.
		s = newService(t)
		s.answers("GET /jobs/j/events", sse(strings.TrimSuffix(stream(0), stream(2))+"retry: 500\n\n"), sse(strings.TrimSuffix(stream(2), stream(3))))
		got, err = follow(t.Context(), s.client(Options{Tries: 1}), 0)
		if !errors.Is(err, errCut) || !slices.Equal(got, []int{1, 2, 3}) {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// TestContextEndsFollow cancels the context during a stream, and during the pause before
// the next one. Follow must return at once.
func TestContextEndsFollow(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"the stream": func(w http.ResponseWriter, r *http.Request) { sse(": x\n\n")(w, r); hang(w, r) },
		"a pause":    sse("retry: 9000\n\n"),
		"an error":   problem(503, "streams_full", "Retry-After", "5"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t)
				s.answers("GET /jobs/j/events", answer)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				begin := time.Now()
				if _, err := follow(ctx, s.client(Options{}), 0); !errors.Is(err, context.Canceled) || time.Since(begin) != time.Second {
					t.Errorf("after %s: %v", time.Since(begin), err)
				}
				if _, err := s.client(Options{}).Wait(ctx, "j"); !errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// TestEmptyStreamsAreToldApart answers with two kinds of empty streams. Some belong to a
// job that has ended, and others were cut before the first byte. The client must request
// the job to tell the two kinds apart.
func TestEmptyStreamsAreToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, job := range []http.HandlerFunc{abort, problem(503, "unavailable"), text(`{"id":"j","state":"running","version":2}`), text(`{"id":"j","state":"completed","version":4}`)} {
			s := newService(t)
			s.answers("GET /jobs/j/events", sse(""), sse(stream(2)))
			s.answers("GET /jobs/j", job)
			if got, err := follow(t.Context(), s.client(Options{}), 2); err != nil || !slices.Equal(got, []int{3, 4}) {
				t.Errorf("%v, %v", got, err)
			}
		}
		s := newService(t)
		s.answers("GET /jobs/j/events", sse(""))
		s.answers("GET /jobs/j", text(`{"id":"j","state":"completed","version":4}`))
		if got, err := follow(t.Context(), s.client(Options{}), 4); err != nil || got != nil || len(s.requests()) != 2 {
			t.Errorf("%v, %v", got, err)
		}
		s = newService(t)
		s.answers("GET /jobs/j/events", sse(""))
		s.answers("GET /jobs/j", text("x"))
		if _, err := follow(t.Context(), s.client(Options{}), 4); !errors.Is(err, ErrProtocol) {
			t.Errorf("%v", err)
		}
	})
}

func TestEventsReturnsEventsAfterAVersion(t *testing.T) {
	s := newService(t)
	s.HandleFunc("GET /jobs/j/events", func(w http.ResponseWriter, r *http.Request) {
		after, _ := strconv.Atoi(r.URL.Query().Get("after"))
		text("["+strings.Join(course[after:], ",")+"]")(w, r)
	})
	c := s.over(Options{})
	for after := range len(course) + 1 {
		events, err := c.Events(t.Context(), "j", after)
		var versions []int
		for _, e := range events {
			versions = append(versions, e.Version)
		}
		if err != nil || !slices.Equal(versions, []int{1, 2, 3, 4}[after:]) {
			t.Errorf("after %d: %v, %v", after, versions, err)
		}
	}
	s = newService(t)
	s.answers("/", text(`[{"version":1},{"version":3}]`))
	if _, err := s.client(Options{}).Events(t.Context(), "j", 0); !errors.Is(err, ErrProtocol) {
		t.Errorf("%v", err)
	}
}

func TestOnlyFinalEventsEndAJob(t *testing.T) {
	for kind, want := range map[string]bool{JobAccepted: false, JobReassigned: false, JobStarted: false, JobAdvanced: false, JobCompleted: true, JobCancelled: true, JobFailed: false} {
		if got := (&Event{Type: kind}).Ends(); got != want {
			t.Errorf("%s: %v", kind, got)
		}
	}
	if !(&Event{Type: JobFailed, Final: true}).Ends() {
		t.Error("a final failure does not end the job")
	}
}
