package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/test/apitest"
)

// TestBatchAnswersLikeSingleRequests sends requests of each endpoint as a batch and alone. The
// answers must be the same, also the refusals, but for ids and times.
func TestBatchAnswersLikeSingleRequests(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	f.advance()
	volatile := func(raw json.RawMessage) string {
		var all any
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		var clean func(any) any
		clean = func(v any) any {
			switch v := v.(type) {
			case map[string]any:
				for _, name := range []string{"id", "created", "created_at", "completed_at", "instance"} {
					delete(v, name)
				}
				for name := range v {
					v[name] = clean(v[name])
				}
			case []any:
				for i := range v {
					v[i] = clean(v[i])
				}
			}
			return v
		}
		text, err := json.Marshal(clean(all))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for endpoint, bodies := range map[string][]string{
		"/v1/completions": {
			`{"model":"opticks","prompt":["light","rays"],"n":2,"echo":true,"seed":3,"max_tokens":6,"temperature":0.5,"stop":null,"best_of":1}`,
			`{"model":"other","prompt":"light"}`, `{"model":"opticks","prompt":"light","max_tokens":0}`, `{"model":"opticks","prompt":"light","suffix":"x"}`,
			`{"model":"opticks","prompt":"such violence"}`, `{"model":"opticks","prompt":"` + strings.Repeat("light ", 4000) + `"}`, `{"model":"opticks"}`, `{"model":"opticks","prompt":"light","canary":1}`,
		},
		"/v1/chat/completions": {
			`{"model":"opticks","messages":[{"role":"system","content":"rays"},{"role":"user","content":"light"}],"seed":3,"max_tokens":6,"logprobs":true,"top_logprobs":2}`,
			`{"model":"opticks","messages":[{"role":"user","content":"light"}],"tools":[{}]}`, `{"model":"opticks","messages":[{"role":"user","content":"light"}],"top_logprobs":1}`,
		},
		"/v1/responses": {
			`{"model":"opticks","input":"light","temperature":0,"max_output_tokens":6,"metadata":{"a":"b"}}`,
			`{"model":"opticks","input":[{"type":"item_reference","id":"x"}]}`,
		},
	} {
		lines := make([]string, len(bodies))
		for i, body := range bodies {
			lines[i] = line(fmt.Sprintf("request %d", len(bodies)-i), endpoint, body)
		}
		b := begin(f.Client, upload(f.Client, lines...), endpoint)
		if b.Status != "validating" || b.ExpiresAt-b.CreatedAt < 24*3600-1 || b.Metadata["k"] != "peacockmeta" {
			t.Errorf("begun as %+v", b)
		}
		b = until(f.Client, b.ID, is("completed"))
		if b.RequestCounts.Total != len(bodies) || b.RequestCounts.Completed != 1 || b.RequestCounts.Failed != len(bodies)-1 || b.CompletedAt == 0 {
			t.Errorf("ended as %+v", b)
		}
		all := append(output(f.Client, b.OutputFileID), output(f.Client, b.ErrorFileID)...)
		if len(all) != len(bodies) || all[0].CustomID != fmt.Sprintf("request %d", len(bodies)) {
			t.Fatalf("%d lines %+v", len(all), all)
		}
		ids := map[string]bool{}
		for i, got := range all[1:] {
			if want := fmt.Sprintf("request %d", i+1); got.CustomID != want {
				t.Errorf("line %d of the errors is %q, want %q", i, got.CustomID, want)
			}
		}
		for _, got := range all {
			var n int
			if _, err := fmt.Sscanf(got.CustomID, "request %d", &n); err != nil {
				t.Fatal(err)
			}
			body := bodies[len(bodies)-n]
			alone := f.Do("POST", endpoint, body)
			if ids[got.ID] || got.Error != nil || got.Response == nil || got.Response.RequestID == "" {
				t.Fatalf("%s: %+v", body, got)
			}
			ids[got.ID] = true
			if got.Response.StatusCode != alone.Status || volatile(got.Response.Body) != volatile(alone.Body) {
				t.Errorf("%.200s: the line is answered with %d %s, the request alone with %d %s", body, got.Response.StatusCode, got.Response.Body, alone.Status, alone.Body)
			}
		}
	}
}

// TestInvalidInputFailsTheBatch begins batches of files that break the form of an input. The
// batch must fail with the numbers of the lines, and must make no job.
func TestInvalidInputFailsTheBatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.advance()
	const endpoint = "/v1/completions"
	valid := line("a", endpoint, `{}`)
	for name, k := range map[string]struct {
		lines []string
		code  string
		line  int
		param string
	}{
		"no line":       {nil, "empty_file", 0, ""},
		"no JSON":       {[]string{valid, `{"custom_id":`}, "invalid_json_line", 2, ""},
		"a list":        {[]string{`[]`}, "invalid_json_line", 1, ""},
		"blank":         {[]string{valid, ""}, "invalid_json_line", 2, ""},
		"unknown":       {[]string{`{"custom_id":"a","method":"POST","url":"/v1/completions","body":{},"secret":1}`}, "invalid_json_line", 1, ""},
		"twice":         {[]string{valid, line("b", endpoint, `{}`), valid}, "duplicate_custom_id", 3, "custom_id"},
		"other url":     {[]string{line("a", "/v1/responses", `{}`)}, "invalid_url", 1, "url"},
		"other method":  {[]string{strings.Replace(valid, "POST", "GET", 1)}, "invalid_method", 1, "method"},
		"no id":         {[]string{line("", endpoint, `{}`)}, "invalid_custom_id", 1, "custom_id"},
		"body missing":  {[]string{`{"custom_id":"a","method":"POST","url":"/v1/completions"}`}, "missing_required_parameter", 1, "body"},
		"body a string": {[]string{line("a", endpoint, `"peacock"`)}, "invalid_body", 1, "body"},
	} {
		var b batch
		if k.lines == nil {
			var file struct{ ID string }
			post(f.Client, form("file", "", "purpose", "batch")).Must(t, 200).Into(t, &file)
			b = begin(f.Client, file.ID, endpoint)
			k.lines = []string{}
		} else {
			b = begin(f.Client, upload(f.Client, k.lines...), endpoint)
		}
		b = until(f.Client, b.ID, is("failed"))
		if b.Errors == nil || len(b.Errors.Data) != 1 || b.RequestCounts.Total != 0 || b.OutputFileID != "" || b.ErrorFileID != "" {
			t.Errorf("%s: %+v", name, b)
			continue
		}
		e := b.Errors.Data[0]
		got := fmt.Sprint(e.Code, " ", 0, " ", "")
		if e.Line != nil {
			got = fmt.Sprint(e.Code, " ", *e.Line, " ", "")
		}
		if e.Param != nil {
			got += *e.Param
		}
		if want := fmt.Sprint(k.code, " ", k.line, " ", k.param); got != want || strings.Contains(e.Message, "peacock") {
			t.Errorf("%s: %s %q, want %s", name, got, e.Message, want)
		}
		f.Do("DELETE", "/v1/files/"+b.InputFileID, "").Must(t, 200)
	}
	f.newestNone()
}

