package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestVerify verifies the reference vector of Standard Webhooks, and refuses what differs
// from it.
func TestVerify(t *testing.T) {
	key, err := publicKey("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"test": 2432232314}`
	at := time.Unix(1614265330, 0)
	header := func(change ...string) http.Header {
		h := http.Header{}
		h.Set("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
		h.Set("webhook-timestamp", "1614265330")
		h.Set("webhook-signature", "v1,AAAA v1a,AAAA v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==")
		for i := 0; i < len(change); i += 2 {
			h.Set(change[i], change[i+1])
		}
		return h
	}
	if err := verify(key, header(), []byte(body), at); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another body":      verify(key, header(), []byte(body+" "), at),
		"another id":        verify(key, header("webhook-id", "m"), []byte(body), at),
		"another time":      verify(key, header("webhook-timestamp", "1614265331"), []byte(body), at),
		"no time":           verify(key, header("webhook-timestamp", ""), []byte(body), at),
		"no signature":      verify(key, header("webhook-signature", "v1,AAAA"), []byte(body), at),
		"an old message":    verify(key, header(), []byte(body), at.Add(tolerance+time.Second)),
		"a message to come": verify(key, header(), []byte(body), at.Add(-tolerance-time.Second)),
	} {
		if err == nil {
			t.Errorf("%s is verified", name)
		}
	}
	for _, text := range []string{"", "whpk_", "whpk_AAAA", "whsec_!"} {
		if _, err := publicKey(text); err == nil {
			t.Errorf("%q is a key", text)
		}
	}
}

// TestReceiverRefusesStrangers sends what no webhook has signed, and a body that is too long.
func TestReceiverRefusesStrangers(t *testing.T) {
	var out bytes.Buffer
	key, err := publicKey("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{key: key, out: &out}
	for body, want := range map[string]int{`{"type":"job.completed"}`: 401, strings.Repeat("x", maxBody+1): 400} {
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader(body))); w.Code != want {
			t.Errorf("%d, want %d", w.Code, want)
		}
	}
	if !r.first("a") || r.first("a") || !r.first("b") {
		t.Error("a message is not handled once")
	}
	if out.Len() != 0 {
		t.Error(out.String())
	}
}
