package processes

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// TestMessageOfAKilledWorkerArrives kills a worker while the receiver of a webhook has its
// message and has not answered. Another worker must send the same message again, once its time
// has passed.
func TestMessageOfAKilledWorkerArrives(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	type message struct {
		header http.Header
		body   []byte
		answer chan struct{}
	}
	messages := make(chan message, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got := message{r.Header, body, make(chan struct{})}
		messages <- got
		select {
		case <-got.answer:
		case <-r.Context().Done():
		}
	}))
	defer receiver.Close()
	next := func() message {
		t.Helper()
		select {
		case got := <-messages:
			return got
		case <-time.After(2 * time.Minute):
			t.Fatal("no message arrives")
		}
		return message{}
	}
	api := m.api("--no-rate-limits", "--webhook-http", "--webhook-private")
	c := newUser(t, api.URL, "hooked").Client
	var hook struct{ ID, Secret string }
	c.Do("POST", "/webhooks", `{"url":"`+receiver.URL+`"}`).Must(t, 201).Into(t, &hook)
	first := m.worker("--webhook-http", "--webhook-private")
	job := c.Submit(sized(1, 5))
	began := next()
	first.Kill()
	second := m.worker("--webhook-http", "--webhook-private", "--webhook-slots", "1")
	again := next()
	close(again.answer)
	if string(again.body) != string(began.body) || again.header.Get("webhook-id") != began.header.Get("webhook-id") {
		t.Errorf("%s after %s", again.body, began.body)
	}
	library, err := standardwebhooks.NewWebhook(hook.Secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []message{began, again} {
		if err := library.Verify(got.body, got.header); err != nil {
			t.Error(err)
		}
	}
	var all []struct{ ID, State, Job string }
	// The test polls, because no event announces the state of a message.
	for deadline := time.Now().Add(time.Minute); len(all) != 1 || all[0].State != "delivered"; time.Sleep(10 * time.Millisecond) {
		c.Do("GET", "/webhooks/"+hook.ID+"/deliveries", "").Must(t, 200).Into(t, &all)
		if time.Now().After(deadline) {
			t.Fatalf("%+v", all)
		}
	}
	if all[0].Job != job {
		t.Errorf("%+v, want the message of job %s", all, job)
	}
	second.Stop()
}
