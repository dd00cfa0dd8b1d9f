package jobs_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"colophon/events"
	"colophon/internal/webhook"
	"colophon/jobs"
)

// message is a message as its receiver got it.
type message struct {
	id     string
	header http.Header
	body   string
	Type   string
	Data   struct {
		Job, Webhook uuid.UUID
		State        events.State
		Version      int
	}
	answer chan int        // takes the status of the answer
	ended  <-chan struct{} // closed when the attempt has ended
}

// receiver is a receiver of webhooks that leaves each answer to its test. After a failure it asks
// the service to wait for an hour, so that no attempt is made before its test calls hurry.
type receiver struct {
	*httptest.Server
	t        testing.TB
	messages chan message
	asks     string // Retry-After of failures, or empty
}

func newReceiver(t testing.TB) *receiver {
	t.Helper()
	r := &receiver{t: t, messages: make(chan message, 100), asks: "3600"}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		m := message{id: req.Header.Get("webhook-id"), header: req.Header, body: string(body), answer: make(chan int, 1), ended: req.Context().Done()}
		if err := errors.Join(err, json.Unmarshal(body, &m)); err != nil {
			t.Error(err)
		}
		r.messages <- m
		select {
		case status := <-m.answer:
			if status/100 != 2 && r.asks != "" {
				w.Header().Set("Retry-After", r.asks)
			}
			w.WriteHeader(status)
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(func() { r.CloseClientConnections(); r.Close() })
	return r
}

// next waits for a message and answers it, if status is not 0.
func (r *receiver) next(status int) message {
	r.t.Helper()
	select {
	case m := <-r.messages:
		if status != 0 {
			m.answer <- status
		}
		return m
	case <-time.After(time.Minute):
		r.t.Fatal("no message arrives")
	}
	return message{}
}

// none expects that no message has arrived.
func (r *receiver) none() {
	r.t.Helper()
	select {
	case m := <-r.messages:
		r.t.Errorf("a message arrives: %s", m.body)
	default:
	}
}

func (f *fixture) hook(url string, types ...string) events.Webhook {
	f.t.Helper()
	if len(types) == 0 {
		types = events.JobWebhookEvents()
	}
	w, err := f.store.CreateWebhook(f.t.Context(), f.owner, url, types)
	if err != nil {
		f.t.Fatal(err)
	}
	return w
}

// delivering makes a worker send messages to the receivers of tests.
func (f *fixture) delivering(w *jobs.Worker) { f.deliveringSlots(w, 32) }

func (f *fixture) deliveringSlots(w *jobs.Worker, slots int) {
	f.t.Helper()
	sender := webhook.NewSender(webhook.Policy{HTTP: true, Private: true})
	f.t.Cleanup(sender.Close)
	if err := w.Deliver(sender, slots, nil); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) deliver() (stop func()) {
	f.t.Helper()
	return f.deliverSlots(32)
}

// deliverSlots starts a worker with a number of slots for messages.
func (f *fixture) deliverSlots(slots int) (stop func()) {
	f.t.Helper()
	return f.workSlots(newEngine(), 8, func(w *jobs.Worker) { f.deliveringSlots(w, slots) })
}

// setAttempts sets the number of attempts of all messages to a webhook.
func (f *fixture) setAttempts(w events.Webhook, n int) {
	f.t.Helper()
	if _, err := f.db.Owner.Exec(f.t.Context(), `update webhook_deliveries set attempts = $2 where webhook = $1`, w.ID, n); err != nil {
		f.t.Fatal(err)
	}
}

// deliveries returns the messages to a webhook, the oldest first.
func (f *fixture) deliveries(w events.Webhook) []events.Delivery {
	f.t.Helper()
	all, err := f.store.Deliveries(f.t.Context(), f.owner, w.ID, "", uuid.Nil, 100)
	if err != nil {
		f.t.Fatal(err)
	}
	slices.Reverse(all)
	return all
}

// untilDelivery waits until wanted returns true for the newest message to a webhook. It polls,
// because no event announces the state of a message.
func (f *fixture) untilDelivery(w events.Webhook, wanted func(events.Delivery) bool) events.Delivery {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		all := f.deliveries(w)
		if n := len(all); n > 0 && wanted(all[n-1]) {
			return all[n-1]
		}
		if time.Now().After(end) {
			f.t.Fatalf("the messages are %+v", all)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func ended(d events.Delivery) bool { return d.State != events.DeliveryWaiting }

func attempted(n int) func(events.Delivery) bool {
	return func(d events.Delivery) bool { return d.Attempts >= n }
}

// hurry makes all waiting messages due.
func (f *fixture) hurry() {
	f.t.Helper()
	if _, err := f.db.Owner.Exec(f.t.Context(), `update webhook_deliveries set due_at = clock_timestamp() where state = 'waiting'`); err != nil {
		f.t.Fatal(err)
	}
}

// verifies reports whether the official library verifies a message with the secret of a key,
// and the public key verifies it too. Both must agree.
func verifies(t testing.TB, m message, k events.WebhookKey) bool {
	t.Helper()
	library, err := standardwebhooks.NewWebhook(webhook.Key(k).SecretText())
	if err != nil {
		t.Fatal(err)
	}
	symmetric := library.VerifyIgnoringTimestamp([]byte(m.body), m.header) == nil
	public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(webhook.Key(k).PublicText(), "whpk_"))
	if err != nil {
		t.Fatal(err)
	}
	asymmetric := false
	for text := range strings.FieldsSeq(m.header.Get("webhook-signature")) {
		if signature, ok := strings.CutPrefix(text, "v1a,"); ok {
			raw, err := base64.StdEncoding.DecodeString(signature)
			asymmetric = asymmetric || err == nil && ed25519.Verify(public, []byte(m.id+"."+m.header.Get("webhook-timestamp")+"."+m.body), raw)
		}
	}
	if symmetric != asymmetric {
		t.Errorf("v1 verifies %v, v1a %v", symmetric, asymmetric)
	}
	return symmetric
}

// webhookEvents returns the types and reasons of the account's events about webhooks.
func (f *fixture) webhookEvents() (all []string) {
	f.t.Helper()
	found, err := f.store.Read(context.Background(), events.AccountStream(f.owner), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range found {
		if d, ok := e.Fact.(events.WebhookDisabled); ok {
			all = append(all, e.Fact.Type()+" "+d.Reason)
		} else if strings.HasPrefix(e.Fact.Type(), "webhook.") {
			all = append(all, e.Fact.Type())
		}
	}
	return all
}
