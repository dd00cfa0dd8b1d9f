package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"colophon/api"
	"colophon/internal/limit"
	"colophon/jobs"
	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/opticks"
	"colophon/model/watermark"
	"colophon/test/apitest"
)

// newton returns the built-in model.
var newton = sync.OnceValues(func() (*gpt2.Engine, error) {
	return gpt2.Load(opticks.Files(), gpt2.Options{Name: opticks.Name})
})

// detects makes the API examine texts of the built-in model.
func detects(f *fixture) {
	e, err := newton()
	if err != nil {
		f.T.Fatal(err)
	}
	f.api.Detector = jobs.NewDetector(f.store, e.Encode)
}

const opening = "And hence it is manifest"

// marked returns a continuation of opening with the watermark of a key.
func marked(t *testing.T, key watermark.Key, seed uint64) string {
	t.Helper()
	e, err := newton()
	if err != nil {
		t.Fatal(err)
	}
	prompt := e.Encode(opening)
	var text strings.Builder
	p := model.Params{MaxTokens: 150, MinTokens: 150, Temperature: 1, TopP: 1, Seed: seed, Choose: key.Chooser(seed, prompt)}
	_, err = model.Generate(t.Context(), e, prompt, nil, p, func(d model.Delta) error {
		text.WriteString(d.Text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// watermarkKey returns the key of an owner, which it creates.
func (f *fixture) watermarkKey(owner uuid.UUID) watermark.Key {
	f.T.Helper()
	key, err := f.store.WatermarkKey(f.T.Context(), owner)
	if err != nil {
		f.T.Fatal(err)
	}
	return key
}

func detectBody(text string) string {
	body, _ := json.Marshal(map[string]string{"text": text})
	return string(body)
}

// detection is the answer of POST /detect.
type detection struct {
	Result       string
	TokensScored int `json:"tokens_scored"`
	Key          string
}

func detect(c apitest.Client, text string) (d detection) {
	c.T.Helper()
	c.Do("POST", "/detect", detectBody(text)).Must(c.T, 200).Into(c.T, &d)
	return d
}

// unmarked is a passage of the text on which the built-in model was trained.
const unmarked = `Light which differs in Colour differs also in Degrees of Refrangibility, as appears by the Experiment of the two
oblong Papers, the one of which was red and the other blue. When they were viewed through a Prism held before the Eyes, the
blue half was lifted higher by the Refraction than the red half, and the two Papers did not seem to lie in one continued
right Line, but to be broken off from one another.`

// TestDetectFindsTheCallersWatermark examines a text with a watermark as its owner and as
// others, whole, in parts and changed.
func TestDetectFindsTheCallersWatermark(t *testing.T) {
	t.Parallel()
	f := newFixture(t, detects)
	key := f.watermarkKey(f.owner)
	text := marked(t, key, 7)
	other, otherAccess := f.user("robert")
	otherKey := f.watermarkKey(other).ID()
	keyless, keylessAccess := f.user("edmond")
	middle := text[len(text)/4+1 : 3*len(text)/4]
	for name, k := range map[string]struct {
		text, access string
		want         string
		key          string
	}{
		"the text":                  {text, f.Access, "found", key.ID()},
		"with its prompt":           {opening + text, f.Access, "found", key.ID()},
		"a part of it":              {middle, f.Access, "found", key.ID()},
		"in another text":           {unmarked + text + unmarked, f.Access, "found", key.ID()},
		"with other ends of lines":  {strings.ReplaceAll(text, "\n", "\r\n"), f.Access, "found", key.ID()},
		"its first words":           {text[:30], f.Access, "too_short", key.ID()},
		"another text":              {unmarked, f.Access, "not_found", key.ID()},
		"a blank":                   {" ", f.Access, "too_short", key.ID()},
		"of another account":        {text, otherAccess, "not_found", otherKey},
		"of an account without key": {text, keylessAccess, "not_found", ""},
		"a few words without a key": {text[:30], keylessAccess, "too_short", ""},
		"a NUL":                     {"\x00", f.Access, "too_short", key.ID()},
	} {
		got := detect(f.As(k.access), k.text)
		if got.Result != k.want || got.Key != k.key || (got.TokensScored < watermark.MinScored) != (k.want == "too_short") {
			t.Errorf("%s: %+v, want %s with the key %q", name, got, k.want, k.key)
		}
	}
	if _, found, err := f.store.FindWatermarkKey(t.Context(), keyless); found || err != nil {
		t.Errorf("the account without a key has one: %v, %v", found, err)
	}
	var events int
	if err := f.db.Owner.QueryRow(t.Context(), `select count(*) from events where stream like 'job/%'`).Scan(&events); err != nil || events != 0 {
		t.Errorf("%d events of jobs, %v", events, err)
	}
	got := detect(f.Client, text)
	all := fmt.Sprintf(`{"result":"found","tokens_scored":%d,"key":%q}`, got.TokensScored, key.ID())
	if a := f.Do("POST", "/detect", detectBody(text)).Must(t, 200); strings.TrimSpace(string(a.Body)) != all {
		t.Errorf("the answer is %s, want %s", a.Body, all)
	}
}

// TestDetectRefusesBadTexts sends texts that cannot be examined, and texts at the limits.
//
// security: ASVS 2.2.1, API4:2023
func TestDetectRefusesBadTexts(t *testing.T) {
	t.Parallel()
	const secret = "quetzal feather"
	f := newFixture(t, func(f *fixture) {
		f.api.Detector = jobs.NewDetector(f.store, func(text string) []int { return make([]int, strings.Count(text, ".")) })
	})
	for name, k := range map[string]struct {
		body   string
		status int
		code   string
		says   string
	}{
		"8,000 tokens":        {detectBody(strings.Repeat(".", 8000)), 200, "", "too_short"},
		"8,001 tokens":        {detectBody(secret + strings.Repeat(".", 8001)), 422, "text_length", "8001 tokens, and at most 8000"},
		"60,000 characters":   {detectBody(strings.Repeat("x", 60_000)), 200, "", "too_short"},
		"60,001 characters":   {detectBody(secret + strings.Repeat("x", 60_001-len(secret))), 422, "invalid_request", "length <= 60000"},
		"too many bytes":      {detectBody(secret + strings.Repeat("é", 33_000)), 413, "invalid_request", "65536 bytes"},
		"no text":             {`{}`, 422, "invalid_request", "text"},
		"an empty text":       {`{"text":""}`, 422, "invalid_request", "body.text"},
		"null":                {`{"text":null}`, 422, "invalid_request", "body.text"},
		"a number":            {`{"text":17}`, 422, "invalid_request", "body.text"},
		"another account":     {`{"text":"` + secret + `","owner":"` + uuid.NewString() + `"}`, 422, "invalid_request", "known are"},
		"a parameter":         {`{"text":"` + secret + `","threshold":0.5}`, 422, "invalid_request", "known are"},
		"invalid UTF-8":       {"{\"text\":\"" + secret + "\xff\"}", 400, "invalid_request", "UTF-8"},
		"a lone surrogate":    {`{"text":"` + secret + `\ud800"}`, 400, "invalid_request", "surrogate"},
		"half a body":         {`{"text":"` + secret, 400, "invalid_request", "JSON"},
		"a NUL":               {`{"text":"a\u0000b"}`, 200, "", "too_short"},
		"a character of four": {`{"text":"😀"}`, 200, "", "too_short"},
	} {
		a := f.Do("POST", "/detect", k.body).Must(t, k.status)
		if k.status != 200 {
			a.Refused(t, k.status, k.code)
		}
		if body := string(a.Body); !strings.Contains(body, k.says) || strings.Contains(body, secret) {
			t.Errorf("%s: %s", name, body)
		}
	}
	f.As("").Do("POST", "/detect", detectBody(secret)).Refused(t, 401, "missing_access_token")
	f.Do("POST", "/detect?text="+strings.ReplaceAll(secret, " ", "+"), detectBody(secret)).Refused(t, 422, "invalid_request")
	f.Do("POST", "/detect", "text=x", "Content-Type", apitest.FormType).Refused(t, 415, "unsupported_media_type")
	f.Do("GET", "/detect", "").Refused(t, 405, "method_not_allowed")
	if log := f.log.String(); strings.Contains(log, "quetzal") || !strings.Contains(log, `route="POST /detect" status=200`) {
		t.Errorf("the log has the text, or not the requests: %.2000s", log)
	}
}

// TestDetectHasItsOwnLimit exceeds the limit of texts of one user. Other requests of this user
// and texts of another user must pass.
//
// security: ASVS 2.4.1, API4:2023
func TestDetectHasItsOwnLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t, detects)
	_, other := f.user("robert")
	c := f.another(t, func(o *api.Options) {
		o.Limits = inMemory(t, 1000)
		var err error
		if o.Limits.Detect, err = limit.InMemory("detect", limit.Rate{Requests: 2, Per: time.Hour}); err != nil {
			t.Fatal(err)
		}
	})
	detect(c, unmarked)
	c.Do("POST", "/detect", `{}`).Must(t, 422) // counts too
	a := c.Do("POST", "/detect", detectBody(unmarked))
	a.Refused(t, 429, "rate_limit_exceeded")
	if policy, left := a.Header.Get("RateLimit-Policy"), a.Header.Get("RateLimit"); policy != `"detect";q=2;w=3600` || !strings.HasPrefix(left, `"detect";r=0;t=`) {
		t.Errorf("RateLimit-Policy %s, RateLimit %s", policy, left)
	}
	c.Do("GET", "/history", "").Must(t, 200)
	detect(c.As(other), unmarked)
}

// TestErasedAccountDetectsNothing erases an account and its key. No process may use the key
// from then on.
//
// security: ASVS 7.4.2
func TestErasedAccountDetectsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, detects)
	key := f.watermarkKey(f.owner)
	text := marked(t, key, 8)
	if got := detect(f.Client, text); got.Result != "found" {
		t.Fatalf("%+v", got)
	}
	// Until another process learns that the session has ended, only the key is missing.
	if err := f.vault.Erase(t.Context(), f.db.App, f.owner); err != nil {
		t.Fatal(err)
	}
	f.Do("POST", "/detect", detectBody(text)).Refused(t, 401, "invalid_access_token")

	_, access := f.user("robert")
	f.As(access).Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204)
	f.As(access).Do("POST", "/detect", detectBody(text)).Refused(t, 401, "invalid_access_token")
}

// TestLeavingClientDoesNotWaitForADetection disconnects a client whose text waits for another
// text of the same user. The handler must return, and the service must examine the next text.
func TestLeavingClientDoesNotWaitForADetection(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}), make(chan struct{})
	f := newFixture(t, func(f *fixture) {
		f.api.Detector = jobs.NewDetector(f.store, func(string) []int {
			begun <- struct{}{}
			<-goOn
			return nil
		})
	})
	send := func(ctx context.Context) chan error {
		ended := make(chan error, 1)
		go func() {
			a, err := f.Send(ctx, "POST", "/detect", detectBody("a text"))
			if err == nil && a.Status != 200 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			ended <- err
		}()
		return ended
	}
	first := send(t.Context())
	<-begun
	sent := make(chan struct{})
	ctx, leave := context.WithCancel(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) },
	}))
	second := send(ctx)
	<-sent
	leave()
	if err := <-second; err == nil {
		t.Error("the client that has left was answered")
	}
	<-f.served // the handler of the second text, while the first is being examined
	third := send(t.Context())
	close(goOn)
	if err := <-first; err != nil {
		t.Error(err)
	}
	<-begun
	if err := <-third; err != nil {
		t.Error(err)
	}
}
