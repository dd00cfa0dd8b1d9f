package auth

import (
	"testing"
	"time"

	"colophon/events"
	"colophon/internal/pg/pgtest"
)

// The names below are for package auth_test, whose tests use the service over HTTP.
type (
	Fixture = fixture
	Forger  = forger
	Members = members
)

const (
	Name, Password = name, password
	MaxSkew        = maxSkew
)

func NewFixture(t *testing.T) *Fixture { return newFixture(t) }

func (f *fixture) DB() *pgtest.DB                        { return f.db }
func (f *fixture) Advance(d time.Duration)               { f.clock.Advance(d) }
func (f *fixture) MustRegister(t *testing.T) Account     { return f.mustRegister(t) }
func (f *fixture) MustSignIn(t *testing.T) Tokens        { return f.mustSignIn(t) }
func (f *fixture) Exec(t *testing.T, s string, a ...any) { f.exec(t, s, a...) }

// Process returns a service and its store as another process has them. If runs is
// true it uses the real clock and rotates keys quickly, otherwise the fixture's clock.
func (f *fixture) Process(t *testing.T, runs bool) (*Service, *events.Store) {
	if !runs {
		return f.elsewhere(t, f.clock.Now)
	}
	return f.elsewhere(t, time.Now, func(s *Service) {
		s.keys.maxAge, s.keys.reads.Keep, s.keys.publishAhead = 100*time.Millisecond, 100*time.Millisecond, 2*time.Second
	})
}

func NewForger(t *testing.T, s *Service, speaks Identity) Forger {
	f := newForger(t, s)
	f.speaks = speaks
	return f
}

func (f forger) With(header, claims Members) string { return f.with(header, claims) }
func (f forger) Now() time.Time                     { return f.now }

func Hostile(t *testing.T, f Forger, url string) map[string]string { return hostile(t, f, url) }

func KID(t testing.TB, token string) string { return kidOf(t, token) }
