package client

import (
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestJobsAreFilteredAndPaged(t *testing.T) {
	s := newService(t)
	s.HandleFunc("GET /jobs", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RawQuery {
		case "":
			text(`[{"id":"9","state":"damaged"}]`)(w, r)
		case "model=a+%26+b&since=2026-08-01T10%3A00%3A00Z&state=queued%2Crunning&until=2026-08-01T10%3A00%3A00.5Z":
			text(`[{"id":"2"}]`, "Link", `</jobs?before=2&limit=1&state=queued%2Crunning>; rel="next"`)(w, r)
		case "before=2&limit=1&state=queued%2Crunning":
			text(`[{"id":"1"}]`)(w, r)
		}
	})
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.FixedZone("", 7200))
	var ids []string
	for _, filter := range []JobFilter{{}, {States: []State{Queued, Running}, Model: "a & b", Since: at, Until: at.Add(time.Second / 2)}} {
		for job, err := range s.client(Options{}).Jobs(t.Context(), filter) {
			if err != nil {
				t.Fatal(err)
			}
			if ids = append(ids, job.ID); job.State == Damaged && !job.State.Final() {
				t.Error("a damaged job goes on")
			}
		}
	}
	if !slices.Equal(ids, []string{"9", "2", "1"}) {
		t.Errorf("%q", ids)
	}
}

func TestSessionsAreListedAndEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.answers("GET /users/me/sessions", text(`[{"id":"s","created_at":"2026-08-01T12:00:00Z","current":true},{"id":"r"}]`))
		s.answers("DELETE /users/me/sessions/r", problem(503, "unavailable"), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
		c := s.client(Options{})
		list, err := c.Sessions(t.Context())
		if err != nil || len(list) != 2 || !list[0].Current || list[0].CreatedAt.IsZero() || list[1].Current {
			t.Errorf("%+v, %v", list, err)
		}
		if err := c.EndSession(t.Context(), list[1].ID); err != nil {
			t.Error(err)
		}
	})
}

func TestUsageAsksForDaysInUTC(t *testing.T) {
	s := newService(t)
	var asked []string
	s.HandleFunc("GET /usage", func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		text(`{"from":"a","to":"b","days":[{"day":"a","jobs":1},{"day":"b","jobs":2,"total_tokens":7}],"total":{"jobs":3},"budget":{"limit":9,"used":2,"left":7}}`)(w, r)
	})
	c := s.client(Options{})
	at := time.Date(2026, 8, 1, 1, 0, 0, 0, time.FixedZone("", 7200))
	for _, k := range [][2]time.Time{{}, {at, {}}, {{}, at}, {at, at}} {
		report, err := c.Usage(t.Context(), k[0], k[1], "")
		if err != nil || len(report.Days) != 2 || report.Days[1].TotalTokens != 7 || report.Total.Jobs != 3 || report.Budget.Left != 7 {
			t.Errorf("%+v, %v", report, err)
		}
	}
	if _, err := c.Usage(t.Context(), at, time.Time{}, "01a2"); err != nil {
		t.Error(err)
	}
	if !slices.Equal(asked, []string{"", "from=2026-07-31", "to=2026-07-31", "from=2026-07-31&to=2026-07-31", "from=2026-07-31&key=01a2"}) {
		t.Errorf("%q", asked)
	}
}

func TestTokenizeSendsTheText(t *testing.T) {
	s := newService(t)
	s.HandleFunc("POST /tokenize", func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != `{"text":"\"light\""}` {
			t.Errorf("%s, %v", body, err)
		}
		text(`{"tokens":[1,2,3],"count":3}`)(w, r)
	})
	tokens, err := s.client(Options{}).Tokenize(t.Context(), `"light"`)
	if err != nil || !slices.Equal(tokens, []int{1, 2, 3}) {
		t.Errorf("%v, %v", tokens, err)
	}
}
