package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestOnlyAdminListenerServesMetrics reads the metrics of a service after some requests.
// The public listener must answer 404 for the same paths.
//
// security: ASVS 13.4.2
func TestOnlyAdminListenerServesMetrics(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits", "--admin-listen", "127.0.0.1:0")
	logged := regexp.MustCompile(`url=(http://\S+)/metrics`).FindStringSubmatch(s.log.String())
	if logged == nil {
		t.Fatalf("the log does not name the admin listener: %s", s.log)
	}
	admin := logged[1]
	c := newUser(t, s.url, "canaryname")
	var j struct {
		Usage struct {
			CompletionTokens int `json:"completion_tokens"`
		}
	}
	c.Do("POST", "/generate", `{"prompt":"canaryprompt","max_length":40}`).Must(t, 200).Into(t, &j)
	c.Do("GET", "/canarypath", "").Refused(t, 404, "no_such_route")
	get := func(path, host string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	status, all := get("/metrics", "")
	if status != 200 {
		t.Fatalf("%d %s", status, all)
	}
	for _, want := range []string{
		`colophon_http_request_duration_seconds_count{route="POST /generate",status="200"} 1`,
		`colophon_http_request_duration_seconds_count{route="unknown",status="404"} 1`,
		`colophon_events_total{type="job.accepted"} 1`,
		`colophon_events_total{type="job.completed"} 1`,
		`colophon_events_total{type="account.registered"} 2`, // the test's account, and the service's own account for sign-ins with unknown names
		fmt.Sprintf(`colophon_tokens_total %d`, j.Usage.CompletionTokens),
		`colophon_jobs{state="queued"} 0`,
		`colophon_jobs{state="running"} 0`,
		`colophon_database_up 1`,
		`colophon_database_connections{state="idle"} `,
		"go_goroutines ",
	} {
		if !strings.Contains(all, "\n"+want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(all, "canary") {
		t.Error("the metrics contain a part of a request")
	}
	for path, want := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/cmdline": 404, "/": 404, "/history": 404} {
		if status, _ := get(path, ""); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	// In DNS rebinding, a web page makes its own host name resolve to this machine. The
	// admin listener must refuse such a host name.
	for host, want := range map[string]int{"evil.example": 403, "evil.example:80": 403, "localhost": 200, "localhost:9": 200, "127.0.0.1": 200, "[::1]:9": 200, "127.0.0.1.evil.example": 403} {
		if status, _ := get("/metrics", host); status != want {
			t.Errorf("Host %s: %d, want %d", host, status, want)
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/riverui"} {
		c.Do("GET", path, "").Refused(t, 404, "no_such_route")
	}
}

// TestAdminListenerIsLoopbackUnlessAllowed checks addresses of --admin-listen. An address
// that other machines can reach must be refused without --admin-remote.
//
// security: ASVS 13.4.5
func TestAdminListenerIsLoopbackUnlessAllowed(t *testing.T) {
	for address, ok := range map[string]bool{
		"": true, "127.0.0.1:0": true, "127.9.9.9:0": true, "[::1]:0": true, "localhost:0": true, "[::ffff:127.0.0.1]:0": true,
		":9000": false, "0.0.0.0:9000": false, "[::]:9000": false, "192.0.2.1:9000": false, "localhost.evil.example:1": false, "9000": false,
	} {
		err := (&adminFlags{AdminListen: address}).check()
		if _, usage := errors.AsType[*usageError](err); (err == nil) != ok || !ok && !usage {
			t.Errorf("%q: %v", address, err)
		}
		if err := (&adminFlags{AdminListen: address, AdminRemote: true}).check(); err != nil {
			t.Errorf("%q with --admin-remote: %v", address, err)
		}
	}
}
