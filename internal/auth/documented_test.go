package auth

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestRunbookStatesTheLimits reads docs/runbook.md. It must state the delays after
// wrong passwords and the lifetime of sessions.
//
// security: ASVS 6.1.1, ASVS 7.1.1, ASVS 7.1.2
func TestRunbookStatesTheLimits(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	format := func(d time.Duration) string {
		switch {
		case d%(24*time.Hour) == 0:
			return fmt.Sprintf("%d days", d/(24*time.Hour))
		case d%time.Minute == 0:
			return fmt.Sprintf("%d min", d/time.Minute)
		}
		return fmt.Sprintf("%d s", d/time.Second)
	}
	row := func(p backoff) string {
		return fmt.Sprintf("| %d | %s, then twice as long each time, up to %s |", p.free, format(p.initial), format(p.max))
	}
	p := productionBackoffs
	for what, want := range map[string]string{
		"one name, one network":   "from one network " + row(p.pair),
		"a name under attack":     fmt.Sprintf("after %d from networks that are not known for it %s", underAttackAfter, row(p.underAttack)),
		"one network, many names": "under names that it is not known for " + row(p.network),
		"failure window":          fmt.Sprintf("count for %d hours", failureWindow/time.Hour),
		"known networks":          fmt.Sprintf("known for %s", format(knownNetworkTTL)),
		"access token lifetime":   "access token is valid for " + format(DefaultAccessTTL),
		"session lifetime":        fmt.Sprintf("ends %s after the sign-in", format(DefaultRefreshTTL)),
		"session limit":           fmt.Sprintf("have %d sessions", maxSessions),
	} {
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
			t.Errorf("%s: the runbook does not say %q", what, want)
		}
	}
}

// TestPasswordsDoNotExpire signs a user in 20 years after the registration. The password
// must still work.
//
// security: ASVS 6.2.10
func TestPasswordsDoNotExpire(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	f.clock.Advance(20 * 365 * 24 * time.Hour)
	f.mustSignIn(t)
}
