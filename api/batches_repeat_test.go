package api_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"colophon/test/apitest"
)

// TestRepeatedBatchIsCreatedOnce sends one request for a batch many times with one idempotency key:
// one after the other, at the same time, and after the input was deleted. There must be one batch.
// Another account's request with the same key must make another batch, and another request of
// the same account must be refused.
func TestRepeatedBatchIsCreatedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	body := func(file, more string) string {
		return `{"input_file_id":"` + file + `","endpoint":"/v1/completions","completion_window":"24h"` + more + `}`
	}
	missing := body("file-"+uuid.NewString(), "")
	f.Do("POST", "/v1/batches", missing, "Idempotency-Key", `"once"`).Refused(t, 404, "not_found") // uses no key
	file := upload(f.Client, line("a", "/v1/completions", `{}`))
	answers := make([]apitest.Answer, 8)
	var clients sync.WaitGroup
	for i := range answers {
		clients.Go(func() { answers[i] = f.Do("POST", "/v1/batches", body(file, ""), "Idempotency-Key", `"once"`) })
	}
	clients.Wait()
	var ids []string
	for _, a := range answers {
		var b batch
		a.Must(t, 200).Into(t, &b)
		ids = append(ids, b.ID)
	}
	f.advance()
	until(f.Client, ids[0], is("completed"))
	f.Do("DELETE", "/v1/files/"+file, "").Must(t, 200)
	var again batch
	f.Do("POST", "/v1/batches", strings.Replace(body(file, ""), ",", " , ", 1), "Idempotency-Key", `"once"`).Must(t, 200).Into(t, &again)
	ids = append(ids, again.ID)
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("batches %v", ids)
			break
		}
	}
	if n := f.count(`select count(*) from batches`); n != 1 {
		t.Errorf("%d batches", n)
	}
	f.Do("POST", "/v1/batches", body(file, `,"metadata":{"a":"b"}`), "Idempotency-Key", `"once"`).Refused(t, 400, "idempotency_key_reused")
	f.Do("POST", "/v1/batches", body(file, ""), "Idempotency-Key", "").Refused(t, 400, "invalid_idempotency_key")
	_, stranger := f.user("stranger")
	c := f.As(stranger)
	other := upload(c, line("a", "/v1/completions", `{}`))
	var b batch
	c.Do("POST", "/v1/batches", body(other, ""), "Idempotency-Key", `"once"`).Must(t, 200).Into(t, &b)
	if b.ID == ids[0] {
		t.Error("two accounts share a batch")
	}
}
