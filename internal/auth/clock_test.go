package auth

import (
	"log/slog"
	"testing"
	"time"

	"colophon/events"
)

// TestAuthTimesAreTheDatabases signs in, refreshes and signs out while the clocks of the
// database and of the process differ by an hour. All times that another process would
// compare must come from the database's clock.
func TestAuthTimesAreTheDatabases(t *testing.T) {
	t.Parallel()
	for what, shift := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.db.ShiftClock(t, shift)
			store := events.NewStore(f.db.App, f.vault, slog.New(slog.DiscardHandler))
			o := testOptions
			o.HashMemory = cheapParams.Memory
			s, err := New(t.Context(), f.db.App, store, f.vault, o)
			if err != nil {
				t.Fatal(err)
			}
			f.Service, f.store = s, store
			account := f.mustRegister(t)
			tokens := f.mustSignIn(t)
			if tokens, err = s.Refresh(t.Context(), tokens.RefreshToken); err != nil {
				t.Fatal(err)
			}
			id, err := s.Verify(t.Context(), tokens.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			ticket, err := s.Ticket(t.Context(), id, "/path")
			if err != nil {
				t.Fatal(err)
			}
			expire := map[string]time.Time{"access token": id.Expires.Add(-s.options.AccessTTL)}
			for column, query := range map[string]string{
				"accounts.created_at":         `select created_at from accounts where username <> ''`,
				"sessions.created_at":         `select created_at from sessions`,
				"refresh_tokens.issued_at":    `select max(issued_at) from refresh_tokens`,
				"refresh_tokens.exchanged_at": `select max(exchanged_at) from refresh_tokens`,
				"tickets.expires_at":          `select expires_at - interval '30 seconds' from tickets`,
			} {
				expire[column] = f.time(t, query)
			}
			redeemed, _, err := s.Redeem(t.Context(), ticket, "/path")
			expire["resumptions.expires_at"] = redeemed.Expires.Add(-ResumeTTL)
			if err != nil {
				t.Errorf("ticket: %v", err)
			}
			if err := s.Revoke(t.Context(), tokens.RefreshToken); err != nil {
				t.Fatal(err)
			}
			expire["sessions.revoked_at"] = f.time(t, `select revoked_at from sessions`)
			sec, nsec := account.ID.Time().UnixTime()
			expire["account id"] = time.Unix(sec, nsec)
			now := f.time(t, `select clock_timestamp()`)
			for what, at := range expire {
				if off := at.Sub(now); off.Abs() > time.Minute {
					t.Errorf("%s is %v off the database's time", what, off)
				}
			}
		})
	}
}

func (f *fixture) time(t *testing.T, query string) time.Time {
	t.Helper()
	var at time.Time
	if err := f.db.Owner.QueryRow(t.Context(), query).Scan(&at); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return at
}
