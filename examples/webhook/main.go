// Command webhook receives webhooks and verifies them with the webhook's public key, so it
// holds no secret. It prints the end of each job once.
//
//	go run ./examples/webhook -key whpk_...   # public_key of POST /webhooks
//
// Give the webhook the URL of this receiver, such as https://example.com/colophon behind a
// proxy. For a service on this machine that runs with --webhook-http and --webhook-private, the
// URL is http://127.0.0.1:9000/.
package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	tolerance = 5 * time.Minute  // largest difference between the clocks of the service and of the receiver
	maxBody   = 64 << 10         // in bytes; messages are far smaller
	remember  = 10 * time.Minute // time for which a message that arrives again is not printed again
)

func main() {
	log.SetFlags(0)
	listen := flag.String("listen", "127.0.0.1:9000", "address to listen on")
	key := flag.String("key", "", "public key of the webhook (whpk_...)")
	flag.Parse()
	public, err := publicKey(*key)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: *listen, Handler: &receiver{key: public, out: log.Writer()}, ReadTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// publicKey reads a public key in the form of Standard Webhooks.
func publicKey(text string) (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whpk_"))
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, errors.New("want -key whpk_... as the service shows it")
	}
	return raw, nil
}

// receiver handles messages.
type receiver struct {
	key ed25519.PublicKey
	out io.Writer

	mu   sync.Mutex
	seen map[string]time.Time // when messages arrived, by their ids
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	if err := verify(r.key, req.Header, body, time.Now()); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var event struct {
		Type string
		Data struct{ Job, State string }
	}
	if err := json.Unmarshal(body, &event); err != nil {
		http.Error(w, "the body is no JSON", http.StatusBadRequest)
		return
	}
	if r.first(req.Header.Get("webhook-id")) {
		fmt.Fprintln(r.out, strings.TrimSpace(event.Type+" "+event.Data.Job+" "+event.Data.State)) // a test message has no job
	}
	w.WriteHeader(http.StatusNoContent)
}

// first reports whether a message arrives for the first time.
func (r *receiver) first(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for old, at := range r.seen {
		if now.Sub(at) > remember {
			delete(r.seen, old)
		}
	}
	if _, again := r.seen[id]; again {
		return false
	}
	if r.seen == nil {
		r.seen = map[string]time.Time{}
	}
	r.seen[id] = now
	return true
}

// verify returns an error unless one of the message's signatures is the key's, and the message
// is new.
func verify(key ed25519.PublicKey, h http.Header, body []byte, now time.Time) error {
	seconds, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return errors.New("the message is too old, or too new")
	}
	signed := fmt.Appendf(nil, "%s.%d.%s", h.Get("webhook-id"), seconds, body)
	for text := range strings.FieldsSeq(h.Get("webhook-signature")) {
		encoded, ok := strings.CutPrefix(text, "v1a,")
		if !ok {
			continue
		}
		if signature, err := base64.StdEncoding.DecodeString(encoded); err == nil && ed25519.Verify(key, signed, signature) {
			return nil
		}
	}
	return errors.New("no signature is the webhook's")
}
