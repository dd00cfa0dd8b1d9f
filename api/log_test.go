package api_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"colophon/test/apitest"
)

// line returns the log line with the given message and the id of the request that a
// answers.
func (f *fixture) line(message string, a apitest.Answer) string {
	f.T.Helper()
	for line := range strings.Lines(f.log.String()) {
		if strings.Contains(line, " msg="+message+" ") && strings.Contains(line, " request="+a.Header.Get("X-Request-Id")) {
			return line
		}
	}
	f.T.Errorf("the log has no line %s of request %s", message, a.Header.Get("X-Request-Id"))
	return ""
}

// TestEveryRequestIsInTheLog finds the log line of each request by the id that the client
// got. The line must have the time, route, status and account. For a refused request, it
// must have the network too. An internal error must have another line with the cause.
//
// security: ASVS 16.2.1, ASVS 16.2.2, ASVS 16.3.2, ASVS 16.3.4
func TestEveryRequestIsInTheLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, k := range []struct {
		method, path, as string
		route            string
		status           int
		known            bool // true if the log line must contain the account
	}{
		{"GET", "/history", f.Access, `"GET /history"`, 200, true},
		{"GET", "/history", "", `"GET /history"`, 401, false},
		{"GET", "/history", "forged", `"GET /history"`, 401, false},
		{"GET", "/users", f.Access, `"GET /users"`, 403, true},
		{"GET", "/jobs/00000000-0000-7000-8000-000000000000", f.Access, `"GET /jobs/{id}"`, 404, true},
		{"GET", "/nowhere", "", "unknown", 404, false},
		{"POST", "/jobs", f.Access, `"POST /jobs"`, 400, true},
	} {
		line := f.line("request", f.As(k.as).Do(k.method, k.path, "").Must(t, k.status))
		if want := fmt.Sprintf(" route=%s status=%d ", k.route, k.status); !strings.Contains(line, want) || !strings.Contains(line, " took=") || !strings.Contains(line, " level=INFO ") {
			t.Errorf("%q lacks %q", line, want)
		}
		if strings.Contains(line, " account="+f.owner.String()) != k.known || strings.Contains(line, " account=") != k.known {
			t.Errorf("%q has an account: want %v", line, k.known)
		}
		if refused := k.status == 401 || k.status == 403; strings.Contains(line, " network=127.0.0.1") != refused || strings.Contains(line, " network=") != refused {
			t.Errorf("%q has a network: want %v", line, refused)
		}
		at, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		if when, err := time.Parse(time.RFC3339Nano, at); err != nil || time.Since(when).Abs() > time.Hour || !regexp.MustCompile(`(Z|[+-]\d\d:\d\d)$`).MatchString(at) {
			t.Errorf("the time is %q", at)
		}
	}
	if _, err := f.db.Owner.Exec(t.Context(), `alter table history rename to nowhere`); err != nil {
		t.Fatal(err)
	}
	line := f.line(`"request failed"`, f.Do("GET", "/history", "").Must(t, 500))
	if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, `relation \"history\" does not exist`) {
		t.Errorf("%q", line)
	}
}
