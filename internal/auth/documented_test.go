package auth

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Operators can look up how guessing is delayed and how long sessions last. The
// runbook states the same numbers as the code.
//
// security: ASVS 6.1.1, ASVS 7.1.1, ASVS 7.1.2
func TestRunbookStatesTheLimits(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	in := func(d time.Duration) string {
		switch {
		case d%(24*time.Hour) == 0:
			return fmt.Sprintf("%d days", d/(24*time.Hour))
		case d%time.Minute == 0:
			return fmt.Sprintf("%d min", d/time.Minute)
		}
		return fmt.Sprintf("%d s", d/time.Second)
	}
	row := func(p backoff) string {
		return fmt.Sprintf("| %d | %s, then twice as long each time, up to %s |", p.free, in(p.initial), in(p.max))
	}
	p := productionBackoffs
	for what, want := range map[string]string{
		"one name, one network":   "from one network " + row(p.pair),
		"a name under attack":     fmt.Sprintf("after %d from networks that are not known for it %s", underAttackAfter, row(p.underAttack)),
		"one network, many names": "under names that it is not known for " + row(p.network),
		"failure window":          fmt.Sprintf("count for %d hours", failureWindow/time.Hour),
		"known networks":          fmt.Sprintf("known for %s", in(knownNetworkTTL)),
		"access token lifetime":   "access token is valid for " + in(DefaultAccessTTL),
		"session lifetime":        fmt.Sprintf("ends %s after the sign-in", in(DefaultRefreshTTL)),
		"session limit":           fmt.Sprintf("have %d sessions", maxSessions),
	} {
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
			t.Errorf("%s: the runbook does not say %q", what, want)
		}
	}
}

// At least 255 bits of a session's refresh tokens are random: each is set in about
// half of the tokens and does not depend on its neighbour. No two tokens are equal.
// Constant bits and counters do not pass as random.
//
// security: ASVS 7.2.3
func TestRefreshTokensAreRandom(t *testing.T) {
	t.Parallel()
	const (
		many = 400
		far  = many/2 - 10*6 // six standard deviations from a half
	)
	f := newFixture(t)
	f.mustRegister(t)
	token := f.mustSignIn(t).RefreshToken
	var set, changes []int
	seen := map[string]bool{}
	for range many {
		token = f.mustRefresh(t, token).RefreshToken
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, refreshPrefix))
		if err != nil {
			t.Fatal(err)
		}
		seen[string(raw)] = true
		if set == nil {
			set, changes = make([]int, 8*len(raw)), make([]int, 8*len(raw))
		}
		bit := func(i int) int { return int(raw[i/8]>>(i%8)) & 1 }
		for i := range set {
			set[i] += bit(i)
			changes[i] += bit(i) ^ bit((i+1)%len(set))
		}
	}
	if len(seen) != many {
		t.Errorf("%d of %d tokens are different", len(seen), many)
	}
	random := 0
	for i := range set {
		if min(set[i], many-set[i], changes[i], many-changes[i]) > far {
			random++
		}
	}
	if random < 256-1 { // a random bit is that far from a half once in a million runs
		t.Errorf("%d bits of %d are random", random, len(set))
	}
}

// A password is valid until its owner changes it, however old it is.
//
// security: ASVS 6.2.10
func TestPasswordsDoNotExpire(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	f.clock.Advance(20 * 365 * 24 * time.Hour)
	f.mustSignIn(t)
}
