package e2e

import (
	"strings"
	"testing"

	"colophon/test/apitest"
)

func TestBadInputIsRefused(t *testing.T) {
	t.Parallel()
	s := up(t, "--no-rate-limits")
	c := apitest.NewUser(t, s.URL, "clumsy")
	long := strings.Repeat("light ", 83) // 498 characters
	for name, k := range map[string]struct {
		body   string
		status int
		detail string // a part of the expected detail
	}{
		"empty prompt":             {`{"prompt":""}`, 422, "prompt"},
		"501 characters":           {`{"prompt":"` + strings.Repeat("é", 501) + `"}`, 422, "500"},
		"only removed characters":  {`{"prompt":"<>{};"}`, 422, "removed characters"},
		"NUL":                      {`{"prompt":"a\u0000b"}`, 422, "control"},
		"lone surrogate":           {`{"prompt":"a\ud800b"}`, 400, "surrogate"},
		"lone low surrogate":       {`{"prompt":"a\udc00b"}`, 400, "surrogate"},
		"surrogates the wrong way": {`{"prompt":"\udc00\ud800"}`, 400, "surrogate"},
		"invalid UTF-8":            {"{\"prompt\":\"a\xffb\"}", 400, "UTF-8"},
		"max_length 9":             {`{"prompt":"hi","max_length":9}`, 422, "10"},
		"max_length 201":           {`{"prompt":"hi","max_length":201}`, 422, "200"},
		"no room":                  {`{"prompt":"` + long + `","max_length":10}`, 422, "max_length of 10"},
		"unknown field":            {`{"prompt":"hi","max_lenght":20}`, 422, "unexpected property"},
		"prompt of wrong type":     {`{"prompt":17}`, 422, "string"},
		"length of wrong type":     {`{"prompt":"hi","max_length":"20"}`, 422, "integer"},
		"fractional length":        {`{"prompt":"hi","max_length":20.5}`, 422, "integer"},
		"huge number":              {`{"prompt":"hi","max_length":1e400}`, 0, ""},
		"negative seed":            {`{"prompt":"hi","seed":-1}`, 422, "seed"},
		"seed beyond precision":    {`{"prompt":"hi","seed":9007199254740992}`, 422, "seed"},
		"temperature 3":            {`{"prompt":"hi","temperature":3}`, 422, "temperature"},
		"top_p 0":                  {`{"prompt":"hi","top_p":0}`, 422, "top_p"},
		"five stops":               {`{"prompt":"hi","stop":["a","b","c","d","e"]}`, 422, "stop"},
		"empty stop":               {`{"prompt":"hi","stop":[""]}`, 422, "stop"},
		"null prompt":              {`{"prompt":null}`, 422, "prompt"},
		"no prompt":                {`{}`, 422, "prompt"},
		"a list":                   {`[]`, 422, "object"},
		"a string":                 {`"hi"`, 422, "object"},
		"bad JSON":                 {`{"prompt":`, 400, "JSON"},
		"trailing data":            {`{"prompt":"hi"} x`, 400, "JSON"},
		"refused word":             {`{"prompt":"I hate this"}`, 422, ""},
		"another refused word":     {`{"prompt":"such VIOLENCE!"}`, 422, ""},
		"a body over the limit":    {`{"prompt":"` + strings.Repeat("a", 70_000) + `"}`, 413, ""},
	} {
		for _, path := range []string{"/generate", "/jobs"} {
			t.Run(name+path, func(t *testing.T) {
				a := c.Do("POST", path, k.body)
				if k.status == 0 { // both 400 and 422 are right
					k.status = min(max(a.Status, 400), 422)
				}
				p := a.Refused(t, k.status, "")
				if !strings.Contains(p.Detail, k.detail) {
					t.Errorf("detail %q does not say %q", p.Detail, k.detail)
				}
			})
		}
	}
	for name, body := range map[string]string{
		"500 characters of two bytes": `{"prompt":"` + strings.Repeat("é", 500) + `","max_new_tokens":1}`,
		"500 characters of four":      `{"prompt":"` + strings.Repeat(`\ud83d\ude00`, 30) + `","max_length":200}`,
		"words that only look bad":    `{"prompt":"whatever, nonviolence","max_length":40}`,
		"removed characters":          `{"prompt":"<b>light</b>;","max_length":40}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := c.Do("POST", "/generate", body)
			if a.Status == 422 && strings.Contains(string(a.Body), "no_room") {
				return // in the built-in vocabulary, this prompt can have too many tokens for the context
			}
			a.Must(t, 200)
		})
	}
	c.Do("POST", "/generate", `prompt=hi`, "Content-Type", "text/plain").Refused(t, 415, "unsupported_media_type")
	c.Do("POST", "/generate", "").Refused(t, 400, "invalid_request")
	c.Do("GET", "/history?limit=0", "").Refused(t, 422, "invalid_request")
	c.Do("GET", "/history?limit=101", "").Refused(t, 422, "invalid_request")
	c.Do("GET", "/history?before=x", "").Refused(t, 422, "invalid_request")
	c.Do("GET", "/history?page=2", "").Refused(t, 422, "invalid_request")
	c.Do("GET", "/jobs/nonsense", "").Refused(t, 422, "invalid_request")
	c.Do("GET", "/jobs/018f0000-0000-7000-8000-000000000000", "").Refused(t, 404, "not_found")
	c.Do("GET", "/jobs/018f0000-0000-7000-8000-000000000000/events", "", "Last-Event-ID", "-1").Refused(t, 422, "invalid_request")
}
