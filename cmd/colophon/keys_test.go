package main

import (
	"regexp"
	"testing"
)

// TestKeysRotateWhileTheServiceRuns rotates the keys twice. After the second rotation,
// with --leaked, the service must refuse all earlier tokens.
func TestKeysRotateWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	s := up(t)
	c := newUser(t, s.url, "reader")
	kids := func() (kids []string) {
		t.Helper()
		var set struct{ Keys []struct{ KID string } }
		c.Do("GET", "/.well-known/jwks.json", "").Must(t, 200).Into(t, &set)
		for _, key := range set.Keys {
			kids = append(kids, key.KID)
		}
		return kids
	}
	before := kids()
	out, _, err := command(t, "", append([]string{"keys", "rotate"}, s.data...)...)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`^key (\S{43}) is published and signs from \S+Z; the previous key verifies until \S+Z\n$`).FindStringSubmatch(out)
	if found == nil || len(before) != 1 || found[1] == before[0] {
		t.Fatalf("%q after %q", out, before)
	}
	c.Do("GET", "/history", "").Must(t, 200)
	out, _, err = command(t, "", append([]string{"keys", "rotate", "--leaked"}, s.data...)...)
	if err != nil || !regexp.MustCompile(`^key \S{43} signs; `).MatchString(out) {
		t.Fatalf("%q, %v", out, err)
	}
	eventually(t, "the leaked keys are refused", func() bool { return c.Do("GET", "/history", "").Status == 401 })
	if now := kids(); len(now) != 1 || now[0] == before[0] || now[0] == found[1] {
		t.Errorf("published: %q", now)
	}
}