// newestNone fails the test if the database has a job.
func (f *fixture) newestNone() {
	f.T.Helper()
	if n := f.count(`select count(*) from history`); n != 0 {
		f.T.Errorf("%d jobs", n)
	}
}

// count returns the number that a query finds.
func (f *fixture) count(sql string, args ...any) (n int) {
	f.T.Helper()
	if err := f.db.Owner.QueryRow(f.T.Context(), sql, args...).Scan(&n); err != nil {
		f.T.Fatal(err)
	}
	return n
}

// many returns the lines of an input with n completions. The order of the custom ids is not that
// of the lines.
func many(model string, n, tokens int) (lines []string) {
	for i := range n {
		lines = append(lines, line(fmt.Sprintf("%04d", (i*7919)%n), "/v1/completions", fmt.Sprintf(`{"model":%q,"prompt":"light","seed":%d,"max_tokens":%d}`, model, i, tokens)))
	}
	return lines
}

// TestStoppedBatchKeepsItsAnswers cancels a batch, and lets another one expire, after two of its
// lines have ended and while others have jobs. The ended lines must be in the output, and all
// others in the errors. The input cannot be deleted before the end.
func TestStoppedBatchKeepsItsAnswers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.advance()
	for i, k := range []struct{ end, state, code string }{
		{"cancel", "cancelled", "batch_cancelled"},
		{"expire", "expired", "batch_expired"},
	} {
		file := upload(f.Client, many("fake", 300, 5)...)
		b := begin(f.Client, file, "/v1/completions")
		f.newest(32 + 34*i) // all that may run at once, and the jobs of the batch before
		id := uuid.MustParse(strings.TrimPrefix(b.ID, "batch_"))
		for _, number := range []int{5, 7} {
			var job uuid.UUID
			if err := f.db.Owner.QueryRow(t.Context(), `select jobs[1] from batch_lines where batch = $1 and number = $2`, id, number).Scan(&job); err != nil {
				t.Fatal(err)
			}
			f.complete(job)
		}
		until(f.Client, b.ID, func(b batch) bool { return b.RequestCounts.Completed == 2 })
		f.newest(34 + 34*i)
		f.Do("DELETE", "/v1/files/"+file, "").Refused(t, 409, "file_in_use")
		if k.end == "cancel" {
			f.Do("POST", "/v1/batches/"+b.ID+"/cancel", "").Must(t, 200).Into(t, &b)
			if b.Status != "cancelling" {
				t.Errorf("cancelled as %+v", b)
			}
		} else if _, err := f.db.Owner.Exec(t.Context(), `update batches set expires_at = clock_timestamp() where id = $1`, id); err != nil {
			t.Fatal(err)
		}
		b = until(f.Client, b.ID, is(k.state))
		if b.RequestCounts.Total != 300 || b.RequestCounts.Completed != 2 || b.RequestCounts.Failed != 298 {
			t.Errorf("%s: %+v", k.state, b)
		}
		good, bad := output(f.Client, b.OutputFileID), output(f.Client, b.ErrorFileID)
		if len(good) != 2 || good[0].Response.StatusCode != 200 || !strings.Contains(string(good[1].Response.Body), `"text":" is`) || len(bad) != 298 {
			t.Errorf("%s: %d answers %+v and %d errors", k.state, len(good), good, len(bad))
		}
		if !slices.IsSortedFunc(bad, func(a, b outputLine) int { return strings.Compare(a.CustomID, b.CustomID) }) {
			t.Errorf("%s: the errors are not in the order of the custom ids", k.state)
		}
		for _, l := range bad {
			if l.Response != nil || l.Error == nil || l.Error.Code != k.code {
				t.Fatalf("%s: %+v", k.state, l)
			}
		}
		if n := f.count(`select count(*) from history where state in ('queued', 'running')`); n != 0 {
			t.Errorf("%s: %d jobs are left", k.state, n)
		}
		var again batch
		f.Do("POST", "/v1/batches/"+b.ID+"/cancel", "").Must(t, 200).Into(t, &again)
		if again.Status != k.state {
			t.Errorf("cancelled again: %+v", again)
		}
		f.Do("DELETE", "/v1/files/"+file, "").Must(t, 200)
		f.Do("DELETE", "/v1/files/"+b.OutputFileID, "").Must(t, 200)
		f.Do("GET", "/v1/files/"+b.OutputFileID+"/content", "").Refused(t, 404, "not_found")
		if got := until(f.Client, b.ID, is(k.state)); got.OutputFileID != "" || got.ErrorFileID == "" {
			t.Errorf("without its output: %+v", got)
		}
	}
}

