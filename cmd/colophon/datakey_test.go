package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// TestDataKeyIsReplacedWithoutAPause replaces an account's data key while a client of the
// account writes and reads. Receipts, the log, the history view and replays must be as before.
//
// security: ASVS 11.1.1
func TestDataKeyIsReplacedWithoutAPause(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := serveWith(t, []string{"--database-url", db.URL, "--data", t.TempDir()}, "up", "--no-rate-limits")
	c := newUser(t, s.url, "isaac")
	rotate := func(flags ...string) (string, error) {
		out, _, err := command(t, "", append(append([]string{"keys", "rotate"}, flags...), s.data...)...)
		return out, err
	}
	var job struct{ ID string }
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200).Into(t, &job)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, c.Do("GET", "/log/key", "").Must(t, 200).Body, 0o600); err != nil {
		t.Fatal(err)
	}
	checks := func(when string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "receipt.json")
		if err := os.WriteFile(file, c.Do("GET", "/jobs/"+job.ID+"/receipt", "").Must(t, 200).Body, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, _, err := command(t, "", "verify", file, "--key", key); err != nil || !strings.Contains(out, "Light") {
			t.Errorf("%s: receipt: %q, %v", when, out, err)
		}
		for _, args := range [][]string{{"history", "rebuild", "--check"}, {"replay", job.ID}, {"log", "verify"}} {
			eventually(t, when+": "+strings.Join(args, " "), func() bool {
				_, _, err := command(t, "", append(args, s.data...)...)
				return err == nil
			})
		}
	}
	checks("before")
	done, texts := make(chan struct{}), make(chan int)
	go func() { // a client that writes and reads all the time
		for n := 1; ; n++ {
			select {
			case <-done:
				texts <- n
				return
			default:
			}
			if a, err := c.Send(t.Context(), "POST", "/generate", `{"prompt":"Light","max_length":20}`, "Idempotency-Key", "k"+strconv.Itoa(n)); err != nil || a.Status != 200 {
				t.Errorf("during the replacement: %d, %s, %v", a.Status, a.Body, err)
			}
			if a, err := c.Send(t.Context(), "GET", "/history", ""); err != nil || a.Status != 200 {
				t.Errorf("during the replacement: %d, %s, %v", a.Status, a.Body, err)
			}
		}
	}()
	out, err := rotate("--owner", "isaac")
	if err != nil || !strings.Contains(out, "sealed with the new data key\nthe earlier key is destroyed") {
		t.Errorf("%q, %v", out, err)
	}
	close(done)
	n := <-texts
	var list []json.RawMessage
	if c.Do("GET", "/history?limit=100", "").Must(t, 200).Into(t, &list); n < 3 || len(list) != min(n, 100) {
		t.Errorf("%d texts, want %d", len(list), n)
	}
	checks("after")
	var left, number int
	if err := db.Owner.QueryRow(t.Context(), `select (select count(*) from replaced_keys), (select max(key_number) from owner_keys)`).Scan(&left, &number); err != nil || left != 0 || number != 2 {
		t.Errorf("%d replaced keys, key %d, %v", left, number, err)
	}
	for want, flags := range map[int][]string{
		1: {"--owner", "nobody"},
		2: {"--owner", "isaac", "--master"},
	} {
		if _, err := rotate(flags...); status(err) != want {
			t.Errorf("%q: %v, want status %d", flags, err, want)
		}
	}
}

// TestDamagedValueKeepsTheEarlierDataKey replaces a data key while a row of the history view
// is damaged.
func TestDamagedValueKeepsTheEarlierDataKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := serveWith(t, []string{"--database-url", db.URL, "--data", t.TempDir()}, "up")
	c := newUser(t, s.url, "isaac")
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200)
	db.Damage(t, `update history set sealed = '\x00'`)
	out, _, err := command(t, "", append([]string{"keys", "rotate", "--owner", "isaac"}, s.data...)...)
	if status(err) != 3 || !strings.HasPrefix(out, "left row of job ") {
		t.Errorf("%q, %v", out, err)
	}
	if _, _, err := command(t, "", append([]string{"history", "rebuild"}, s.data...)...); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, "", append([]string{"keys", "rotate", "--owner", "isaac"}, s.data...)...); err != nil {
		t.Error(err)
	}
	var list []struct {
		Text string `json:"generated_text"`
	}
	if c.Do("GET", "/history", "").Must(t, 200).Into(t, &list); len(list) != 1 || !strings.HasPrefix(list[0].Text, "Light") {
		t.Errorf("%+v", list)
	}
}
