package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"colophon/internal/limit"
)

// TestKeysHaveTheirOwnLimit sends generations with API keys. They must be counted per key and,
// beside that, for all keys of the user, and not under the user's own limit.
//
// security: ASVS 2.4.1, API4:2023, LLM10:2025
func TestKeysHaveTheirOwnLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) {
		f.api.Limits = inMemory(f.T, 1000)
		for to, requests := range map[**limit.Limit]uint64{&f.api.Limits.Keys: 3, &f.api.Limits.Jobs: 1, &f.api.Limits.Generate: 1, &f.api.Limits.Token: 100} {
			var err error
			if *to, err = limit.InMemory((*to).Name(), limit.Rate{Requests: requests, Per: time.Hour}); err != nil {
				f.T.Fatal(err)
			}
		}
	})
	first := f.As(createKey(f.Client, `{"name":"first"}`).Key)
	for i, path := range []string{"/jobs", "/generate", "/jobs"} {
		a := first.Do("POST", path, prompt, "Prefer", "respond-async").Must(t, 202)
		if want := fmt.Sprintf(`"keys";r=%d;`, 2-i); !strings.HasPrefix(a.Header.Get("RateLimit"), want) || a.Header.Get("RateLimit-Policy") != `"keys";q=3;w=3600` {
			t.Errorf("%v, want %s", a.Header, want)
		}
	}
	a := first.Do("POST", "/generate", prompt)
	if a.Refused(t, 429, "rate_limit_exceeded"); a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	high := f.As(createKey(f.Client, `{"name":"high","generations_per_minute":1000}`).Key) // cannot raise the service's limit
	for range 3 {
		high.Do("POST", "/jobs", prompt).Must(t, 202)
	}
	high.Do("POST", "/jobs", prompt).Refused(t, 429, "rate_limit_exceeded")
	f.Do("POST", "/jobs", prompt).Must(t, 202) // the user's own limit of 1 is untouched
	f.Do("POST", "/jobs", prompt).Refused(t, 429, "rate_limit_exceeded")
	high.Do("GET", "/history", "").Must(t, 200)
	if a := high.Do("PUT", "/users/me/password", `{}`); a.Status != 403 || !strings.HasPrefix(a.Header.Get("RateLimit"), `"calls";`) {
		t.Errorf("%d %v: a key uses up the limit of the user's sign-ins", a.Status, a.Header)
	}
	_, user := f.user("somebody-else")
	sent := 0
	for range 20 { // all keys of a user together have 16 times the limit of one
		key := f.As(createKey(f.As(user), `{"name":"many"}`).Key)
		for key.Do("POST", "/jobs", prompt).Status == 202 {
			sent++
		}
	}
	if sent != 16*3 {
		t.Errorf("%d generations with 20 keys, want 48", sent)
	}
}

// TestKeyHasALowerLimitOfItsOwn gives a key one generation a minute, in windows of an hour.
func TestKeyHasALowerLimitOfItsOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) {
		f.api.Limits = inMemory(f.T, 1000)
		f.api.Limits.Token = nil
	})
	own := f.As(createKey(f.Client, `{"name":"own","generations_per_minute":1}`).Key)
	for i := range 60 {
		a := own.Do("POST", "/jobs", prompt).Must(t, 202)
		if want := fmt.Sprintf(`"keys";r=%d;`, 59-i); !strings.HasPrefix(a.Header.Get("RateLimit"), want) || a.Header.Get("RateLimit-Policy") != `"keys";q=60;w=3600` {
			t.Fatalf("%v, want %s", a.Header, want)
		}
	}
	own.Do("POST", "/jobs", prompt).Refused(t, 429, "rate_limit_exceeded")
	own.Do("POST", "/generate", prompt).Refused(t, 429, "rate_limit_exceeded")
}

// TestLeakedKeyKeepsNobodyFromRevokingIt uses up the limit of calls with a key.
//
// security: API4:2023
func TestLeakedKeyKeepsNobodyFromRevokingIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.Limits = inMemory(f.T, 5) })
	leaked := createKey(f.Client, `{"name":"leaked"}`)
	for n := 0; f.As(leaked.Key).Do("GET", "/history", "").Status != 429; n++ {
		if n > 5 {
			t.Fatal("the calls of a key are not limited")
		}
	}
	f.As(leaked.Key).Do("GET", "/keys", "").Refused(t, 429, "rate_limit_exceeded")
	f.Do("DELETE", "/keys/"+leaked.ID, "").Must(t, 204)
}
