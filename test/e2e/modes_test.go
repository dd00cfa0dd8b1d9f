package e2e

import (
	"context"
	"regexp"
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
	c.Do("PUT", "/users/me/password", `{"current_password":"`+apitest.Password+`","new_password":"another long sentence"}`).Must(t, 204)
	other := c.As(c.SignIn("isaac", "another long sentence").Access)
	c.Form("/revoke", "token", other.Access).Must(t, 200)
	c.Do("DELETE", "/users/me", `{"password":"another long sentence"}`).Must(t, 204)
	programtest.Eventually(t, "the key of the erased account is destroyed", func() bool {
		var destroyed bool
		err := db.Owner.QueryRow(t.Context(), `select wrapped is null from owner_keys where owner = $1`, owner).Scan(&destroyed)
		return err == nil && destroyed
	})
}
