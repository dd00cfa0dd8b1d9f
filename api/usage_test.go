package api_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/internal/pg/pgtest"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/test/apitest"
)

type usageSum struct {
	Jobs             int
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

type usageReport struct {
	From, To string
	Days     []struct {
		Day string
		usageSum
	}
	Total  usageSum
	Budget *struct {
		Limit, Used, Left int
		ResetsAt          time.Time `json:"resets_at"`
	}
}

func usageOf(t *testing.T, c apitest.Client, query string) (r usageReport) {
	t.Helper()
	c.Do("GET", "/usage"+query, "").Must(t, 200).Into(t, &r)
	return r
}

// TestUsageIsAnsweredByDay counts the jobs of today, and none of others.
//
// security: API1:2023
func TestUsageIsAnsweredByDay(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	today := time.Now().UTC().Truncate(24 * time.Hour)
	if r := usageOf(t, f.Client, ""); len(r.Days) != 30 || r.To != today.Format(time.DateOnly) || r.From != today.AddDate(0, 0, -29).Format(time.DateOnly) || r.Total != (usageSum{}) || r.Budget != nil {
		t.Errorf("before the first job: %+v", r)
	}
	completed, erased := f.submit("four"), f.submit("twelve bytes")
	f.submit("eight b.")
	f.complete(completed)
	f.complete(erased)
	f.Do("DELETE", "/jobs/"+erased.String(), "").Must(t, 204)
	want := usageSum{Jobs: 3, PromptTokens: 24, CompletionTokens: 6, TotalTokens: 30}
	for query, days := range map[string]int{
		"":                                     30,
		"?from=" + today.Format(time.DateOnly): 1,
		"?to=" + today.AddDate(0, 0, 1).Format(time.DateOnly):                                                                      30,
		"?from=" + today.AddDate(0, 0, -30).Format(time.DateOnly):                                                                  31,
		fmt.Sprintf("?from=%s&to=%s", today.AddDate(0, 0, -1).Format(time.DateOnly), today.AddDate(0, 0, 1).Format(time.DateOnly)): 3,
	} {
		r := usageOf(t, f.Client, query)
		if len(r.Days) != days || r.Total != want || r.Days[0].Day != r.From || r.Days[days-1].Day != r.To {
			t.Errorf("%s: %+v", query, r)
		}
		for _, d := range r.Days {
			if d.usageSum != (usageSum{}) != (d.Day == today.Format(time.DateOnly)) || d.usageSum != (usageSum{}) && d.usageSum != want {
				t.Errorf("%s: %+v", query, d)
			}
		}
	}
	if r := usageOf(t, f.Client, "?to="+today.AddDate(0, 0, -1).Format(time.DateOnly)); r.Total != (usageSum{}) {
		t.Errorf("until yesterday: %+v", r)
	}
	for query, code := range map[string]string{
		"from=2026-02-30": "invalid_request", "from=2026-2-3": "invalid_request", "to=0999-01-01": "invalid_request", "to=tomorrow": "invalid_request",
		"from=": "invalid_request", "key=x": "invalid_request", "from=2026-03-01&to=2026-02-28": "invalid_range", "from=2026-03-01&to=2026-04-01": "invalid_range",
		"from=9999-01-01": "invalid_range", "from=1000-01-01": "invalid_range",
	} {
		f.Do("GET", "/usage?"+query, "").Refused(t, 422, code)
	}
	usageOf(t, f.Client, "?from=2026-03-01&to=2026-03-31")
	usageOf(t, f.Client, "?to=1000-01-01")
	_, auditor := f.auditor()
	if r := usageOf(t, auditor, ""); r.Total != (usageSum{}) {
		t.Errorf("an auditor sees %+v", r)
	}
	f.Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204)
	f.Do("GET", "/usage", "").Refused(t, 401, "invalid_access_token")
}

