package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestRefreshTokensAreRandom makes many refresh tokens of one session. At least 255 of
// their bits must be random. A bit counts as random if it is set in about half of the
// tokens and does not depend on the next bit. Constant bits and counters do not count
// as random.
//
// security: ASVS 7.2.3
func TestRefreshTokensAreRandom(t *testing.T) {
	t.Parallel()
	const (
		many = 400
		far  = many/2 - 10*6 // six standard deviations below half of the tokens
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
	if random < 256-1 { // one bit may be missing, because in one of a million runs a random bit looks constant
		t.Errorf("%d bits of %d are random", random, len(set))
	}
}

// TestFewRefreshTokensAreStored exchanges tokens repeatedly. Tokens that were exchanged
// more than Grace ago must not stay stored.
func TestFewRefreshTokensAreStored(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	first := f.mustSignIn(t)
	session, latest := f.mustVerify(t, first.AccessToken).Session, first
	stored := func() int { return f.count(t, `select count(*) from refresh_tokens where session = $1`, session) }
	for range 5 {
		latest = f.mustRefresh(t, latest.RefreshToken)
		f.clock.Advance(Grace + time.Microsecond)
	}
	if n := stored(); n != 2 {
		t.Errorf("%d tokens are stored, want 2: the latest and the one before", n)
	}
	// Tokens that were exchanged within Grace are stored, up to maxRefreshTokens per
	// session. Beyond this limit the oldest tokens count as reused.
	f.exec(t, `
		insert into refresh_tokens (hash, session, issued_at)
		select sha256(n::text::bytea), $1, $2::timestamptz - interval '1 hour' from generate_series(1, $3::integer) n`,
		session, f.clock.Now(), maxRefreshTokens-3)
	for range 5 {
		latest = f.mustRefresh(t, latest.RefreshToken)
		f.clock.Advance(time.Microsecond)
	}
	if n := stored(); n != maxRefreshTokens {
		t.Errorf("%d tokens are stored, want %d", n, maxRefreshTokens)
	}
	// A token must identify its session even after the token's row has been deleted.
	if err := f.Revoke(t.Context(), first.RefreshToken); err != nil || !f.hasEnded(t, session) {
		t.Errorf("the session has not ended, error %v", err)
	}
}

func TestMalformedRefreshTokensAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustRegister(t)
	tokens := f.mustSignIn(t)
	good := tokens.RefreshToken
	last := good[len(good)-1]
	altered := func(at int) string {
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, refreshPrefix))
		if err != nil {
			t.Fatal(err)
		}
		raw[at] ^= 1
		return refreshPrefix + base64.RawURLEncoding.EncodeToString(raw)
	}
	foreign, _ := (&Service{vault: newVault(t, 8)}).newRefreshToken(f.mustVerify(t, tokens.AccessToken).Session)
	for what, token := range map[string]string{
		"empty":                 "",
		"prefix alone":          refreshPrefix,
		"no prefix":             strings.TrimPrefix(good, refreshPrefix),
		"another prefix":        "xyz_" + strings.TrimPrefix(good, refreshPrefix),
		"prefix in capitals":    "CRT_" + strings.TrimPrefix(good, refreshPrefix),
		"one character more":    good + "A",
		"one character less":    good[:len(good)-1],
		"padded":                good + "=",
		"line break":            good + "\n",
		"line break for a char": good[:len(good)-1] + "\n",
		"space":                 " " + good,
		"other unused bits":     good[:len(good)-1] + string(last+1), // this text decodes to the same bytes
		"NUL":                   good[:len(good)-1] + "\x00",
		"other token":           refreshPrefix + strings.Repeat("A", len(good)-len(refreshPrefix)),
		"another session":       altered(0),
		"another secret":        altered(refreshSize - refreshMACSize - 1),
		"another MAC":           altered(refreshSize - 1),
		"of another master key": foreign,
		"1 MB":                  refreshPrefix + strings.Repeat("A", 1<<20),
	} {
		_, err := f.Refresh(t.Context(), token)
		if !errors.Is(err, ErrRefreshToken) {
			t.Errorf("%s: %v", what, err)
		}
		if err := f.Revoke(t.Context(), token); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.mustRefresh(t, good) // the refused tokens must not have ended the session
}

// FuzzRefreshToken passes arbitrary texts to readRefreshToken. It must accept no text that
// the service has not made.
func FuzzRefreshToken(f *testing.F) {
	s := &Service{vault: newVault(f, 7)}
	made, stored := s.newRefreshToken(uuid.New())
	if t, ok := s.readRefreshToken(made); !ok || t.session != stored.session || !slices.Equal(t.hash, stored.hash) || len(t.hash) != 32 {
		f.Fatalf("%q: %+v, %v", made, t, ok)
	}
	// The seed is equal in all worker processes of the fuzzer.
	raw := bytes.Repeat([]byte{7}, refreshSize-refreshMACSize)
	good := refreshPrefix + base64.RawURLEncoding.EncodeToString(append(raw, s.refreshMAC(raw)...))
	f.Add(good)
	f.Add(refreshPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		if read, ok := s.readRefreshToken(text); ok != (text == good) {
			t.Fatalf("%q: %+v, %v", text, read, ok) // an accepted text would be a forgery
		}
	})
}
