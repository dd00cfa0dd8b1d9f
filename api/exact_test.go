package api_test

import (
	"strings"
	"testing"
)

// TestWhatTheDescriptionDoesNotAllowIsRefused sends what Huma by itself takes:
// other spellings of names, ids and numbers, and parameters that say nothing.
//
// security: ASVS 15.3.3, ASVS 15.3.7, API3:2023
func TestWhatTheDescriptionDoesNotAllowIsRefused(t *testing.T) {
	f := newFixture(t)
	var j job
	f.do("POST", "/jobs", prompt).must(t, 202).into(t, &j)
	for _, body := range []string{
		`{"prompt":"light","MAX_LENGTH":100000}`,
		`{"prompt":"light","Prompt":"dark"}`,
		`{"PROMPT":"light"}`,
	} {
		f.do("POST", "/jobs", body).refused(t, 422, "invalid_request")
	}
	f.do("POST", "/jobs", `{"prompt":"light","max_length":20,"max_length":20}`).refused(t, 400, "invalid_request")
	f.do("POST", "/jobs", `{"prompt":"light","max_length":null,"stop":null}`).must(t, 202)
	for _, id := range []string{"{" + j.ID + "}", "%7B" + j.ID + "%7D", "urn:uuid:" + j.ID, strings.ReplaceAll(j.ID, "-", "")} {
		f.do("GET", "/jobs/"+id, "").refused(t, 422, "invalid_request")
	}
	f.do("GET", "/jobs/"+strings.ToUpper(j.ID), "").must(t, 200)
	for _, query := range []string{"limit=", "limit=5&limit=6", "limit=+5", "limit=%2B5", "limit=05", "before=", "limit=5;before=x", "limit=%zz"} {
		f.do("GET", "/history?"+query, "").refused(t, 422, "invalid_request")
	}
	f.do("GET", "/history?limit=5", "").must(t, 200)
	for _, after := range []string{"", "+5", "05", "0x5"} {
		f.do("POST", "/jobs", prompt, "Cancel-After", after).refused(t, 422, "invalid_request")
	}
	for _, path := range []string{"/jobs/../history", "/./history", "//history", "/jobs/" + j.ID + "/"} {
		f.do("GET", path, "").refused(t, 404, "no_such_route")
	}
}
