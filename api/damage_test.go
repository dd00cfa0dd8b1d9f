package api_test

import (
	"testing"

	"colophon/events"
)

// The owner of a damaged job must get 410 with the code damaged. Other users must get
// 404, as for a job that does not exist.
func TestDamagedJobIsAProblem(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var j job
	f.Do("POST", "/jobs", prompt).Must(t, 202).Into(t, &j)
	_, access := f.user("somebody-else")
	f.db.Damage(t, `update events set payload = '\x00' where stream = $1`, events.Stream("job/"+j.ID))
	for _, r := range [][2]string{{"GET", ""}, {"GET", "/events"}, {"DELETE", ""}, {"POST", "/cancel"}, {"POST", "/ticket"}} {
		f.Do(r[0], "/jobs/"+j.ID+r[1], "").Refused(t, 410, "damaged")
		f.As(access).Do(r[0], "/jobs/"+j.ID+r[1], "").Refused(t, 404, "not_found")
	}
	f.Do("POST", "/jobs", prompt).Must(t, 202)
	f.Do("GET", "/history", "").Must(t, 200)
	// If the key of an erased account cannot be destroyed yet, the answer to the erasure
	// must be 202 and not 204.
	if _, err := f.db.Owner.Exec(t.Context(), `alter table owner_keys add check (wrapped is not null) not valid`); err != nil {
		t.Fatal(err)
	}
	_, other := f.user("a-third")
	f.As(other).Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 202)
	if _, err := f.db.Owner.Exec(t.Context(), `alter table owner_keys drop constraint owner_keys_wrapped_check`); err != nil {
		t.Fatal(err)
	}
	f.Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204)
	var gone bool
	if err := f.db.Owner.QueryRow(t.Context(), `select wrapped is null from owner_keys where owner = $1`, f.owner).Scan(&gone); err != nil || !gone {
		t.Errorf("the key of an erased account is still there, %v", err)
	}
}
