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
			got, proof, err := other.Redeem(t.Context(), ticket, c.path)
			id.Expires = f.clock.Now().Add(ResumeTTL).UTC()
			if c.good && (err != nil || got != id || proof == "") || !c.good && (!errors.Is(err, ErrAccessToken) || got != (Identity{}) || proof != "") {
				t.Errorf("%+v, %q, %v; want %+v", got, proof, err, id)
			}
			_, _, err = f.Redeem(t.Context(), ticket, "/here")
			wantError(t, err, ErrAccessToken) // refused, because the ticket has been presented before
			f.exec(t, `update accounts set disabled_at = null where username = $1`, name)
		})
	}
	ticket, _ := f.mustTicket(t)
	for _, bad := range []string{"", ticketPrefix, ticket[1:], ticket + "A", ticket[:len(ticket)-1], strings.ToUpper(ticket), strings.Repeat("A", 1<<20)} {
		_, _, err := f.Redeem(t.Context(), bad, "/here")
		wantError(t, err, ErrAccessToken)
	}
	_, err := f.Verify(t.Context(), ticket)
	wantError(t, err, ErrAccessToken)
	_, err = f.Refresh(t.Context(), ticket)
	wantError(t, err, ErrRefreshToken)
	if _, _, err := f.Redeem(t.Context(), ticket, "/here"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = f.Redeem(ctx, ticket, "/here")
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
			_, _, err := f.Redeem(context.Background(), ticket, "/here")
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
	_, _, err := f.Redeem(t.Context(), ticket, "/here")
	wantError(t, err, ErrAccessToken) // the oldest ticket was replaced
	f.clock.Advance(TicketTTL - time.Millisecond)
	if err := f.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.count(t, `select count(*) from tickets`); n != 1 {
		t.Errorf("%d tickets, want 1: the latest", n)
	}
	if _, _, err := f.Redeem(t.Context(), latest, "/here"); err != nil {
		t.Error(err)
	}
	f.exec(t, `update sessions set revoked_at = now()`)
	_, err = f.Ticket(t.Context(), id, "/here")
	wantError(t, err, ErrAccessToken)
}

// mustRedeem redeems a ticket for /here and returns the proof.
func (f *fixture) mustRedeem(t *testing.T, ticket string) (Identity, string) {
	t.Helper()
	id, proof, err := f.Redeem(t.Context(), ticket, "/here")
	if err != nil {
		t.Fatal(err)
	}
	return id, proof
}

