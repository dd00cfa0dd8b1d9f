package processes

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colophon/client"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// TestBackupIsRestoredIntoAnotherServer follows the runbook's section on backups. At the
// time of the backup there are running and waiting jobs, a session that has ended, and a
// ticket, which is a single-use permission to open a stream. In the restored service
// every job must end with the text that it has in the first service.
//
// security: ASVS 13.2.2
func TestBackupIsRestoredIntoAnotherServer(t *testing.T) {
	slow(t)
	t.Parallel()
	m := newMembers(t)
	first := m.api("--no-rate-limits")
	c := newUser(t, first.URL, "isaac")
	signedOut := newUser(t, first.URL, "signed-out")
	signedOut.Form("/revoke", "token", signedOut.Access).Must(t, 200)
	var ids []string
	for seed := range 3 {
		ids = append(ids, c.Submit(sized(seed, 300)))
	}
	var ticket struct{ URL string }
	c.Do("POST", "/jobs/"+ids[0]+"/ticket", "").Must(t, 200).Into(t, &ticket)
	running := c.watch(ids[0])
	worker := m.worker("--slots", "1")
	next(t, running, advanced)

	dump := filepath.Join(t.TempDir(), "colophon.dump")
	tool(t, m.url, "pg_dump", "--format=custom", "--file="+dump, m.url)
	late := newUser(t, first.URL, "signed-out-late")
	c.Do("DELETE", "/users/me/sessions", "").Must(t, 204) // the sign-out is not in the backup
	again := user{c.As(c.SignIn("isaac", apitest.Password).Access)}
	want := map[string]string{}
	for _, id := range ids {
		want[id] = again.end(id).Completion
	}
	worker.Kill()
	first.Kill()

	server := pgtest.NewServer(t)
	service := makeRoles(t, server.URL())
	tool(t, server.URL(), "pg_restore", "--no-owner", "--exit-on-error", "--dbname="+server.URL(), dump)
	restored := membersOver(t, service)
	restored.settings = append(slices.Clone(m.settings), "DATABASE_URL="+service) // the same master key
	if _, log, code := programtest.Run(t, append(slices.Clone(m.settings), "DATABASE_URL="+server.URL()), "", "migrate"); code != 0 {
		t.Fatalf("migrate: exit status %d\n%s", code, log)
	}
	// Sessions that ended after the backup are live again. Access tokens of accounts that
	// the backup does not contain are still valid. The runbook therefore signs everybody
	// out.
	tool(t, server.URL(), "psql", server.URL(), "--command=update sessions set revoked_at = clock_timestamp() where revoked_at is null")
	if _, log, code := programtest.Run(t, restored.settings, "", "keys", "rotate", "--leaked"); code != 0 {
		t.Fatalf("rotate the keys: exit status %d\n%s", code, log)
	}
	api := restored.api("--no-rate-limits")
	for _, before := range []user{c, signedOut, late, again} {
		before.URL = api.URL
		before.Do("GET", "/history", "").Must(t, 401)
	}
	stranger := apitest.Client{T: t, URL: api.URL}
	stranger.Do("GET", ticket.URL, "", "Accept", "text/event-stream").Must(t, 401)
	stranger.Form("/token", "username", "signed-out-late", "password", apitest.Password).Must(t, 401)
	c = user{stranger.As(stranger.SignIn("isaac", apitest.Password).Access)}

	var unfinished int
	for _, id := range ids {
		var j client.Job
		c.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &j)
		if !j.State.Final() {
			unfinished++
		}
	}
	if unfinished < 2 {
		t.Errorf("only %d jobs of the backup have not ended", unfinished)
	}
	restored.worker()
	for _, id := range ids {
		if j := c.end(id); j.State != "completed" || j.Completion != want[id] {
			t.Errorf("%s %q, in the first service %q", j.State, j.Completion, want[id])
		}
	}
	if out, log, code := programtest.Run(t, restored.settings, "", "history", "rebuild", "--check"); code != 0 {
		t.Errorf("check the history: exit status %d\n%s%s", code, out, log)
	}
	if strings.Contains(api.Log(), "level=ERROR") {
		t.Error("the restored service logs errors")
	}
}
