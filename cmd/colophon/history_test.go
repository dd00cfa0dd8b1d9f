package main

import (
	"slices"
	"strings"
	"testing"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
)

// TestDamagedStreamsAreListed damages a stored event of a completed job. `history damaged`
// must then list this job. `history rebuild` must exit with status 3, and with --check with
// status 1.
func TestDamagedStreamsAreListed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, migrations.Up)
	s := up(t, "--database-url", db.URL, "--admin-listen", "127.0.0.1:0")
	database := slices.Concat(s.data, []string{"--database-url", db.URL})
	c := newUser(t, s.url, "isaac")
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200)
	c.Do("POST", "/generate", `{"prompt":"Rays","max_length":20}`).Must(t, 200)
	must := func(code int, want string, args ...string) {
		t.Helper()
		out, _, err := command(t, "", append(args, database...)...)
		got := 0
		if err != nil {
			got = status(err)
		}
		if got != code || !strings.Contains(out, want) || want == "" && out != "" {
			t.Errorf("%v: status %d, %v, want %d and %q in\n%s", args, got, err, code, want, out)
		}
	}
	must(0, "2 jobs", "history", "rebuild", "--check")
	must(0, "", "history", "damaged")
	db.Damage(t, `update events set payload = '\x00' where version = 2 and stream = (
		select stream from events where type = 'job.accepted' order by stream limit 1)`)
	must(1, "damaged  job/", "history", "rebuild", "--check")
	must(3, "1 jobs", "history", "rebuild")
	must(0, "@2  owner ", "history", "damaged")
	must(1, "not decodable", "history", "rebuild", "--check")
}
