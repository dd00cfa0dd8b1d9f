package api_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/test/apitest"
)

type session struct {
	ID          uuid.UUID
	CreatedAt   time.Time `json:"created_at"`
	RefreshedAt time.Time `json:"refreshed_at"`
	ExpiresAt   time.Time `json:"expires_at"`
	Current     bool
}

// sessionsOf returns the answer of GET /users/me/sessions.
func sessionsOf(t *testing.T, c apitest.Client) (list []session) {
	t.Helper()
	c.Do("GET", "/users/me/sessions", "").Must(t, 200).Into(t, &list)
	return list
}

// TestSessionsAreListedAndEnded lists the sessions of an account, and ends one with an open
// stream, which must end too.
//
// security: ASVS 7.5.2, API1:2023
func TestSessionsAreListedAndEnded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := sessionsOf(t, f.Client)
	if len(first) != 1 || !first[0].Current || first[0].RefreshedAt.Before(first[0].CreatedAt) || first[0].ExpiresAt.Sub(first[0].CreatedAt) != 30*24*time.Hour {
		t.Fatalf("%+v", first)
	}
	tokens := f.SignIn("somebody", "a long sentence")
	other := f.As(tokens.Access)
	list := sessionsOf(t, f.Client)
	if len(list) != 2 || list[1] != first[0] || list[0].Current || list[0].CreatedAt.Before(list[1].CreatedAt) {
		t.Fatalf("%+v", list)
	}
	f.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh).Must(t, 200)
	seen := sessionsOf(t, other)
	if len(seen) != 2 || !seen[0].Current || seen[1].Current || !seen[0].RefreshedAt.After(list[0].RefreshedAt) || seen[0].CreatedAt != list[0].CreatedAt || seen[0].ExpiresAt != list[0].ExpiresAt {
		t.Errorf("after a refresh: %+v, before: %+v", seen, list)
	}

	path := "/users/me/sessions/" + list[0].ID.String()
	strangersID, access := f.user("stranger")
	stranger := f.As(access)
	stranger.Do("DELETE", path, "").Refused(t, 404, "not_found")
	_, auditor := f.auditor()
	auditor.Do("DELETE", path, "").Refused(t, 404, "not_found")
	f.As("").Do("DELETE", path, "").Refused(t, 401, "missing_access_token")
	for _, id := range []uuid.UUID{uuid.New(), uuid.Nil, strangersID, sessionsOf(t, stranger)[0].ID} {
		f.Do("DELETE", "/users/me/sessions/"+id.String(), "").Refused(t, 404, "not_found")
	}
	f.Do("DELETE", "/users/me/sessions/all", "").Refused(t, 422, "invalid_request")

	id := f.Submit(prompt)
	opened, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		first := sync.OnceFunc(func() { close(opened) })
		for _, err := range other.Stream(t.Context(), "/jobs/"+id+"/events") {
			first()
			if err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	<-opened
	for range 2 {
		if a := f.Do("DELETE", path, "").Must(t, 204); len(a.Body) != 0 {
			t.Errorf("%s", a.Body)
		}
	}
	<-ended
	other.Do("GET", "/users/me", "").Refused(t, 401, "invalid_access_token")
	f.Form("/token", "grant_type", "refresh_token", "refresh_token", tokens.Refresh).Refused(t, 401, "")
	if left := sessionsOf(t, f.Client); len(left) != 1 || left[0] != first[0] {
		t.Errorf("%+v", left)
	}
	sessionsOf(t, stranger) // the sessions of others go on
	f.Do("DELETE", "/users/me/sessions/"+first[0].ID.String(), "").Must(t, 204)
	f.Do("GET", "/users/me/sessions", "").Refused(t, 401, "invalid_access_token")
}