// TestProcessesShareABatch lets three processes move a batch on at once. Each line must have one
// job, and one line in the output.
func TestProcessesShareABatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	for range 3 {
		f.advance()
	}
	b := begin(f.Client, upload(f.Client, many("opticks", 200, 1)...), "/v1/completions")
	b = until(f.Client, b.ID, is("completed"))
	lines := output(f.Client, b.OutputFileID)
	if len(lines) != 200 || b.RequestCounts.Completed != 200 || b.ErrorFileID != "" {
		t.Errorf("%d lines of %+v", len(lines), b)
	}
	for i, l := range lines {
		if l.CustomID != fmt.Sprintf("%04d", i) {
			t.Fatalf("line %d is %q", i, l.CustomID)
		}
	}
	if n := f.count(`select count(*) from events where type = 'job.accepted'`); n != 200 {
		t.Errorf("%d jobs for 200 lines", n)
	}
	if n := f.count(`select count(distinct convert_from(payload, 'UTF8')::json->'fact'->'batch'->>'line') from events where type = 'job.accepted'`); n != 200 {
		t.Errorf("the jobs are those of %d lines", n)
	}
}

// TestOthersDoNotWaitForABatch submits jobs beside a batch of 1,000 lines. They must complete
// before the batch has ended, also that of the owner of the batch.
func TestOthersDoNotWaitForABatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	f.advance()
	b := begin(f.Client, upload(f.Client, many("opticks", 1000, 3)...), "/v1/completions")
	until(f.Client, b.ID, func(b batch) bool { return b.RequestCounts.Completed > 0 })
	_, other := f.user("other")
	for _, c := range []apitest.Client{f.Client, f.As(other)} {
		var made completion
		c.Do("POST", "/v1/completions", `{"model":"opticks","prompt":"light","max_tokens":3}`).Must(t, 200).Into(t, &made)
		if job := f.jobOf(made.ID, "cmpl-"); job.Priority != 1 || job.Batch != (events.BatchLine{}) {
			t.Errorf("the job has priority %d and the line %+v", job.Priority, job.Batch)
		}
	}
	f.Do("GET", "/v1/batches/"+b.ID, "").Must(t, 200).Into(t, &b)
	if b.Status != "in_progress" || b.RequestCounts.Completed+b.RequestCounts.Failed == b.RequestCounts.Total {
		t.Errorf("when the jobs have ended, the batch is %+v", b)
	}
	f.Do("POST", "/v1/batches/"+b.ID+"/cancel", "").Must(t, 200)
	until(f.Client, b.ID, is("cancelled"))
}

