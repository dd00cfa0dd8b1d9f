package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/client"
	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// dump returns what pg_dump writes, with the bytes of each hexadecimal value after their line.
func dump(t *testing.T, url string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), pgtest.Program(t, url, "pg_dump"), "--blobs", url).Output()
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for line := range bytes.Lines(out) {
		all.Write(line)
		for _, m := range inHex.FindAllSubmatch(line, -1) {
			raw := make([]byte, len(m[1])/2)
			_, _ = hex.Decode(raw, m[1])
			all.Write(append(raw, '\n'))
		}
	}
	return all.Bytes()
}

// decoded returns a receipt, followed by the payloads that it contains in base64. A receipt
// that opens a member fails the test.
func decoded(t *testing.T, text []byte) []byte {
	t.Helper()
	var r struct {
		Events   [][]byte
		Openings map[string]any
	}
	if err := json.Unmarshal(text, &r); err != nil || len(r.Events) == 0 || len(r.Openings) > 0 {
		t.Errorf("receipt with %d events and %d openings, %v", len(r.Events), len(r.Openings), err)
	}
	return slices.Concat(text, bytes.Join(r.Events, []byte("\n")))
}

// ciphertexts returns the ciphertexts of a job as secrets.
func (s *service) ciphertexts(t *testing.T, job string) canaries {
	t.Helper()
	rows, _ := s.db.Owner.Query(t.Context(), `
		select sealed from events where stream = 'job/' || $1::text and sealed is not null
		union all select sealed from history where job = $1::text::uuid and sealed is not null`, job)
	found, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil || len(found) < 3 {
		t.Fatalf("%d ciphertexts of %s, %v", len(found), job, err)
	}
	secrets := canaries{}
	for i, sealed := range found {
		secrets[fmt.Sprintf("ciphertext %d of %s", i, job)] = string(sealed)
	}
	return secrets
}

