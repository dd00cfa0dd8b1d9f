package api_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/test/apitest"
)

// TestIntegersMayBeWrittenAsDecimals submits integers in spellings that JSON Schema
// allows, such as 50.0. The service must accept these integers and refuse 50.5.
func TestIntegersMayBeWrittenAsDecimals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for body, want := range map[string]string{
		`{"prompt":"light","max_length":50.0,"top_k":4E1,"seed":1e3}`:                 "seed 1000, top_k 40",
		`{"prompt":"light","max_new_tokens":1.0e1,"top_k":-0.0,"seed":-0}`:            "seed 0, top_k 0",
		`{"prompt":"light","max_length":5000e-2,"top_k":7,"seed":9007199254740991.0}`: "seed 9007199254740991, top_k 7",
	} {
		job, err := f.store.Job(t.Context(), uuid.MustParse(f.Submit(body)))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("seed %d, top_k %d", job.Params.Seed, job.Params.TopK); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	f.Do("POST", "/jobs", `{"prompt":"light","max_length":50.5}`).Refused(t, 422, "invalid_request")
}

// TestRefusalsShowNeitherGoTypesNorValues sends values that no type of the service can
// hold. It also sends malformed ids, which the error of their parser repeats. No answer
// may show a Go type or a part of a value.
//
// security: ASVS 16.5.1, API8:2023
func TestRefusalsShowNeitherGoTypesNorValues(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const secret = "1234e999"
	check := func(a apitest.Answer, status int, what string) {
		t.Helper()
		a.Refused(t, status, "invalid_request")
		for _, word := range []string{"Go ", "float64", "int64", "uint64", "struct", "generateBody", "strconv", "json:", secret, "hunter2"} {
			if strings.Contains(string(a.Body), word) {
				t.Errorf("%s: the answer shows %q: %s", what, word, a.Body)
			}
		}
	}
	for _, member := range []string{"prompt", "max_length", "max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_p", "logit_bias", "min_tokens", "logprobs"} {
		for _, value := range []string{secret, "-" + secret, `{"hunter2":` + secret + `}`, "[" + secret + "]", `"hunter2` + strings.Repeat("x", 600) + `"`} {
			body := fmt.Sprintf(`{"prompt":"light",%q:%s}`, member, value)
			if member == "prompt" {
				body = fmt.Sprintf(`{"prompt":%s}`, value)
			}
			check(f.Do("POST", "/jobs", body), 422, body)
		}
	}
	check(f.Do("POST", "/users", `{"username":"isaac","password":`+secret+`}`), 422, "a number as a password")
	check(f.Do("POST", "/jobs", secret), 422, "a number as a body")
	id := uuid.NewString()
	for _, id := range []string{"hunter2::" + id, "{hunter2" + id, id + "hunter2", "hunter2", strings.Repeat("hunter2-", 4) + "abcd"} {
		check(f.Do("GET", "/jobs/"+id, ""), 422, id)
	}
	for _, query := range []string{"limit=1234e999", "limit=99999999999999999999", "before=hunter2::" + id} {
		check(f.Do("GET", "/history?"+query, ""), 422, query)
	}
	check(f.Do("POST", "/jobs", prompt, "Cancel-After", secret), 422, "Cancel-After")
}

// TestRefusalsDoNotRepeatNames sends members and query parameters with names that the
// service does not know. A user may have mixed up names and values, so an answer must not
// repeat these names.
//
// security: ASVS 16.5.1
func TestRefusalsDoNotRepeatNames(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for what, a := range map[string]apitest.Answer{
		"a member":           f.Do("POST", "/jobs", `{"prompt":"light","hunter2":1}`),
		"several members":    f.Do("POST", "/users", `{"hunter2.a":1,"hunter2[b]":2,"hunter2":{"hunter2":1}}`),
		"a query parameter":  f.Do("GET", "/history?hunter2=1", ""),
		"a name with points": f.Do("GET", "/history?a.hunter2[b]=1", ""),
	} {
		p := a.Refused(t, 422, "invalid_request")
		if strings.Contains(string(a.Body), "hunter2") {
			t.Errorf("%s: the answer repeats the name: %s", what, a.Body)
		}
		if at := p.Errors[len(p.Errors)-1].Location; what != "several members" && at != "body" && at != "query" {
			t.Errorf("%s: location %q", what, at)
		}
	}
}

// TestUnknownMembersAreAnsweredWithTheKnownOnes sends bodies with unknown members. Each error
// must list the known members in the order of openapi.yaml.
func TestUnknownMembersAreAnsweredWithTheKnownOnes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const generate = "body: unexpected property; known are frequency_penalty, logit_bias, logprobs, max_length, max_new_tokens, min_p, min_tokens, presence_penalty, prompt, repetition_penalty, seed, stop, temperature, top_k, top_p, watermark"
	for body, want := range map[string]string{
		`{"prompt":"light","max_lenght":20}`:  generate,
		`{"prompt":"light","prompt.x":20}`:    generate,
		`{"prompt":"light","stop[0].a":20}`:   generate,
		`{"prompt":"light","max_length.":20}`: generate,
	} {
		if p := f.Do("POST", "/jobs", body).Refused(t, 422, "invalid_request"); p.Detail != want || len(p.Errors) != 1 {
			t.Errorf("%s: %q and %d errors, want %q", body, p.Detail, len(p.Errors), want)
		}
	}
	p := f.Do("POST", "/users", `{"username":"isaac","pasword":"x"}`).Refused(t, 422, "invalid_request")
	if want := "unexpected property; known are password, username"; p.Errors[len(p.Errors)-1].Message != want && p.Errors[0].Message != want {
		t.Errorf("%+v, want %q", p.Errors, want)
	}
}

