package apitest

import (
	"net/http"
	"strings"
	"testing"
)

func TestMessagesAcceptsOnlyTheServicesForm(t *testing.T) {
	const whole = "id: 1\nevent: e\ndata: {\"a\": 1}\n\n: still here\n\n"
	for rest, want := range map[string]struct {
		last Message
		ok   bool
	}{
		"":                   {Message{}, true},
		"retry: 5\n\n":       {Message{Retry: "5"}, true},
		"id: 2\ndata: x\n\n": {Message{ID: "2", Data: "x"}, true},
		"id:2\ndata:x\n\n":   {Message{ID: "2", Data: "x"}, false},
		"data: x\nid: 2\n\n": {Message{ID: "2", Data: "x"}, false},
		"id: 2\r\n\r\n":      {Message{ID: "2"}, false},
		": x\nid: 2\n\n":     {Message{ID: "2"}, false},
		": x\n: y\n\n":       {Message{}, false},
		"id: 2\n":            {Message{}, false},
		"id: 2":              {Message{}, false},
		"data\n\n":           {Message{}, false},
		"name: x\n\n":        {Message{}, false},
		"retry: x\n\n":       {Message{}, false},
		"id: 2\nid: 3\n\n":   {Message{ID: "3"}, false},
		"event: " + tooLong:  {Message{}, false},
		"id: 2\n\nid: 3\n\n": {Message{ID: "3"}, true},
	} {
		stream := Messages(strings.NewReader(whole + rest))
		for m, err := range stream {
			if m != (Message{ID: "1", Event: "e", Data: `{"a": 1}`}) || err != nil {
				t.Errorf("%.20q: %+v, %v", rest, m, err)
			}
			if m.Data != "" {
				break
			}
		}
		var last Message
		var failed error
		for m, err := range stream { // continues after the first range
			last, failed = m, err
		}
		if last != want.last || (failed == nil) != want.ok {
			t.Errorf("%.20q: ends with %+v, %v", rest, last, failed)
		}
	}
}

var tooLong = strings.Repeat("x", 2<<20)

func TestProblemRefusesIncompleteProblems(t *testing.T) {
	good := Answer{429, http.Header{"Content-Type": {"application/problem+json"}, "X-Request-Id": {"r"}, "Retry-After": {"1"}},
		[]byte(`{"title":"T","status":429,"detail":"D","instance":"urn:uuid:r","error":{"message":"D","type":"t","param":null,"code":"c"}}`)}
	if p := good.Refused(t, 429, "c"); p.Error.Code != "c" || good.Code() != "c" {
		t.Errorf("%+v", p)
	}
	for _, name := range []string{"Content-Type", "X-Request-Id", "Retry-After"} {
		bad := good
		bad.Header = good.Header.Clone()
		bad.Header.Del(name)
		if p, err := bad.Problem(); err == nil {
			t.Errorf("without %s: %+v", name, p)
		}
	}
	for right, wrong := range map[string]string{`"T"`: `""`, "429": "430", `"detail":"D"`: `"detail":"E"`, `"D"`: `""`, "urn:uuid:r": "urn:uuid:s", `"t"`: `""`, "}}": "}"} {
		bad := good
		bad.Body = []byte(strings.ReplaceAll(string(good.Body), right, wrong))
		if p, err := bad.Problem(); err == nil {
			t.Errorf("%s: %+v", bad.Body, p)
		}
	}
}

// failing records that a test failed, and hides the failure from the real test.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Fail()                 { f.failed = true }
func (f *failing) Error(...any)          { f.failed = true }
func (f *failing) Errorf(string, ...any) { f.failed = true }

func TestBesideEndsOnlyItsGoroutine(t *testing.T) {
	for name, fail := range map[string]func(testing.TB){
		"FailNow": testing.TB.FailNow,
		"Fatal":   func(t testing.TB) { t.Fatal() },
		"Fatalf":  func(t testing.TB) { Answer{}.Must(t, 200) },
	} {
		f := &failing{TB: t}
		ended, continued := make(chan bool), false
		go func() {
			defer close(ended)
			fail(Beside(f))
			continued = true
		}()
		if <-ended; !f.failed || continued {
			t.Errorf("%s: failed %v, continued %v", name, f.failed, continued)
		}
	}
}
