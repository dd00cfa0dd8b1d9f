package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
	"colophon/model/watermark"
	"colophon/test/apitest"
)

// markedJob is a job of a test with its tokens.
type markedJob struct {
	ID         string
	Completion string
	Watermark  *struct{ Key, Parameters string }
	tokens     []int
}

// mark generates a text with a seed. The body may have more members of the request.
func mark(c apitest.Client, more string) (j markedJob) {
	c.T.Helper()
	c.Do("POST", "/generate", `{"prompt":"The nature of light","max_new_tokens":150,"seed":7`+more+`}`).Must(c.T, 200).Into(c.T, &j)
	var events []struct{ Tokens []int }
	c.Do("GET", "/jobs/"+j.ID+"/events", "").Must(c.T, 200).Into(c.T, &events)
	for _, e := range events {
		j.tokens = append(j.tokens, e.Tokens...)
	}
	return j
}

// TestMarkedTextIsFoundByItsOwnerAlone marks texts through the API, detects the marks with the
// keys of two users, verifies and replays them, and erases one user.
func TestMarkedTextIsFoundByItsOwnerAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := pgtest.New(t, migrations.Up)
	r := &replayed{t: t, db: db, dir: dir, data: []string{"--data", dir, "--database-url", db.URL}}
	var plain, marked, others markedJob
	r.serve(func(url string) {
		isaac, robert := newUser(t, url, "isaac"), newUser(t, url, "robert")
		plain, marked, others = mark(isaac, ``), mark(isaac, `,"watermark":true`), mark(robert, `,"watermark":true`)
		if plain.Watermark != nil || marked.Watermark == nil || others.Watermark == nil || marked.Watermark.Key == others.Watermark.Key {
			t.Fatalf("watermarks %+v, %+v, %+v", plain.Watermark, marked.Watermark, others.Watermark)
		}
		if plain.Completion == marked.Completion || marked.Completion == others.Completion {
			t.Error("the mark changes nothing")
		}
		if cold := mark(isaac, `,"watermark":true,"temperature":0`); cold.Watermark != nil {
			t.Errorf("a text at temperature 0 has the watermark %+v", cold.Watermark)
		}
		isaac.Do("POST", "/jobs", `{"prompt":"Light","watermark":"yes"}`).Must(t, 422)

		var receipt, keys []byte
		eventually(t, "the log has a checkpoint with the job", func() bool {
			answer := isaac.Do("GET", "/jobs/"+marked.ID+"/receipt", "")
			receipt = answer.Body
			return answer.Status == 200
		})
		keys = isaac.Do("GET", "/log/key", "").Must(t, 200).Body
		for name, content := range map[string][]byte{"receipt": receipt, "log.key": keys} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
	out, _, err := command(t, "", "verify", filepath.Join(dir, "receipt"), "--key", filepath.Join(dir, "log.key"))
	if err != nil || !strings.Contains(out, "the text is marked with the key "+marked.Watermark.Key) {
		t.Errorf("verify: %v\n%s", err, out)
	}

	store := r.store()
	keyOf := func(job markedJob) watermark.Key {
		t.Helper()
		j, err := store.Job(t.Context(), uuid.MustParse(job.ID))
		if err != nil {
			t.Fatal(err)
		}
		key, found, err := store.FindWatermarkKey(t.Context(), j.Owner)
		if err != nil || !found || key.ID() != job.Watermark.Key || job.Watermark.Parameters != watermark.Parameters {
			t.Fatalf("key %s, found %v, %v; the job has %+v", key.ID(), found, err, job.Watermark)
		}
		return key
	}
	isaac, robert := keyOf(marked), keyOf(others)
	for _, c := range []struct {
		what string
		key  watermark.Key
		job  markedJob
		want watermark.Result
	}{
		{"isaac's marked text with isaac's key", isaac, marked, watermark.Found},
		{"isaac's marked text with robert's key", robert, marked, watermark.NotFound},
		{"robert's marked text with robert's key", robert, others, watermark.Found},
		{"robert's marked text with isaac's key", isaac, others, watermark.NotFound},
		{"isaac's unmarked text with isaac's key", isaac, plain, watermark.NotFound},
	} {
		if result, scored, err := c.key.Detect(t.Context(), c.job.tokens); err != nil || result != c.want {
			t.Errorf("%s: %s, %d tokens scored, %v, want %s", c.what, result, scored, err, c.want)
		}
	}

	r.sequence()
	r.want(0, "4 jobs", "--all")
	r.want(0, "executed with the key "+marked.Watermark.Key, marked.ID)
	r.want(0, "executed with the key "+marked.Watermark.Key, marked.ID, "--decode")
	if out, _, err := command(t, "", append([]string{"history", "rebuild", "--check"}, r.data...)...); err != nil {
		t.Errorf("history rebuild: %v\n%s", err, out)
	}

	// The erasure of the account destroys the key. An accident may destroy it too.
	r.serve(func(url string) {
		signIn(t, url, "isaac").Do("DELETE", "/users/me", `{"password":"`+password+`"}`)
		eventually(t, "the key is gone", func() bool {
			var keys int
			err := db.Owner.QueryRow(t.Context(), `select count(*) from owner_keys where watermark is not null`).Scan(&keys)
			return err == nil && keys == 1
		})
	})
	r.want(2, "the prompt and the text were erased", marked.ID)
	db.Damage(t, `update owner_keys set watermark = '\x00' where watermark is not null`)
	r.want(2, "the owner's watermark key cannot be opened", others.ID)
	db.Damage(t, `update owner_keys set watermark = null, watermark_master_key_id = null`)
	r.want(2, "the text is marked with the watermark key "+others.Watermark.Key+", which the database no longer has", others.ID)
}

// TestWatermarkFlagMarksAllTexts starts a service with --watermark. A request cannot opt out.
func TestWatermarkFlagMarksAllTexts(t *testing.T) {
	t.Parallel()
	c := newUser(t, up(t, "--watermark").url, "isaac")
	for _, more := range []string{``, `,"watermark":false`} {
		var job struct{ Watermark json.RawMessage }
		c.Do("POST", "/jobs", `{"prompt":"Light"`+more+`}`).Must(t, 202).Into(t, &job)
		if !strings.Contains(string(job.Watermark), watermark.Parameters) {
			t.Errorf("%q: watermark %s", more, job.Watermark)
		}
	}
}