// TestUsageHasTheBudget reserves tokens and spends them.
func TestUsageHasTheBudget(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	c := f.another(t, func(o *api.Options) {
		var err error
		m := jobs.Model{Name: "fake", Context: 1000, Vocab: 300, Encode: f.api.Model.Encode}
		if o.Queue, err = jobs.NewQueue(f.db.App, f.store, m, policy.Default, jobs.Limits{Tokens: 100}, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	})
	mustBe := func(used int) {
		t.Helper()
		b := usageOf(t, c, "").Budget
		if b == nil || b.Limit != 100 || b.Used != used || b.Left != 100-used || !b.ResetsAt.Equal(time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 1)) {
			t.Errorf("%+v, want %d used", b, used)
		}
	}
	mustBe(0)
	id := uuid.MustParse(c.Submit(`{"prompt":"four","max_new_tokens":60}`))
	mustBe(64)
	c.Do("POST", "/jobs", `{"prompt":"four","max_new_tokens":60}`).Refused(t, 429, "token_budget_spent")
	mustBe(64)
	f.complete(id)
	mustBe(7)
}

// TestUsageOfAKeyIsCountedApart submits jobs with two API keys. The usage and the budget of a
// key must be those of its jobs, also of erased ones and after its revocation.
//
// security: API1:2023
func TestUsageOfAKeyIsCountedApart(t *testing.T) {
	t.Parallel()
	pgtest.OneDay(t)
	f := newFixture(t)
	limited, other := createKey(f.Client, `{"name":"limited","tokens_per_day":100}`), createKey(f.Client, `{"name":"other"}`)
	if limited.Tokens != 100 || other.Tokens != 0 {
		t.Errorf("%+v, %+v", limited, other)
	}
	of := func(k apiKey) usageReport { return usageOf(t, f.Client, "?key="+k.ID) }
	if r := of(limited); r.Total != (usageSum{}) || r.Budget == nil || r.Budget.Limit != 100 || r.Budget.Left != 100 {
		t.Errorf("before the first job: %+v", r)
	}
	request := `{"prompt":"four","max_new_tokens":60}`
	id := uuid.MustParse(f.As(limited.Key).Submit(request))
	if r := of(limited); r.Budget.Used != 64 || r.Total.Jobs != 1 {
		t.Errorf("while the job is queued: %+v", r)
	}
	f.As(limited.Key).Do("POST", "/jobs", request).Refused(t, 429, "token_budget_spent")
	f.As(limited.Key).Do("POST", "/jobs", `{"prompt":"four","max_new_tokens":97}`).Refused(t, 422, "over_token_budget")
	f.As(other.Key).Submit(request)
	f.Submit(request)
	f.complete(id)
	f.As(limited.Key).Do("DELETE", "/jobs/"+id.String(), "").Must(t, 204)
	want := usageSum{Jobs: 1, PromptTokens: 4, CompletionTokens: 3, TotalTokens: 7}
	if r := of(limited); r.Total != want || r.Budget.Used != 7 || r.Budget.Left != 93 {
		t.Errorf("after the job was erased: %+v", r)
	}
	if r := of(other); r.Total.Jobs != 1 || r.Budget != nil {
		t.Errorf("another key: %+v", r)
	}
	if r := usageOf(t, f.Client, ""); r.Total.Jobs != 3 {
		t.Errorf("the user: %+v", r)
	}
	var list []struct {
		APIKey string `json:"api_key"`
	}
	f.Do("GET", "/jobs/"+id.String()+"/events", "").Must(t, 200).Into(t, &list)
	if last := list[len(list)-1]; last.APIKey != limited.ID {
		t.Errorf("job.erased names the key %q", last.APIKey)
	}
	f.Do("DELETE", "/keys/"+limited.ID, "").Must(t, 204)
	if r := of(limited); r.Total != want || r.Budget != nil {
		t.Errorf("after the key was revoked: %+v", r)
	}
	_, access := f.user("somebody-else")
	if r := usageOf(t, f.As(access), "?key="+limited.ID); r.Total != (usageSum{}) || r.Budget != nil {
		t.Errorf("another user sees %+v", r)
	}
}
