package auth

import (
	"testing"
	"time"

	"colophon/events"
	"colophon/internal/pg/pgtest"
)

// Package auth_test uses these names in its tests of the service over HTTP.
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

// Process returns the service and the store of another process. If realClock is true, the
// service uses the real clock and rotates keys quickly. Otherwise it uses the clock of the
// fixture.
func (f *fixture) Process(t *testing.T, realClock bool) (*Service, *events.Store) {
	if !realClock {
		return f.process(t, f.clock.Now)
	}
	return f.process(t, time.Now, func(s *Service) {
		s.keys.maxAge, s.keys.reads.Keep, s.keys.publishAhead = 100*time.Millisecond, 100*time.Millisecond, 2*time.Second
	})
}

func NewForger(t *testing.T, s *Service, identity Identity) Forger {
	f := newForger(t, s)
	f.identity = identity
	return f
}

func (f forger) With(header, claims Members) string { return f.with(header, claims) }
func (f forger) Now() time.Time                     { return f.now }

func Hostile(t *testing.T, f Forger, url string) map[string]string { return hostile(t, f, url) }

func KID(t testing.TB, token string) string { return kidOf(t, token) }
