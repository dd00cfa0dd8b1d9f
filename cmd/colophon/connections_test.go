package main

import (
	"net/url"
	"testing"

	"colophon/internal/pg/pgtest"
)

// TestServiceWorksWithOneConnection runs the service and the commands with a pool of one
// database connection. A part that needed a second connection would wait for ever.
func TestServiceWorksWithOneConnection(t *testing.T) {
	t.Parallel()
	database := []string{"--database-url", withParameter(t, pgtest.Empty(t), "pool_max_conns", "1")}
	s := up(t, append(database, "--no-rate-limits")...)
	c := newUser(t, s.url, "isaac")
	for range 3 {
		c.Do("POST", "/generate", `{"prompt":"The nature of light","max_length":200}`, "Idempotency-Key", "one").Must(t, 200)
	}
	c.Do("GET", "/history", "").Must(t, 200)
	for _, args := range [][]string{
		{"user", "list"}, {"user", "sign-out", "isaac"}, {"history", "rebuild"}, {"history", "rebuild", "--check"}, {"keys", "rotate"}, {"migrate"},
	} {
		if out, log, err := command(t, "", append(append(args, s.data...), database...)...); err != nil {
			t.Errorf("%v: %v\n%s%s", args, err, out, log)
		}
	}
	signIn(t, s.url, "isaac").Do("DELETE", "/users/me", `{"password":"`+password+`"}`).Must(t, 204)
}

// withParameter returns a database's URL with one more parameter.
func withParameter(t *testing.T, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}
