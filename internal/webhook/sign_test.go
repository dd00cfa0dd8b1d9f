package webhook_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"colophon/internal/webhook"
)

func decode(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestReferenceVectors signs the message of the reference vectors of Standard Webhooks, which
// are those of the project's own libraries for both schemes.
func TestReferenceVectors(t *testing.T) {
	key := webhook.Key{
		Secret: decode(t, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
		Seed:   decode(t, "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc="),
	}
	h, err := webhook.Headers(webhook.Message{ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", Body: []byte(`{"test": 2432232314}`)}, time.Unix(1614265330, 0), []webhook.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= " +
		"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
	if got := h.Get("webhook-signature"); got != want || h.Get("webhook-id") != "msg_p5jXN8AQM9LWM0D4loKWxJek" || h.Get("webhook-timestamp") != "1614265330" {
		t.Errorf("%v", h)
	}
	if got := key.SecretText(); got != "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" {
		t.Error(got)
	}
}

// TestBothKeysSignDuringARotation verifies a message with each of two secrets and each of two
// public keys. No other key may verify it, and no other body.
func TestBothKeysSignDuringARotation(t *testing.T) {
	keys := make([]webhook.Key, 3)
	for i := range keys {
		keys[i] = webhook.Key{Secret: []byte(strings.Repeat(fmt.Sprint(i), webhook.KeySize)), Seed: []byte(strings.Repeat(fmt.Sprint(i), webhook.KeySize))}
	}
	m := webhook.Message{ID: "m", Body: []byte(`{}`)}
	now := time.Now()
	h, err := webhook.Headers(m, now, keys[:2])
	if err != nil {
		t.Fatal(err)
	}
	signed := fmt.Appendf(nil, "m.%d.{}", now.Unix())
	for i, k := range keys {
		library, err := standardwebhooks.NewWebhook(k.SecretText())
		if err != nil {
			t.Fatal(err)
		}
		if err := library.Verify(m.Body, h); (err == nil) != (i < 2) {
			t.Errorf("key %d: %v", i, err)
		}
		if library.Verify([]byte(`{"a":1}`), h) == nil {
			t.Errorf("key %d verifies another body", i)
		}
		public := ed25519.PublicKey(decode(t, strings.TrimPrefix(k.PublicText(), "whpk_")))
		verified := false
		for signature := range strings.FieldsSeq(h.Get("webhook-signature")) {
			if text, ok := strings.CutPrefix(signature, "v1a,"); ok {
				verified = verified || ed25519.Verify(public, signed, decode(t, text))
			}
		}
		if verified != (i < 2) {
			t.Errorf("public key %d: verified %v", i, verified)
		}
	}
}
