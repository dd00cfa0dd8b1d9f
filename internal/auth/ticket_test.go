package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mustTicket signs in and returns a ticket for /here.
func (f *fixture) mustTicket(t *testing.T) (string, Identity) {
	t.Helper()
	id := f.mustVerify(t, f.mustSignIn(t).AccessToken)
	ticket, err := f.Ticket(t.Context(), id, "/here")
	if err != nil {
		t.Fatal(err)
	}
	return ticket, id
}

func TestTicketIsBoundToPathTimeAndSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	other := f.another(t, newHasher(cheapParams)) // a service in another process
	for what, c := range map[string]struct {
		meanwhile func(*testing.T, Identity)
		path      string
		good      bool
	}{
		"at once":            {func(*testing.T, Identity) {}, "/here", true},
		"at the last moment": {func(*testing.T, Identity) { f.clock.Advance(TicketTTL - time.Microsecond) }, "/here", true},
		"too late":           {func(*testing.T, Identity) { f.clock.Advance(TicketTTL) }, "/here", false},
		"another path":       {func(*testing.T, Identity) {}, "/her", false},
		"the session has ended": {func(t *testing.T, id Identity) {
			f.exec(t, `update sessions set revoked_at = now() where id = $1`, id.Session)
		}, "/here", false},
		"the session is deleted": {func(t *testing.T, id Identity) { f.exec(t, `delete from sessions where id = $1`, id.Session) }, "/here", false},
		"the account is disabled": {func(t *testing.T, _ Identity) {
			f.exec(t, `update accounts set disabled_at = now() where username = $1`, name)
		}, "/here", false},
		"its access token has expired": {func(t *testing.T, id Identity) { f.exec(t, `update tickets set access_until = $1`, f.clock.Now()) }, "/here", false},
		"its access token is valid":    {func(t *testing.T, id Identity) { f.exec(t, `update tickets set access_until = $1`, id.Expires) }, "/here", true},
	} {
		t.Run(what, func(t *testing.T) {
			ticket, id := f.mustTicket(t)
			c.meanwhile(t, id)
			got, err := other.Redeem(t.Context(), ticket, c.path)
			if c.good && (err != nil || got != id) || !c.good && (!errors.Is(err, ErrAccessToken) || got != (Identity{})) {
				t.Errorf("%+v, %v; want %+v", got, err, id)
			}
			_, err = f.Redeem(t.Context(), ticket, "/here")
			wantError(t, err, ErrAccessToken) // refused, because the ticket has been presented before
			f.exec(t, `update accounts set disabled_at = null where username = $1`, name)
		})
	}
	ticket, _ := f.mustTicket(t)
	for _, bad := range []string{"", ticketPrefix, ticket[1:], ticket + "A", ticket[:len(ticket)-1], strings.ToUpper(ticket), strings.Repeat("A", 1<<20)} {
		_, err := f.Redeem(t.Context(), bad, "/here")
		wantError(t, err, ErrAccessToken)
	}
	_, err := f.Verify(t.Context(), ticket)
	wantError(t, err, ErrAccessToken)
	_, err = f.Refresh(t.Context(), ticket)
	wantError(t, err, ErrRefreshToken)
	if _, err := f.Redeem(t.Context(), ticket, "/here"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Redeem(ctx, ticket, "/here")
	wantError(t, err, context.Canceled)
}

func TestTicketIsRedeemedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	ticket, _ := f.mustTicket(t)
	var wg sync.WaitGroup
	var taken atomic.Int32
	for range 8 {
		wg.Go(func() {
			_, err := f.Redeem(context.Background(), ticket, "/here")
			if err == nil {
				taken.Add(1)
			} else if !errors.Is(err, ErrAccessToken) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if taken.Load() != 1 {
		t.Errorf("redeemed %d times, want 1", taken.Load())
	}
}

// TestTicketsAreLimitedAndHashed requests more than maxTickets tickets for one session.
// The last ticket must replace the oldest one. The database may hold only the hashes of
// tickets.
func TestTicketsAreLimitedAndHashed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	ticket, id := f.mustTicket(t)
	var latest string
	for range maxTickets {
		f.clock.Advance(time.Millisecond)
		var err error
		if latest, err = f.Ticket(t.Context(), id, "/here"); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.count(t, `select count(*) from tickets`); n != maxTickets {
		t.Errorf("%d tickets, want %d", n, maxTickets)
	}
	if n := f.count(t, `select count(*) from tickets t where position($1 in t::text) > 0`, strings.TrimPrefix(latest, ticketPrefix)); n != 0 {
		t.Error("a ticket is stored in plain text")
	}
	_, err := f.Redeem(t.Context(), ticket, "/here")
	wantError(t, err, ErrAccessToken) // the oldest ticket was replaced
	f.clock.Advance(TicketTTL - time.Millisecond)
	if err := f.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.count(t, `select count(*) from tickets`); n != 1 {
		t.Errorf("%d tickets, want 1: the latest", n)
	}
	if _, err := f.Redeem(t.Context(), latest, "/here"); err != nil {
		t.Error(err)
	}
	f.exec(t, `update sessions set revoked_at = now()`)
	_, err = f.Ticket(t.Context(), id, "/here")
	wantError(t, err, ErrAccessToken)
}
