package contract

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"colophon/test/apitest"
)

// canaries matches the values that attacks submit. No answer may repeat them.
var canaries = regexp.MustCompile(`zq7[a-z0-9]{10}`)

// refusedByServer matches the status and the body of the answers that net/http gives
// before any handler sees the request. They have no headers of the service.
var refusedByServer = regexp.MustCompile(`^(417 |400 400 Bad Request|431 431 Request Header Fields Too Large|501 Unsupported transfer encoding|505 505 HTTP Version Not Supported)(: [ -~]{1,80})?$`)

// These expressions match attacks to which net/http may answer with 501 (RFC 9112, 6.1)
// or 505 (RFC 9110, 15.6.6). Both statuses say that the request is not HTTP/1.1 as the
// service speaks it. They are not failures of the service.
var (
	hasCoding  = regexp.MustCompile(`(?i)transfer-encoding`)
	hasVersion = regexp.MustCompile(`HTTP/[^1]`)
)

// checkAttack checks the answers to an attack.
func (f *findings) checkAttack(a attack, answers []apitest.Answer, err error) {
	if err != nil {
		f.add(malformedAnswer, "%s\n    after %d answers: %v", a, len(answers), err)
	} else if len(answers) < a.least {
		f.add(malformedAnswer, "%s\n    %d answers, want %d", a, len(answers), a.least)
	}
	if len(answers) > a.most {
		f.add(smuggledRequest, "%s\n    %d answers, want at most %d", a, len(answers), a.most)
	}
	submitted := canaries.FindAllString(a.text, -1)
	for i, answer := range answers {
		report := f.report(a, answer)
		var header strings.Builder
		_ = answer.Header.Write(&header) // a strings.Builder returns no errors
		for _, value := range submitted {
			if answer.Status >= 400 && strings.Contains(header.String()+string(answer.Body), value) {
				report(repeatedInput, "the answer repeats %q", value)
				break
			}
		}
		switch {
		case answer.Header.Get("X-Request-Id") != "":
			checkHeaders(answer, report)
			if i > 0 || a.method != http.MethodHead {
				checkError(answer, report)
			}
		case !refusedByServer.MatchString(fmt.Sprintf("%d %s", answer.Status, answer.Body)):
			report(malformedAnswer, "neither the service nor net/http answers in this way")
		case answer.Status == 501 && !hasCoding.MatchString(a.text), answer.Status == 505 && !hasVersion.MatchString(a.text):
			report(serverError, "")
		}
	}
}

// TestAttackCheckFindsPlantedFaults tests checkAttack with answers that no service gives.
func TestAttackCheckFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	const value = "zq7abcdefghij"
	byServer := func(status int, body string) apitest.Answer {
		return apitest.Answer{Status: status, Header: http.Header{}, Body: []byte(body)}
	}
	byService := func(status int, code, detail string) apitest.Answer {
		h := http.Header{"Content-Type": {"application/problem+json"}, "Retry-After": {"1"}}
		for _, name := range commonHeaders {
			h.Set(name, "x")
		}
		body := fmt.Sprintf(`{"title":"T","status":%d,"detail":%q,"instance":"urn:uuid:x","error":{"message":%q,"type":"t","code":%q}}`, status, detail, detail, code)
		return apitest.Answer{Status: status, Header: h, Body: []byte(body)}
	}
	for _, c := range []struct {
		what, text, want string
		answers          []apitest.Answer
		err              error
	}{
		{"a refusal of net/http", "X: " + value, "", []apitest.Answer{byServer(400, "400 Bad Request: malformed header")}, nil},
		{"a refusal of the service", value, "", []apitest.Answer{byService(404, "no_such_route", "nothing")}, nil},
		{"a declared unavailability", value, "", []apitest.Answer{byService(503, "interrupted", "again")}, nil},
		{"an unknown coding", "Transfer-Encoding: x", "", []apitest.Answer{byServer(501, "Unsupported transfer encoding")}, nil},
		{"an unknown version", "GET / HTTP/3.0", "", []apitest.Answer{byServer(505, "505 HTTP Version Not Supported: unsupported protocol version")}, nil},
		{"an internal error", value, serverError, []apitest.Answer{byService(500, "internal", "wrong")}, nil},
		{"an unavailability without a known code", value, serverError, []apitest.Answer{byService(503, "moon", "again")}, nil},
		{"501 without a coding", "GET / HTTP/1.1", serverError, []apitest.Answer{byServer(501, "Unsupported transfer encoding")}, nil},
		{"505 to HTTP/1.1", "GET / HTTP/1.1", serverError, []apitest.Answer{byServer(505, "505 HTTP Version Not Supported: unsupported protocol version")}, nil},
		{"an error that is no problem", value, malformedAnswer, []apitest.Answer{byServer(500, "oops")}, nil},
		{"a submitted value", value, repeatedInput, []apitest.Answer{byService(404, "no_such_route", "no "+value)}, nil},
		{"a submitted value from net/http", value, repeatedInput, []apitest.Answer{byServer(400, "400 Bad Request: "+value)}, nil},
		{"a word of Go", value, leakedInternal, []apitest.Answer{byService(400, "invalid_request", "strconv.Atoi: value out of range")}, nil},
		{"no answer", value, malformedAnswer, nil, nil},
		{"a broken answer", value, malformedAnswer, []apitest.Answer{byService(404, "no_such_route", "nothing")}, http.ErrBodyReadAfterClose},
		{"an answer too many", value, smuggledRequest, []apitest.Answer{byService(404, "no_such_route", "nothing"), byService(404, "no_such_route", "nothing")}, nil},
	} {
		var f findings
		f.checkAttack(attack{kind: "planted", method: http.MethodGet, text: c.text, requests: 1, least: 1, most: 1}, c.answers, c.err)
		if c.want == "" && len(f.count) > 0 || c.want != "" && f.count[c.want] == 0 {
			t.Errorf("%s: found %v, want %q\n%v", c.what, f.count, c.want, f.first)
		}
	}
}
