package metrics

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// TestMetricsWorkWithoutADatabase uses a database that cannot be reached. The metrics
// that need no query must still be served.
func TestMetricsWorkWithoutADatabase(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	m := New(pool)
	m.Request("GET /jobs/{id}", 200, 30*time.Millisecond)
	m.Request("GET /jobs/{id}", 503, time.Millisecond)
	m.Appended(events.Event{Fact: events.JobAdvanced{Tokens: []int{1, 2, 3}, Text: "canary"}})
	m.Appended(events.Event{Fact: events.JobCompleted{}})
	m.Delivery("", 30*time.Millisecond)
	m.Delivery("timeout", 20*time.Second)
	m.PrefixCache(func() (computed, found int, unused int64) { return 3, 64, 4096 })
	m.Drafts(func() (accepted, rejected int) { return 7, 8 })
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	all := w.Body.String()
	for _, want := range []string{
		"colophon_database_up 0\n", "colophon_tokens_total 3\n", `colophon_events_total{type="job.advanced"} 1` + "\n",
		`colophon_http_request_duration_seconds_bucket{route="GET /jobs/{id}",status="200",le="0.025"} 0` + "\n",
		`colophon_http_request_duration_seconds_bucket{route="GET /jobs/{id}",status="200",le="0.05"} 1` + "\n",
		`colophon_http_request_duration_seconds_count{route="GET /jobs/{id}",status="503"} 1` + "\n",
		"colophon_database_connections_max ",
		`colophon_prefix_cache_tokens_total{result="computed"} 3` + "\n",
		`colophon_prefix_cache_tokens_total{result="found"} 64` + "\n",
		"colophon_prefix_cache_bytes 4096\n",
		`colophon_draft_tokens_total{result="accepted"} 7` + "\n",
		`colophon_draft_tokens_total{result="rejected"} 8` + "\n",
		`colophon_webhook_attempt_duration_seconds_bucket{result="delivered",le="0.05"} 1` + "\n",
		`colophon_webhook_attempt_duration_seconds_count{result="timeout"} 1` + "\n",
	} {
		if !strings.Contains(all, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if w.Code != 200 || strings.Contains(all, "canary") || strings.Contains(all, `colophon_jobs{`) {
		t.Errorf("%d: %s", w.Code, all)
	}
}

func TestMetricsShowTheDifferenceOfTheClocks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	db.ShiftClock(t, -time.Hour)
	w := httptest.NewRecorder()
	New(db.App).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if all := w.Body.String(); !regexp.MustCompile(`\ncolophon_clock_ahead_seconds (3599\.|3600)`).MatchString(all) {
		t.Errorf("the clock is not an hour ahead:\n%s", all)
	}
}
