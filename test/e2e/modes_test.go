package e2e

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"colophon/client"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// TestServiceWorksInEveryQueryMode runs the main flow with each default_query_exec_mode
// in DATABASE_URL. Some modes send no types of parameters, so a statement that works in
// one mode can fail in another.
func TestServiceWorksInEveryQueryMode(t *testing.T) {
	t.Parallel()
	for _, mode := range pgtest.QueryModes() {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db := programtest.Database(t)
			settings := []string{"DATABASE_URL=" + pgtest.With(db.URL, "default_query_exec_mode", mode), "COLOPHON_DATA=" + t.TempDir()}
			p := programtest.Start(t, settings, "up", "--listen", "127.0.0.1:0", "--rate-limits", "shared", "--token-budget", "10000")
			t.Cleanup(p.Stop)
			mainFlow(t, p, db)
			for _, command := range [][]string{{"migrate"}, {"history", "rebuild", "--check"}, {"history", "rebuild"}, {"keys", "rotate"}, {"user", "list"}} {
				if _, log, code := programtest.Run(t, settings, "", command...); code != 0 {
					t.Errorf("%v: exit status %d\n%s", command, code, log)
				}
			}
			if faults := complaint.FindAllString(p.Log(), -1); faults != nil {
				t.Errorf("the log complains: %q", faults)
			}
		})
	}
}

// complaint matches log lines about a failed statement.
var complaint = regexp.MustCompile(`.*level=(WARN|ERROR).* err=.*`)

// mainFlow goes through the life of an account. The account signs up and in, refreshes
// its session, submits jobs, follows one of them, reads its history and is erased.
func mainFlow(t *testing.T, p *programtest.Process, db *pgtest.DB) {
	t.Helper()
	c := anonymous(t, p.URL)
	owner := c.Register("isaac", apitest.Password)
	c.Form("/token", "username", "isaac", "password", "a wrong password").Refused(t, 401, "invalid_credentials")
	var tokens apitest.Tokens
	c.Form("/token", "grant_type", "refresh_token", "refresh_token", c.SignIn("isaac", apitest.Password).Refresh).Must(t, 200).Into(t, &tokens)
	c = c.As(tokens.Access)
	var job, again client.Job
	const body = `{"prompt":"The nature of light","max_new_tokens":20}`
	c.Do("POST", "/generate", body, "Idempotency-Key", `"once"`).Must(t, 200).Into(t, &job)
	c.Do("POST", "/generate", body, "Idempotency-Key", `"once"`).Must(t, 200).Into(t, &again)
	if job.State != "completed" || again.ID != job.ID {
		t.Errorf("%+v, again %+v", job, again)
	}
	id := c.Submit(body)
	messages := follow(c, id, "", 0)
	if n := len(messages); n == 0 || messages[n-1].Event != "job.completed" {
		t.Errorf("stream %+v", messages)
	}
	var ticket struct{ URL string }
	c.Do("POST", "/jobs/"+id+"/ticket", "").Must(t, 200).Into(t, &ticket)
	ctx, cut := context.WithTimeout(t.Context(), programtest.Patience)
	defer cut()
	for _, err := range c.As("").Stream(ctx, ticket.URL) {
		if err != nil {
			t.Errorf("stream with a ticket: %v", err)
		}
	}
	c.Do("POST", "/jobs/"+id+"/cancel", "").Must(t, 200)
	c.Do("GET", "/jobs/"+id, "").Must(t, 200)
	var history []client.Job
	c.Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	if len(history) != 2 || history[1].ID != job.ID || history[1].GeneratedText != job.GeneratedText {
		t.Errorf("history %+v", history)
	}
	var listed []client.Job
	c.Do("GET", "/jobs?state=completed,queued&model="+history[0].ModelName+"&since=2000-01-01T00:00:00Z&until=9999-12-31T23:59:59Z&limit=1", "").Must(t, 200).Into(t, &listed)
	if len(listed) != 1 || listed[0].ID != id || listed[0].GeneratedText != history[0].GeneratedText {
		t.Errorf("jobs %+v", listed)
	}
	var usage client.UsageReport
	c.Do("GET", "/usage", "").Must(t, 200).Into(t, &usage)
	spent := int64(history[0].Usage.TotalTokens + history[1].Usage.TotalTokens)
	if usage.Total.Jobs != 2 || usage.Total.TotalTokens != spent || usage.Budget == nil || usage.Budget.Used > int(spent) || usage.Budget.Left != 10000-usage.Budget.Used {
		t.Errorf("usage %+v, want %d tokens", usage, spent)
	}
	var prompt struct{ Count int }
	c.Do("POST", "/tokenize", `{"text":"The nature of light"}`).Must(t, 200).Into(t, &prompt)
	if prompt.Count != history[0].Usage.PromptTokens {
		t.Errorf("%d tokens, want %d", prompt.Count, history[0].Usage.PromptTokens)
	}
	completed := 0
	for m, err := range c.Stream(ctx, "/events") {
		if err != nil {
			t.Errorf("feed: %v", err)
		}
		if m.Event == "job.completed" {
			completed++
		}
		if completed == 2 {
			break
		}
	}
	if _, err := db.Owner.Exec(t.Context(), `update accounts set role = 'auditor' where id = $1`, owner); err != nil {
		t.Fatal(err)
	}
	var accepted []struct{ Index int64 }
	c.Do("GET", "/audit?type=job.accepted&since=2000-01-01T00:00:00Z&owner="+owner.String(), "").Must(t, 200).Into(t, &accepted)
	if all := c.Do("GET", "/audit", "", "Accept", "application/x-ndjson").Must(t, 200); len(accepted) != 2 || strings.Count(string(all.Body), "job.accepted") != 2 {
		t.Errorf("audit %+v, all\n%s", accepted, all.Body)
	}
	c.Do("PUT", "/users/me/password", `{"current_password":"`+apitest.Password+`","new_password":"another long sentence"}`).Must(t, 204)
	other := c.As(c.SignIn("isaac", "another long sentence").Access)
	var sessions []client.Session
	other.Do("GET", "/users/me/sessions", "").Must(t, 200).Into(t, &sessions)
	if len(sessions) != 2 || !sessions[0].Current || sessions[1].Current {
		t.Errorf("sessions %+v", sessions)
	}
	c.As(c.SignIn("isaac", "another long sentence").Access).Do("DELETE", "/users/me/sessions/"+sessions[0].ID, "").Must(t, 204)
	other.Do("GET", "/users/me", "").Refused(t, 401, "invalid_access_token")
	other = c.As(c.SignIn("isaac", "another long sentence").Access)
	batchFlow(t, other)
	c.Form("/revoke", "token", other.Access).Must(t, 200)
	c.Do("DELETE", "/users/me", `{"password":"another long sentence"}`).Must(t, 204)
	programtest.Eventually(t, "the key of the erased account is destroyed", func() bool {
		var destroyed bool
		err := db.Owner.QueryRow(t.Context(), `select wrapped is null from owner_keys where owner = $1`, owner).Scan(&destroyed)
		return err == nil && destroyed
	})
}