// TestRefusalsAreShort sends bodies with thousands of mistakes. The answer must be much
// shorter than the body.
//
// security: ASVS 15.2.2
func TestRefusalsAreShort(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var members strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&members, `,"m%d":1`, i)
	}
	for what, body := range map[string]string{
		"unknown members": `{"prompt":"light"` + members.String() + "}",
		"wrong items":     `{"prompt":"light","stop":[1` + strings.Repeat(",1", 30_000) + "]}",
		"long items":      `{"prompt":"light","stop":["` + strings.Repeat(`","`, 15_000) + `"]}`,
	} {
		a := f.Do("POST", "/jobs", body)
		a.Refused(t, 422, "invalid_request")
		if len(a.Body) > 5000 {
			t.Errorf("%s: the answer to %d bytes has %d bytes: %.2000s", what, len(body), len(a.Body), a.Body)
		}
	}
}

// TestTruncatedJSONIsExplained sends JSON that ends early. The answer must say so in the
// service's own words.
func TestTruncatedJSONIsExplained(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, body := range []string{"{", "nul", `{"prompt":"light"`, `{"prompt`, " "} {
		p := f.Do("POST", "/jobs", body).Refused(t, 400, "invalid_request")
		if strings.Contains(p.Detail, "EOF") || !strings.Contains(p.Detail, "the text ends early at byte") {
			t.Errorf("%q: %s", body, p.Detail)
		}
	}
}

func TestCompressedBodyIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var body strings.Builder
	z := gzip.NewWriter(&body)
	fmt.Fprint(z, prompt)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, encoding := range []string{"gzip", "GZIP", "br", "identity, gzip"} {
		f.Do("POST", "/jobs", body.String(), "Content-Encoding", encoding).Refused(t, 415, "unsupported_media_type")
	}
	f.Do("POST", "/jobs", prompt, "Content-Encoding", "identity").Must(t, 202)
	f.Do("POST", "/token", "grant_type=password", "Content-Encoding", "gzip", "Content-Type", apitest.FormType).Refused(t, 415, "unsupported_media_type")
}

func TestLongListHeadersAreRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := strings.Repeat("x", 1200)
	for _, header := range []string{long, "respond-async, " + long, long + ", respond-async"} {
		f.Do("POST", "/jobs", prompt, "Prefer", header).Must(t, 202)
	}
	a := f.Do("POST", "/generate", prompt, "Prefer", long+", respond-async").Must(t, 202)
	if got := a.Header.Get("Preference-Applied"); got != "respond-async" {
		t.Errorf("applied %q", got)
	}
	id := f.Submit(prompt)
	a = f.Do("GET", "/jobs/"+id+"/events", "", "Accept", "application/"+long+", application/json").Must(t, 200)
	if media := a.Header.Get("Content-Type"); media != "application/json" {
		t.Errorf("answered as %q", media)
	}
	tag := f.Do("GET", "/jobs/"+id, "").Must(t, 200).Header.Get("ETag")
	f.Do("GET", "/jobs/"+id, "", "If-None-Match", `"`+long+`", `+tag).Must(t, 304)
}

// TestDifferentAccessTokensAreRefused sends requests with several Authorization headers.
// If the headers differ, the answer must be 400, because a proxy may have checked another
// header than the service would.
//
// security: ASVS 4.2.1
func TestDifferentAccessTokensAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, other := f.user("another")
	head := func(values ...string) string {
		var b strings.Builder
		b.WriteString("GET /users/me HTTP/1.1\r\nHost: test\r\nConnection: close\r\n")
		for _, value := range values {
			b.WriteString("Authorization: " + value + "\r\n")
		}
		return b.String() + "\r\n"
	}
	for name, c := range map[string]struct {
		values []string
		status int
	}{
		"one":                {[]string{"Bearer " + f.Access}, 200},
		"the same twice":     {[]string{"Bearer " + f.Access, "Bearer " + f.Access}, 200},
		"two accounts":       {[]string{"Bearer " + f.Access, "Bearer " + other}, 400},
		"one and another":    {[]string{"Bearer " + f.Access, "Basic dTpw"}, 400},
		"an empty one first": {[]string{"", "Bearer " + f.Access}, 400},
		"two wrong ones":     {[]string{"Bearer x", "Bearer y"}, 400},
	} {
		if got := exchange(t, f.URL, head(c.values...), false); len(got) != 1 || got[0].Status != c.status {
			t.Errorf("%s: %+v, want %d", name, got, c.status)
		}
	}
}

func TestEmptyLastEventIDCountsAsAbsent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.Submit(prompt)
	var list []struct{ Version int }
	f.Do("GET", "/jobs/"+id+"/events", "", "Last-Event-ID", "").Must(t, 200).Into(t, &list)
	if len(list) != 1 {
		t.Errorf("events %+v", list)
	}
	f.Do("GET", "/jobs/"+id+"/events", "", "Last-Event-ID", "x").Refused(t, 422, "invalid_request")
}

// TestStreamBeginsWithAComment opens a stream that has nothing to send. A comment must
// still arrive at once, because proxies that compress hold the headers back until the
// body begins.
func TestStreamBeginsWithAComment(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.Timeouts(time.Minute, time.Minute, time.Minute, time.Hour) })
	id := f.Submit(prompt)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the first heartbeat comes after an hour
	defer cancel()
	begun := false
	for m, err := range f.Stream(ctx, "/jobs/"+id+"/events", "Last-Event-ID", "1") {
		if begun = true; err != nil || m != (apitest.Message{}) {
			t.Errorf("begins with %+v, %v", m, err)
		}
		break
	}
	if !begun {
		t.Error("the stream is empty")
	}
}