// TestErasedTextsAreNowhere erases a text by hand, one by its age, and one with its account. A
// dump of the database, the logs, the metrics, the public log and receipts without openings
// must contain neither the texts nor their ciphertexts. Another text must stay.
//
// security: LLM02:2025
func TestErasedTextsAreNowhere(t *testing.T) {
	t.Parallel()
	db := programtest.Database(t)
	settings := []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir()}
	flags := []string{"up", "--listen", "127.0.0.1:0", "--no-rate-limits", "--log-level", "debug", "--admin-listen", "127.0.0.1:0"}
	p := programtest.Start(t, settings, flags...)
	s := &service{p, db}
	var seen bytes.Buffer // everything outside of the database
	stop := func() {
		t.Helper()
		admin := regexp.MustCompile(`url=(http://\S+)/metrics`).FindStringSubmatch(p.Log())
		if admin == nil {
			t.Fatal("the log does not name the admin listener")
		}
		seen.Write(anonymous(t, admin[1]).Do("GET", "/metrics", "").Must(t, 200).Body)
		p.Stop()
		seen.WriteString(p.Log())
	}

	owner, leaver := apitest.NewUser(t, p.URL, "owner"), apitest.NewUser(t, p.URL, "leaver")
	secrets := canaries{}
	generate := func(c apitest.Client, what, prompt string) (id string) {
		t.Helper()
		var job client.Job
		c.Do("POST", "/generate", fmt.Sprintf(`{"prompt":%q,"max_new_tokens":40,"stop":["puffin <stop> %s"]}`, prompt, what), "Idempotency-Key", `"`+what+`"`).Must(t, 200).Into(t, &job)
		words := strings.Fields(job.Completion)
		for name, secret := range map[string]string{"prompt": prompt, "text": strings.Join(words[:min(5, len(words))], " "), "stop": "puffin <stop> " + what} {
			secrets[what+": "+name] = secret
		}
		return job.ID
	}
	deleted := generate(owner, "deleted", "a peacock's \u00f6re & plume")
	old := generate(owner, "old", "a toucan's \u00f6re & plume")
	left := generate(leaver, "left", "a hoopoe's \u00f6re & plume")
	for _, id := range []string{deleted, old, left} {
		maps.Copy(secrets, s.ciphertexts(t, id))
	}

	owner.Do("DELETE", "/jobs/"+deleted, "").Must(t, 204)
	leaver.Do("DELETE", "/users/me", fmt.Sprintf(`{"password":%q}`, apitest.Password)).Must(t, 204)
	running := owner.Submit(`{"prompt":"a flamingo's \u00f6re & plume","max_new_tokens":200}`)
	owner.Do("DELETE", "/jobs/"+running, "").Must(t, 204)
	secrets["running: prompt"] = "a flamingo's \u00f6re & plume"
	stop()

	// A worker begins a month later, and finds texts that have become old.
	pgtest.ShiftClock(t, db.URL, 31*24*time.Hour)
	p = programtest.Start(t, settings, "worker", "--retain-texts", "30d", "--log-level", "debug", "--admin-listen", "127.0.0.1:0")
	p.Await("old texts erased")
	stop()
	// Now is now again, so that the access tokens are valid.
	_, err := db.Owner.Exec(t.Context(), `do $$ begin
		execute format('alter database %I reset search_path', current_database());
		drop schema shifted cascade;
	end $$`)
	if err != nil {
		t.Fatal(err)
	}
	p = programtest.Start(t, settings, flags...)
	owner.URL = p.URL
	stays := generate(owner, "stays", "an ibis' \u00f6re & plume")
	kept := s.ciphertexts(t, stays)
	job := func(id string) (j client.Job) {
		t.Helper()
		owner.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &j)
		return j
	}
	for _, id := range []string{deleted, old, running} {
		if j := job(id); j.ErasedAt == nil || j.Prompt+j.GeneratedText+j.Completion != "" || j.Params != nil {
			t.Errorf("erased job: %+v", j)
		}
		seen.Write(decoded(t, owner.Do("GET", "/jobs/"+id+"/receipt?disclose=text,prompt,params,stop,tokens,owner,request", "").Must(t, 200).Body))
		seen.Write(owner.Do("GET", "/jobs/"+id+"/events", "").Must(t, 200).Body)
	}
	if j := job(stays); j.ErasedAt != nil || !strings.HasPrefix(j.Prompt, "an ibis") || j.Completion == "" {
		t.Errorf("another job: %+v", j)
	}
	seen.Write(decoded(t, owner.Do("GET", "/jobs/"+stays+"/receipt?disclose=none", "").Must(t, 200).Body))
	checkpoint := string(owner.Do("GET", "/log/checkpoint", "").Must(t, 200).Body)
	seen.WriteString(checkpoint)
	size := strings.Split(checkpoint, "\n")[1]
	for _, tile := range []string{"0/000.p/" + size, "entries/000.p/" + size} {
		seen.Write(owner.Do("GET", "/log/tile/"+tile, "").Must(t, 200).Body)
	}
	stop()

	dumped := dump(t, db.URL)
	for where, text := range map[string][]byte{"the database": dumped, "logs, metrics, tiles and receipts": seen.Bytes()} {
		if found := secrets.in(text); found != nil || len(text) < 10_000 {
			t.Errorf("%s, %d bytes: %v", where, len(text), found)
		}
	}
	// The search must find a ciphertext that is still there.
	if found := kept.in(dumped); len(found) < len(kept) {
		t.Errorf("of %d ciphertexts of another job, the dump has %v", len(kept), found)
	}
	out, errOut, status := programtest.Run(t, settings, "", "log", "verify")
	if status != 0 {
		t.Errorf("log verify: status %d: %s%s", status, out, errOut)
	}
	if out, errOut, status := programtest.Run(t, settings, "", "history", "rebuild", "--check"); status != 0 {
		t.Errorf("history: status %d: %s%s", status, out, errOut)
	}
	t.Attr("searched", fmt.Sprintf("for %d secrets in %d forms: none in %d bytes of a dump and %d other bytes", len(secrets), len(forms("x1y2z3")), len(dumped), seen.Len()))
}
