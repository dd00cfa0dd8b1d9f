package api

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"colophon/test/apitest"
)

// chained serves a mux behind the middlewares.
func chained(t *testing.T, log *apitest.Log, mux *http.ServeMux) *httptest.Server {
	t.Helper()
	s, err := newServer(Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(s.handler(mux))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// TestPanicAbortsAStartedAnswer panics after half of an answer has been sent, over
// HTTP/1.1 and HTTP/2. The client must get an error, so that it does not take the half
// for the whole.
func TestPanicAbortsAStartedAnswer(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for name, fail := range map[string]any{"a fault": "canary", "a deliberate abort": http.ErrAbortHandler} {
			t.Run(fmt.Sprint(name, ", HTTP/2: ", h2), func(t *testing.T) {
				var log apitest.Log
				mux := http.NewServeMux()
				mux.HandleFunc("GET /half", func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, "half of it")
					_ = http.NewResponseController(w).Flush()
					panic(fail)
				})
				srv := chained(t, &log, mux)
				client := srv.Client()
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
				if !h2 {
					client.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"http/1.1"}
				}
				resp, err := client.Get(srv.URL + "/half")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err == nil || resp.StatusCode != 200 || (resp.ProtoMajor == 2) != h2 {
					t.Errorf("%s %s: %q and then %v", resp.Proto, resp.Status, got, err)
				}
				srv.Close() // Close waits until everything is in the log
				if lines := log.String(); !strings.Contains(lines, `route="GET /half" status=200`) || strings.Contains(lines, "canary") != (fail == "canary") {
					t.Errorf("%s", lines)
				}
			})
		}
	}
}

// TestPanicIsAnsweredWithAProblem panics with the text "canary" before the answer starts.
// The text must be in the log and not in the answer.
//
// security: ASVS 16.5.1, API8:2023
func TestPanicIsAnsweredWithAProblem(t *testing.T) {
	var log apitest.Log
	mux := http.NewServeMux()
	mux.HandleFunc("GET /panics", func(w http.ResponseWriter, _ *http.Request) { panic("canary") })
	srv := chained(t, &log, mux)
	a := apitest.Client{T: t, URL: srv.URL, Transport: srv.Client().Transport}.Do("GET", "/panics", "")
	a.Refused(t, 500, "internal")
	const detail = "something went wrong on our side; the instance identifies this request in our log"
	id := a.Header.Get("X-Request-Id")
	want := fmt.Sprintf(`{"title":"Internal Server Error","status":500,"detail":%q,"instance":"urn:uuid:%s","error":{"message":%q,"type":"server_error","param":null,"code":"internal"}}`+"\n", detail, id, detail)
	if string(a.Body) != want || strings.Contains(fmt.Sprint(a.Header), "canary") {
		t.Errorf("%v %s, want %s", a.Header, a.Body, want)
	}
	srv.Close() // Close waits until everything is in the log
	told := 0
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, id) && (strings.Contains(line, "canary") || strings.Contains(line, `route="GET /panics" status=500`)) {
			told++
		}
	}
	if told != 2 {
		t.Errorf("the log lacks the request or the panic: %s", log.String())
	}
}

// TestUncleanPathsReachNoHandler sends paths with empty, dot and dot-dot segments. Each
// must be answered with 404.
func TestUncleanPathsReachNoHandler(t *testing.T) {
	var log apitest.Log
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s reached the handler", r.URL) })
	mux.HandleFunc("GET /jobs/{id}", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s reached the handler", r.URL) })
	srv := chained(t, &log, mux)
	c := apitest.Client{T: t, URL: srv.URL, Transport: srv.Client().Transport}
	for _, path := range []string{"/jobs/%2e%2e", "/jobs/..", "/jobs/%2e", "/jobs//x", "//jobs", "/jobs/x/%2e%2e/y"} {
		c.Do("GET", path, "").Refused(t, 404, "no_such_route")
	}
}
