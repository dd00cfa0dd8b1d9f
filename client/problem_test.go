package client

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestEveryErrorAnswerIsAProblem(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		header http.Header
		body   string
		want   Problem
		text   string
	}{
		"a problem": {
			422, http.Header{},
			`{"title":"Unprocessable Entity","status":422,"detail":"too long","instance":"urn:uuid:i","errors":[{"message":"too long","location":"body.prompt"}],"error":{"message":"too long","type":"t","param":"body.prompt","code":"no_room"}}`,
			Problem{Status: 422, Title: "Unprocessable Entity", Code: "no_room", Detail: "too long", Instance: "urn:uuid:i", Faults: []Fault{{"too long", "body.prompt"}}},
			"422 no_room: too long (urn:uuid:i)",
		},
		"without a code": {
			404, http.Header{}, `{"title":"Not Found","status":404,"detail":"nothing here","error":{"message":"nothing here","code":null}}`,
			Problem{Status: 404, Title: "Not Found", Detail: "nothing here"}, "404 Not Found: nothing here",
		},
		"of OAuth2": {
			401, http.Header{}, `{"error":"invalid_grant","error_description":"the password is wrong"}`,
			Problem{Status: 401, Title: "Unauthorized", Code: "invalid_grant", Detail: "the password is wrong"}, "401 invalid_grant: the password is wrong",
		},
		"of OpenAI": {
			400, http.Header{}, `{"error":{"message":"no model","code":"model_not_found"}}`,
			Problem{Status: 400, Title: "Bad Request", Code: "model_not_found", Detail: "no model"}, "400 model_not_found: no model",
		},
		"of a proxy": {
			503, http.Header{"Retry-After": {"7"}}, "<html>", Problem{Status: 503, Title: "Service Unavailable", RetryAfter: 7 * time.Second}, "503 Service Unavailable",
		},
		"of nobody": {599, http.Header{}, "", Problem{Status: 599}, "599 "},
	} {
		t.Run(name, func(t *testing.T) {
			got := readProblem(test.status, test.header, strings.NewReader(test.body))
			if !reflect.DeepEqual(*got, test.want) || got.Error() != test.text {
				t.Errorf("%+v: %s", *got, got)
			}
		})
	}
	if p := readProblem(500, http.Header{}, iotest.ErrReader(errBroken)); p.Status != 500 {
		t.Errorf("%+v", p)
	}
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 3, 29, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"7":                             7 * time.Second,
		"-7":                            0,
		"soon":                          0,
		"9223372036":                    9223372036 * time.Second,
		"9223372037":                    1<<63 - 1,
		"99999999999999999999":          1<<63 - 1,
		"Mon, 23 Nov 2026 03:03:39 GMT": 10 * time.Second,
		"Mon, 23 Nov 2026 03:03:19 GMT": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func FuzzProblem(f *testing.F) {
	f.Add(429, "7", []byte(`{"title":"T","status":429,"detail":"D","instance":"I","errors":[{"message":"D","location":"L"}],"error":{"message":"D","code":"c"}}`))
	f.Add(401, "", []byte(`{"error":"invalid_grant","error_description":"D"}`))
	f.Add(502, "Mon, 23 Nov 2026 03:03:39 GMT", []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, after string, body []byte) {
		p := readProblem(status, http.Header{"Retry-After": {after}}, strings.NewReader(string(body)))
		if p.Status != status || p.RetryAfter < 0 || p.Error() == "" {
			t.Errorf("%+v", p)
		}
	})
}
