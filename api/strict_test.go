package api_test

import (
	"strings"
	"testing"
)

// TestUndescribedInputIsRefused sends input that Huma by itself accepts: other spellings
// of names, ids and numbers, and empty parameters. The service must refuse such input.
//
// security: ASVS 15.3.3, ASVS 15.3.7, API3:2023, ASVS 1.5.2
func TestUndescribedInputIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job := f.Submit(prompt)
	for _, body := range []string{
		`{"prompt":"light","MAX_LENGTH":100000}`,
		`{"prompt":"light","Prompt":"dark"}`,
		`{"PROMPT":"light"}`,
	} {
		f.Do("POST", "/jobs", body).Refused(t, 422, "invalid_request")
	}
	f.Do("POST", "/jobs", `{"prompt":"light","max_length":20,"max_length":20}`).Refused(t, 400, "invalid_request")
	f.Do("POST", "/jobs", `{"prompt":"light","max_length":null,"stop":null}`).Must(t, 202)
	for _, id := range []string{"{" + job + "}", "%7B" + job + "%7D", "urn:uuid:" + job, strings.ReplaceAll(job, "-", "")} {
		f.Do("GET", "/jobs/"+id, "").Refused(t, 422, "invalid_request")
	}
	f.Do("GET", "/jobs/"+strings.ToUpper(job), "").Must(t, 200)
	for _, query := range []string{"limit=", "limit=5&limit=6", "limit=+5", "limit=%2B5", "limit=05", "before=", "limit=5;before=x", "limit=%zz"} {
		f.Do("GET", "/history?"+query, "").Refused(t, 422, "invalid_request")
	}
	for _, query := range []string{"model=%00", "model=a%00b", "model=%ff"} {
		f.Do("GET", "/jobs?"+query, "").Refused(t, 422, "invalid_request")
	}
	f.Do("GET", "/jobs?model=%C3%85", "").Must(t, 200)
	f.Do("GET", "/history?limit=5", "").Must(t, 200)
	for _, after := range []string{"", "+5", "05", "0x5"} {
		f.Do("POST", "/jobs", prompt, "Cancel-After", after).Refused(t, 422, "invalid_request")
	}
	for _, path := range []string{"/jobs/../history", "/./history", "//history", "/jobs/" + job + "/"} {
		f.Do("GET", path, "").Refused(t, 404, "no_such_route")
	}
}
