package webhook

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// KeySize is the length in bytes of a secret and of a seed.
const KeySize = 32

// Key signs the messages of one webhook in two schemes. A receiver verifies with the secret
// (v1, HMAC-SHA256) or with the public key (v1a, Ed25519).
type Key struct {
	Secret []byte // of KeySize bytes; the receiver has it too
	Seed   []byte // of KeySize bytes; the seed of the Ed25519 key
}

// SecretText returns the secret as receivers configure it.
func (k Key) SecretText() string { return "whsec_" + base64.StdEncoding.EncodeToString(k.Secret) }

// PublicText returns the public key as receivers configure it.
func (k Key) PublicText() string {
	public := ed25519.NewKeyFromSeed(k.Seed).Public().(ed25519.PublicKey)
	return "whpk_" + base64.StdEncoding.EncodeToString(public)
}

// Message is what one request carries.
type Message struct {
	ID   string // the same in each attempt; without dots
	Body []byte
}

// headers returns the headers of an attempt at the time at. They have the signatures of all
// keys. The error is of a key that the library refuses.
func (m Message) headers(at time.Time, keys []Key) (http.Header, error) {
	signatures := make([]string, 0, 2*len(keys))
	for _, k := range keys {
		symmetric, err := standardwebhooks.NewWebhookRaw(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("sign a webhook: %w", err)
		}
		v1, err := symmetric.Sign(m.ID, at, m.Body)
		if err != nil {
			return nil, fmt.Errorf("sign a webhook: %w", err)
		}
		signatures = append(signatures, v1)
	}
	// The v1 signatures come first, because some receivers look at the first one alone.
	for _, k := range keys {
		signed := ed25519.Sign(ed25519.NewKeyFromSeed(k.Seed), fmt.Appendf(nil, "%s.%d.%s", m.ID, at.Unix(), m.Body))
		signatures = append(signatures, "v1a,"+base64.StdEncoding.EncodeToString(signed))
	}
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "Colophon-Webhooks/1")
	h.Set(standardwebhooks.HeaderWebhookID, m.ID)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	h.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return h, nil
}
