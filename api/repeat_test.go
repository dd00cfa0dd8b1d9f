package api_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
)

func TestSameKeyGivesTheFirstAnswerAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := []string{"Idempotency-Key", `"first"`}
	a := f.Do("POST", "/jobs", prompt, key...).Must(t, 202)
	var j, again job
	a.Into(t, &j)
	f.Do("POST", "/jobs", ` { "max_length" : 50, "prompt": "The nature of light"}`, "Idempotency-Key", "first").Must(t, 202).Into(t, &again)
	if again.ID != j.ID {
		t.Errorf("the same request in another spelling made %s beside %s", again.ID, j.ID)
	}
	f.Do("POST", "/jobs/"+j.ID+"/cancel", "").Must(t, 200)
	b := f.Do("POST", "/jobs", prompt, key...).Must(t, 202)
	b.Into(t, &again)
	if again.ID != j.ID || again.State != "cancelled" || b.Header.Get("Location") != a.Header.Get("Location") {
		t.Errorf("%s: %+v", b.Header.Get("Location"), again)
	}
	f.Do("POST", "/jobs", `{"prompt":"The nature of darkness"}`, key...).Refused(t, 422, "idempotency_key_reused")
	f.Do("POST", "/jobs", prompt, "Idempotency-Key", "first", "Cancel-After", "9").Refused(t, 422, "idempotency_key_reused")
	f.Do("POST", "/jobs", `{"prompt":"such violence"}`, "Idempotency-Key", "second").Must(t, 422)
	f.Do("POST", "/jobs", prompt, "Idempotency-Key", "second").Must(t, 202).Into(t, &again)
	if again.ID == j.ID {
		t.Error("another key gave the same job")
	}
	// A key belongs to one user and one route.
	f.Do("POST", "/generate", prompt, "Idempotency-Key", "first", "Prefer", "wait=0").Must(t, 202).Into(t, &again)
	if again.ID == j.ID {
		t.Error("the key of another route gave the same job")
	}
	_, f.Access = f.user("somebody-else")
	f.Do("POST", "/jobs", prompt, key...).Must(t, 202).Into(t, &again)
	if again.ID == j.ID {
		t.Error("the key of another account gave the same job")
	}
	for _, bad := range []string{"", `""`, `"half`, "two words", strings.Repeat("k", 256), "caf\xc3\xa9"} {
		f.Do("POST", "/jobs", prompt, "Idempotency-Key", bad).Refused(t, 400, "invalid_idempotency_key")
		f.Do("POST", "/users", `{"username":"nobody","password":"a long sentence"}`, "Idempotency-Key", bad).Refused(t, 400, "invalid_idempotency_key")
	}
}

// TestKeyInFlightIsAConflict holds the transaction of the first request open. A second
// request with the same key must get 409.
func TestKeyInFlightIsAConflict(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, path := range []string{"/jobs", "/generate"} {
		k := events.IdempotencyKey{Scope: f.owner.String() + " POST " + path, Key: "k"}
		err := f.store.Write(t.Context(), func(tx *events.Tx) error {
			if err := tx.Claim(t.Context(), k, f.owner, events.JobStream(uuid.New())); err != nil {
				return err
			}
			a := f.Do("POST", path, prompt, "Idempotency-Key", "k")
			a.Refused(t, 409, "idempotency_key_in_flight")
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return context.Canceled
		})
		if err != context.Canceled {
			t.Fatal(err)
		}
		f.Do("POST", path, prompt, "Idempotency-Key", "k", "Prefer", "wait=0").Must(t, 202)
	}
}

// TestSecondGenerateJoinsTheFirst sends the same request several times at once. All
// requests must wait for the same job.
func TestSecondGenerateJoinsTheFirst(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			a, err := f.Send(t.Context(), "POST", "/generate", prompt, "Idempotency-Key", "k")
			if err != nil || a.Status != 409 || !strings.Contains(string(a.Body), "job_cancelled") {
				t.Errorf("%d %s, %v", a.Status, a.Body, err)
			}
		})
	}
	j := f.newest(1)
	f.Do("POST", "/jobs/"+j.ID.String()+"/cancel", "").Must(t, 200)
	wg.Wait()
	f.newest(1)
}

func TestRegistrationIsRepeatableUnderAKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.Access = ""
	const body = `{"username":"isaac","password":"hypotheses non fingo"}`
	first := f.Do("POST", "/users", body, "Idempotency-Key", "k").Must(t, 200)
	again := f.Do("POST", "/users", body, "Idempotency-Key", `"k"`).Must(t, 200)
	if !bytes.Equal(first.Body, again.Body) {
		t.Errorf("%s and then %s", first.Body, again.Body)
	}
	for _, other := range []string{`{"username":"isaac","password":"another password"}`, `{"username":"gottfried","password":"hypotheses non fingo"}`} {
		f.Do("POST", "/users", other, "Idempotency-Key", "k").Refused(t, 422, "idempotency_key_reused")
	}
	f.Do("POST", "/users", body, "Idempotency-Key", "k2").Refused(t, 409, "username_taken")
}
