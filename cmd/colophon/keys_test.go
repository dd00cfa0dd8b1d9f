package main

import (
	"encoding/json"
	"regexp"
	"testing"

	"colophon/internal/pg/pgtest"
)

// TestKeysRotate runs the command beside a service, which goes on.
func TestKeysRotate(t *testing.T) {
	s := up(t, pgtest.Dir(t))
	c := newUser(t, s, "somebody")
	kids := func() (kids []string) {
		t.Helper()
		var set struct{ Keys []struct{ KID string } }
		if a := c.do("GET", "/.well-known/jwks.json", ""); a.status != 200 || json.Unmarshal(a.body, &set) != nil {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, key := range set.Keys {
			kids = append(kids, key.KID)
		}
		return kids
	}
	before := kids()
	out, _, err := command(t, "", "keys", "rotate", "--data", s.data)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`^key (\S{43}) is published and signs from \S+Z; the key before it verifies until \S+Z\n$`).FindStringSubmatch(out)
	if found == nil || len(before) != 1 || found[1] == before[0] {
		t.Fatalf("%q after %q", out, before)
	}
	if a := c.do("GET", "/history", ""); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	out, _, err = command(t, "", "keys", "rotate", "--leaked", "--data", s.data)
	if err != nil || !regexp.MustCompile(`^key \S{43} signs; `).MatchString(out) {
		t.Fatalf("%q, %v", out, err)
	}
	eventually(t, "the leaked keys are refused", func() bool { return c.do("GET", "/history", "").status == 401 })
	if now := kids(); len(now) != 1 || now[0] == before[0] || now[0] == found[1] {
		t.Errorf("published: %q", now)
	}
}