// batchFlow runs a batch of a valid line and of one that is refused, and reads and removes what
// it leaves.
func batchFlow(t *testing.T, c apitest.Client) {
	t.Helper()
	const form = "--form\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n" +
		"--form\r\nContent-Disposition: form-data; name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n" +
		`{"custom_id":"good","method":"POST","url":"/v1/completions","body":{"model":"opticks","prompt":["Light","Rays"],"max_tokens":4}}` + "\n" +
		`{"custom_id":"bad","method":"POST","url":"/v1/completions","body":{"model":"opticks","prompt":"Light","max_tokens":-1}}` + "\n\r\n--form--\r\n"
	var file struct{ ID string }
	c.Do("POST", "/v1/files", form, "Content-Type", "multipart/form-data; boundary=form").Must(t, 200).Into(t, &file)
	var batch struct {
		ID            string
		Status        string
		RequestCounts struct{ Completed, Failed int } `json:"request_counts"`
		Output        string                          `json:"output_file_id"`
		Errors        string                          `json:"error_file_id"`
	}
	c.Do("POST", "/v1/batches", `{"input_file_id":"`+file.ID+`","endpoint":"/v1/completions","completion_window":"24h","metadata":{"for":"test"}}`).Must(t, 200).Into(t, &batch)
	programtest.Eventually(t, "the batch ends", func() bool {
		c.Do("GET", "/v1/batches/"+batch.ID, "").Must(t, 200).Into(t, &batch)
		return batch.Status != "validating" && batch.Status != "in_progress"
	})
	if batch.Status != "completed" || batch.RequestCounts.Completed != 1 || batch.RequestCounts.Failed != 1 {
		t.Fatalf("batch %+v", batch)
	}
	for id, want := range map[string]string{batch.Output: `"custom_id":"good"`, batch.Errors: `"custom_id":"bad"`} {
		if a := c.Do("GET", "/v1/files/"+id+"/content", "").Must(t, 200); !strings.Contains(string(a.Body), want) || strings.Count(string(a.Body), "\n") != 1 {
			t.Errorf("file %s: %s", id, a.Body)
		}
	}
	c.Do("POST", "/v1/batches", `{"input_file_id":"`+file.ID+`","endpoint":"/v1/chat/completions","completion_window":"24h"}`).Must(t, 200).Into(t, &batch)
	programtest.Eventually(t, "the batch for another endpoint fails", func() bool {
		c.Do("GET", "/v1/batches/"+batch.ID, "").Must(t, 200).Into(t, &batch)
		return batch.Status == "failed"
	})
	c.Do("GET", "/v1/files", "").Must(t, 200)
	c.Do("GET", "/v1/batches", "").Must(t, 200)
	c.Do("POST", "/v1/batches/"+batch.ID+"/cancel", "").Must(t, 200)
	c.Do("DELETE", "/v1/files/"+file.ID, "").Must(t, 200)
}
