package api_test

import (
	"fmt"
	"strings"
	"testing"

	"colophon/test/apitest"
)

// TestMalformedBodiesAreRefused sends bodies whose framing is wrong, each followed by
// another request on the same connection. The service must answer the first request
// only, and close the connection.
//
// security: ASVS 4.2.1
func TestMalformedBodiesAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const next = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
	chunk := func(body string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(body), body) }
	account := chunk(`{"username":"isaac","password":"a long sentence"}`)
	// fill returns a line of 4096 bytes, which is the most that net/http reads of a chunk
	// line or trailer. If the client sent more, a reset of the connection could overtake
	// the answer.
	fill := func(begin string) string { return begin + strings.Repeat("a", 4096-len(begin)) }
	for name, body := range map[string]string{
		"a size that is no number":       "zz\r\n" + next,
		"a negative size":                "-1\r\n" + next,
		"a size with a prefix":           "0x5\r\nhello\r\n0\r\n\r\n" + next,
		"no size":                        "\r\n" + next,
		"an enormous size":               "fffffffffffffffff\r\n" + next,
		"no line break after a chunk":    "5\r\nhello0\r\n\r\n" + next,
		"a bare LF after a chunk":        "5\r\nhello\n0\r\n\r\n" + next,
		"a malformed chunk after a good": account + "zz\r\n" + next,
		"an oversized extension":         fill("5;"),
		"an oversized trailer":           account + "0\r\n" + fill("X: "),
		"a malformed trailer":            account + "0\r\nno colon\r\n\r\n" + next,
		"an early end in a chunk":        "50\r\n{",
		"an early end after a chunk":     account,
		"an early end before the last":   account + "0\r\n",
	} {
		for _, head := range []string{
			"POST /users HTTP/1.1\r\nContent-Type: application/json\r\n",
			"POST /token HTTP/1.1\r\nContent-Type: " + apitest.FormType + "\r\n",
			"POST /jobs HTTP/1.1\r\nContent-Type: application/json\r\nAuthorization: Bearer " + f.Access + "\r\n",
			"POST /nowhere HTTP/1.1\r\n",
			"GET /users/me HTTP/1.1\r\nAuthorization: Bearer " + f.Access + "\r\n",
		} {
			route, _, _ := strings.Cut(head, " HTTP")
			got := exchange(t, f.URL, head+"Host: test\r\nTransfer-Encoding: chunked\r\n\r\n"+body, strings.HasPrefix(name, "an early end"))
			want := map[string]int{"POST /nowhere": 404, "GET /users/me": 200}[route] // these routes read no body
			switch {
			case len(got) != 1:
				t.Errorf("%s: %s: %d answers", route, name, len(got))
			case want != 0:
				got[0].Must(t, want)
			default:
				got[0].Refused(t, 400, "invalid_request")
			}
		}
	}
	head := "POST /users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
	if got := exchange(t, f.URL, head+`{"username":`, true); len(got) != 1 || got[0].Status != 400 {
		t.Errorf("an early end of a body with a length: %+v", got)
	}
	if log := f.log.String(); strings.Contains(log, "status=5") {
		t.Errorf("answers of 500 and above:\n%s", log)
	}
}

// TestBodyOfTheLargestSizeIsRead sends a body of the largest size, which must be
// accepted. A body with one byte more must be refused with 413.
func TestBodyOfTheLargestSizeIsRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	body := prompt + strings.Repeat(" ", 64<<10-len(prompt))
	f.Do("POST", "/jobs", body).Must(t, 202)
	f.Do("POST", "/jobs", body+" ").Refused(t, 413, "invalid_request")
}
