package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/api"
	"colophon/internal/limit"
)

// TestInternalsStayInTheLog makes requests fail for every kind of internal cause. The
// text of each cause contains the word canary-of-the-cause. The log must have this word,
// and the answer must not.
//
// security: ASVS 16.5.1, API8:2023
func TestInternalsStayInTheLog(t *testing.T) {
	t.Parallel()
	const canary = "canary-of-the-cause"
	dead, err := pgxpool.New(t.Context(), "postgres://"+canary+"@127.0.0.1:1/"+canary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dead.Close)
	f := newFixture(t)
	// The trigger makes every insert into events fail with the canary as the error.
	if _, err := f.db.Owner.Exec(t.Context(), `
		create function refuse() returns trigger language plpgsql as $$ begin raise exception '`+canary+`'; end $$;
		create trigger refuse before insert on events for each row execute function refuse()`); err != nil {
		t.Fatal(err)
	}
	const internal = "something went wrong on our side; the instance identifies this request in our log"
	for name, k := range map[string]struct {
		route, body        string
		change             func(*api.Options)
		status             int
		code, detail, wait string
	}{
		"a failing statement": {"POST /jobs", prompt, func(*api.Options) {}, 500, "internal", internal, ""},
		"an unreachable database": {"POST /jobs", prompt, func(o *api.Options) {
			o.Limits.Jobs = limit.Shared(dead, "jobs", limit.Rate{Requests: 1, Per: time.Hour})
		}, 503, "unavailable", "the service cannot serve requests at the moment: try again", "2"},
		"not ready": {"GET /readyz", "", func(o *api.Options) {
			o.Ready = func(context.Context) ([]string, error) { return nil, errors.New(canary) }
		}, 503, "not_ready", "the service cannot serve requests at the moment: try again", "10"},
		"a check that panics": {"GET /readyz", "", func(o *api.Options) {
			o.Ready = func(context.Context) ([]string, error) { panic(canary) }
		}, 503, "not_ready", "the service cannot serve requests at the moment: try again", "10"},
	} {
		t.Run(name, func(t *testing.T) {
			c := f.another(t, k.change)
			method, path, _ := strings.Cut(k.route, " ")
			a := c.Do(method, path, k.body)
			a.Refused(t, k.status, k.code)
			id := a.Header.Get("X-Request-Id")
			want := fmt.Sprintf(`{"title":%q,"status":%d,"detail":%q,"instance":"urn:uuid:%s","error":{"message":%q,"type":"server_error","param":null,"code":%q}}`+"\n",
				http.StatusText(k.status), k.status, k.detail, id, k.detail, k.code)
			if string(a.Body) != want {
				t.Errorf("%s, want %s", a.Body, want)
			}
			if wait := a.Header.Get("Retry-After"); wait != k.wait || strings.Contains(fmt.Sprint(a.Header), canary) {
				t.Errorf("%v", a.Header)
			}
			told := false
			for line := range strings.Lines(f.log.String()) {
				told = told || strings.Contains(line, id) && strings.Contains(line, canary)
			}
			if !told {
				t.Errorf("the log lacks the cause: %s", f.log.String())
			}
		})
	}
}