// TestTicketReopensItsStream reopens redeemed tickets at another process, after what may have
// happened meanwhile. The access token that requested the ticket may expire.
//
// security: ASVS 7.4.1, ASVS 14.2.1
func TestTicketReopensItsStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	other := f.another(t, newHasher(cheapParams)) // a service in another process
	_, foreign := f.mustTicket(t)
	stolen, _ := f.mustTicket(t)
	_, wrong := f.mustRedeem(t, stolen)
	for what, c := range map[string]struct {
		meanwhile func(*testing.T, Identity)
		path      string
		proof     func(string) string // nil for the right one
		good      bool
	}{
		"at once":                     {path: "/here", good: true},
		"at the last moment":          {func(*testing.T, Identity) { f.clock.Advance(ResumeTTL - time.Microsecond) }, "/here", nil, true},
		"after an hour":               {func(*testing.T, Identity) { f.clock.Advance(ResumeTTL) }, "/here", nil, false},
		"after its access token":      {func(*testing.T, Identity) { f.clock.Advance(DefaultAccessTTL + time.Minute) }, "/here", nil, true},
		"another path":                {path: "/her"},
		"no proof":                    {path: "/here", proof: func(string) string { return "" }},
		"the proof of another ticket": {path: "/here", proof: func(string) string { return wrong }},
		"a proof that is a letter off": {path: "/here", proof: func(p string) string {
			if p[0] == 'A' {
				return "B" + p[1:]
			}
			return "A" + p[1:]
		}},
		"a proof that is longer": {path: "/here", proof: func(p string) string { return p + "A" }},
		"another session has ended": {func(t *testing.T, _ Identity) {
			f.exec(t, `update sessions set revoked_at = now() where id = $1`, foreign.Session)
		}, "/here", nil, true},
		"the session has ended": {func(t *testing.T, id Identity) {
			f.exec(t, `update sessions set revoked_at = now() where id = $1`, id.Session)
		}, "/here", nil, false},
		"the session is deleted": {func(t *testing.T, id Identity) { f.exec(t, `delete from sessions where id = $1`, id.Session) }, "/here", nil, false},
		"the account is disabled": {func(t *testing.T, _ Identity) {
			f.exec(t, `update accounts set disabled_at = now() where username = $1`, name)
		}, "/here", nil, false},
	} {
		t.Run(what, func(t *testing.T) {
			ticket, _ := f.mustTicket(t)
			id, proof := f.mustRedeem(t, ticket)
			if strings.Contains(ticket, proof) || proof == wrong {
				t.Errorf("ticket %q, proof %q", ticket, proof)
			}
			if c.meanwhile != nil {
				c.meanwhile(t, id)
			}
			shown := proof
			if c.proof != nil {
				shown = c.proof(proof)
			}
			for range 2 { // a refusal uses nothing up
				got, err := other.Reopen(t.Context(), ticket, shown, c.path)
				if c.good && (err != nil || got != id) || !c.good && (!errors.Is(err, ErrAccessToken) || got != (Identity{})) {
					t.Errorf("%+v, %v; want %+v", got, err, id)
				}
			}
			if c.meanwhile == nil {
				if _, err := f.Reopen(t.Context(), ticket, proof, "/here"); err != nil {
					t.Errorf("after the refusals: %v", err)
				}
			}
			_, _, err := f.Redeem(t.Context(), ticket, "/here")
			wantError(t, err, ErrAccessToken)
			f.exec(t, `update accounts set disabled_at = null where username = $1`, name)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Reopen(ctx, stolen, wrong, "/here")
	wantError(t, err, context.Canceled)
}

// TestTicketEndsWithAShorterSession redeems a ticket of a session that ends in ten minutes.
func TestTicketEndsWithAShorterSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	ticket, id := f.mustTicket(t)
	end := f.clock.Now().Add(10 * time.Minute)
	f.exec(t, `update sessions set expires_at = $2 where id = $1`, id.Session, end)
	id, proof := f.mustRedeem(t, ticket)
	if !id.Expires.Equal(end) {
		t.Errorf("expires at %v, want %v", id.Expires, end)
	}
	f.clock.Advance(10 * time.Minute)
	_, err := f.Reopen(t.Context(), ticket, proof, "/here")
	wantError(t, err, ErrAccessToken)
}

// TestResumptionsAreLimitedHashedAndCollected redeems more tickets than a session may have.
// The last must replace the oldest.
//
// security: API4:2023
func TestResumptionsAreLimitedHashedAndCollected(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	first, id := f.mustTicket(t)
	_, oldest := f.mustRedeem(t, first)
	f.exec(t, `
		insert into resumptions (hash, session, path, expires_at)
		select sha256(n::text::bytea), $1, '/here', $2 from generate_series(1, $3) n`, id.Session, f.clock.Now().Add(ResumeTTL+time.Second), maxResumptions-1)
	if _, err := f.Reopen(t.Context(), first, oldest, "/here"); err != nil {
		t.Error(err)
	}
	f.clock.Advance(time.Minute)
	last, err := f.Ticket(t.Context(), id, "/here")
	if err != nil {
		t.Fatal(err)
	}
	_, proof := f.mustRedeem(t, last)
	if n := f.count(t, `select count(*) from resumptions`); n != maxResumptions {
		t.Errorf("%d resumptions, want %d", n, maxResumptions)
	}
	for _, secret := range []string{strings.TrimPrefix(last, ticketPrefix), proof} {
		if n := f.count(t, `select count(*) from resumptions r where position($1 in r::text) > 0`, secret); n != 0 {
			t.Error("a secret is stored in plain text")
		}
	}
	_, err = f.Reopen(t.Context(), first, oldest, "/here")
	wantError(t, err, ErrAccessToken)
	f.clock.Advance(ResumeTTL - time.Millisecond)
	if err := f.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.count(t, `select count(*) from resumptions`); n != 1 {
		t.Errorf("%d resumptions, want 1: the last", n)
	}
}