// TestLinesWaitForTheBudget begins a batch with an API key that has a small budget. A line that
// needs more than a day's budget must fail. One that needs more than is left must wait. Neither
// the limit of outstanding jobs nor that of calls counts lines.
func TestLinesWaitForTheBudget(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) {
		var err error
		if f.queue, err = jobs.NewQueue(f.db.App, f.store, f.api.Model, policy.Default, jobs.Limits{Outstanding: 1}, f.api.Log); err != nil {
			f.T.Fatal(err)
		}
		f.api.Queue = f.queue
	})
	f.advance()
	var key struct{ Key string }
	f.Do("POST", "/keys", `{"name":"k","tokens_per_day":100,"generations_per_minute":1}`).Must(t, 201).Into(t, &key)
	c := f.As(key.Key)
	body := func(tokens int) string {
		return fmt.Sprintf(`{"model":"fake","prompt":"light","max_tokens":%d}`, tokens)
	}
	file := upload(c, line("a", "/v1/completions", body(35)), line("b", "/v1/completions", body(35)), line("c", "/v1/completions", body(500)), line("d", "/v1/completions", body(35)))
	b := begin(c, file, "/v1/completions")
	f.newest(2)
	b = until(c, b.ID, func(b batch) bool { return b.RequestCounts.Failed == 1 })
	// The owner of the batch may have one job of their own.
	f.Do("POST", "/jobs", prompt).Must(t, 202)
	f.Do("POST", "/jobs", prompt).Refused(t, 429, "too_many_jobs")
	if job := f.newest(3); job.Priority != 1 {
		t.Errorf("the job of the owner has the priority %d", job.Priority)
	}
	var job uuid.UUID
	if err := f.db.Owner.QueryRow(t.Context(), `select jobs[1] from batch_lines where number = 1`).Scan(&job); err != nil {
		t.Fatal(err)
	}
	made, err := f.store.Job(t.Context(), job)
	if err != nil || made.Priority != 4 || made.APIKey == (uuid.UUID{}) || made.Reserved.Tokens != 40 || made.Deadline.Unix() != b.ExpiresAt {
		t.Errorf("%+v, %v", made, err)
	}
	f.complete(job) // it used fewer tokens than were reserved
	f.newest(4)
	f.Do("POST", "/v1/batches/"+b.ID+"/cancel", "").Must(t, 200)
	b = until(c, b.ID, is("cancelled"))
	var problem struct{ Error struct{ Code string } }
	bad := output(c, b.ErrorFileID)
	if err := json.Unmarshal(bad[1].Response.Body, &problem); err != nil || bad[1].CustomID != "c" || problem.Error.Code != "over_token_budget" {
		t.Errorf("%v, %+v", err, bad)
	}
}
