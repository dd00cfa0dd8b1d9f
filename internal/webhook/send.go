package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"colophon/internal/retry"
)

const (
	// SendTime bounds one attempt: the lookup of the name, the connection and the answer.
	SendTime = 20 * time.Second

	maxHeader = 16 << 10 // largest header of an answer in bytes
	maxAnswer = 4 << 10  // number of bytes of an answer's body that are read, so that the connection can be used again

	// maxIdle and idleTime bound the open connections that wait for another message.
	maxIdle, maxIdlePerHost, idleTime = 64, 4, 30 * time.Second
)

// Reason says in one word why an attempt has failed. The words are part of the API.
type Reason string

// The reasons of failed attempts. A Reason has nothing of the receiver's answer.
const (
	BadStatus  Reason = "status"     // an answer that is not 2xx
	Redirect   Reason = "redirect"   // an answer that is 3xx
	Gone       Reason = "gone"       // 410
	Forbidden  Reason = "address"    // an address that is not public, or a URL that is not allowed any more
	Unknown    Reason = "name"       // a name without an address
	Timeout    Reason = "timeout"    // no answer in time
	BadTLS     Reason = "tls"        // a certificate that is not trusted, or no common version
	Connection Reason = "connection" // no connection, or one that was cut, or an answer that is not HTTP or is too long
)

// Result is the result of one attempt.
type Result struct {
	Status     int           // status of the answer, or 0 without an answer
	Reason     Reason        // empty if the message was delivered
	Took       time.Duration // duration of the attempt
	RetryAfter time.Duration // wait that the receiver asks for, or 0
}

// Sender sends messages. It is safe for concurrent use.
type Sender struct {
	policy Policy
	client *http.Client
}

// NewSender returns a sender to the receivers that the policy allows.
func NewSender(p Policy) *Sender { return newSender(p, nil, nil) }

// newSender returns a sender with another resolver and other trusted certificates, which are
// the system's if nil.
func newSender(p Policy, resolver *net.Resolver, trust *tls.Config) *Sender {
	dialer := &net.Dialer{
		Resolver: resolver,
		// Control gets the address that is about to be dialled, each time.
		Control: func(_, address string, _ syscall.RawConn) error { return p.checkDialled(address) },
	}
	return &Sender{policy: p, client: &http.Client{
		Timeout: SendTime,
		Transport: &http.Transport{
			Proxy:                  nil, // a proxy would dial addresses that nobody checks
			DialContext:            dialer.DialContext,
			TLSClientConfig:        trust,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    maxIdlePerHost,
			IdleConnTimeout:        idleTime,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes the connections that wait for another message.
func (s *Sender) Close() { s.client.CloseIdleConnections() }

// Send sends a message in one attempt, signed at the time at with all keys. The error is
// ctx's, or that of a key; otherwise the result says how the attempt ended.
func (s *Sender) Send(ctx context.Context, url string, m Message, at time.Time, keys []Key) (r Result, err error) {
	begin := time.Now()
	if s.policy.CheckURL(url) != nil { // the operator may have changed the policy
		return Result{Reason: Forbidden}, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(m.Body))
	if err != nil {
		return Result{Reason: Forbidden}, nil // the URL is no URL
	}
	// The request has GetBody, so the transport itself sends it again if an idle connection turns out
	// to be closed before a byte was written. That is wanted: the receiver has seen nothing of it.
	if req.Header, err = m.headers(at, keys); err != nil {
		return r, err
	}
	resp, err := s.client.Do(req)
	r.Took = time.Since(begin)
	if err != nil {
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		r.Reason = reasonOf(err)
		return r, nil
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // the status alone counts
	r.Took, r.Status, r.Reason = time.Since(begin), resp.StatusCode, reasonOfStatus(resp.StatusCode)
	if r.Reason != "" {
		r.RetryAfter = retry.After(resp.Header.Get("Retry-After"))
	}
	return r, nil
}

func reasonOfStatus(status int) Reason {
	switch {
	case status/100 == 2:
		return ""
	case status/100 == 3:
		return Redirect
	case status == http.StatusGone:
		return Gone
	}
	return BadStatus
}

func reasonOf(err error) Reason {
	var timeout interface{ Timeout() bool }
	dns, isDNS := errors.AsType[*net.DNSError](err)
	_, isCertificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, isRecord := errors.AsType[tls.RecordHeaderError](err)
	_, isAlert := errors.AsType[tls.AlertError](err)
	switch {
	case errors.Is(err, ErrAddress):
		return Forbidden
	case isDNS && !dns.Timeout():
		return Unknown
	case errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	case isCertificate, isRecord, isAlert, errors.Is(err, http.ErrSchemeMismatch):
		return BadTLS
	}
	return Connection
}
