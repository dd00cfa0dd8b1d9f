package webhook_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"colophon/internal/webhook"
)

var testKeys = []webhook.Key{{Secret: make([]byte, webhook.KeySize), Seed: make([]byte, webhook.KeySize)}}

var testPolicy = webhook.Policy{HTTP: true, Private: true}

func send(t *testing.T, s *webhook.Sender, url string) webhook.Result {
	t.Helper()
	r, err := s.Send(t.Context(), url, webhook.Message{ID: "m", Body: []byte(`{"type":"t"}`)}, time.Now(), testKeys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAnswersAreRead sends messages to receivers that answer in different ways. Nobody but the
// receiver itself may be reached, and no more of an answer than its beginning may be read.
//
// security: ASVS 1.3.6, ASVS 15.3.2, API7:2023
func TestAnswersAreRead(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var sent atomic.Int64 // bytes of the endless body that the receiver could write
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || string(body) != `{"type":"t"}` || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("%s %v %q", r.Method, r.Header, body)
		}
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/created":
			w.WriteHeader(http.StatusCreated)
		case "/header":
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/endless":
			chunk := make([]byte, 64<<10)
			for {
				n, err := w.Write(chunk)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}
	}))
	defer receiver.Close()
	s := webhook.NewSender(testPolicy)
	defer s.Close()
	for path, want := range map[string]webhook.Result{
		"/ok":       {Status: 200},
		"/created":  {Status: 201},
		"/endless":  {Status: 200},
		"/redirect": {Status: 307, Reason: webhook.Redirect},
		"/gone":     {Status: 410, Reason: webhook.Gone},
		"/busy":     {Status: 503, Reason: webhook.BadStatus, RetryAfter: 7 * time.Second},
		"/header":   {Reason: webhook.Connection},
		"/cut":      {Reason: webhook.Connection},
	} {
		got := send(t, s, receiver.URL+path)
		if got.Took <= 0 {
			t.Errorf("%s took %v", path, got.Took)
		}
		if got.Took = 0; got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
	receiver.CloseClientConnections()
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("the receiver could send %d bytes", n)
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	if got := send(t, s, closed.URL); got.Reason != webhook.Connection {
		t.Errorf("nobody listens: %+v", got)
	}
}

// TestReceiversOverTLSAreVerified sends to a receiver whose certificate is not trusted, and
// to one that speaks no TLS.
//
// security: ASVS 12.3.1
func TestReceiversOverTLSAreVerified(t *testing.T) {
	t.Parallel()
	received := atomic.Int32{}
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { received.Add(1) })
	secure := httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = nil
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(handler)
	defer plain.Close()
	s := webhook.NewSender(testPolicy)
	if got := send(t, s, secure.URL); got.Reason != webhook.BadTLS || received.Load() != 0 {
		t.Errorf("an unknown certificate: %+v", got)
	}
	if got := send(t, s, strings.Replace(plain.URL, "http:", "https:", 1)); got.Reason != webhook.BadTLS {
		t.Errorf("no TLS: %+v", got)
	}
	trusted := webhook.NewTestSender(testPolicy, nil, secure.Client().Transport.(*http.Transport).TLSClientConfig)
	if got := send(t, trusted, secure.URL); got.Reason != "" || received.Load() != 1 {
		t.Errorf("a trusted certificate: %+v", got)
	}
	if got := send(t, webhook.NewSender(webhook.Policy{Private: true}), plain.URL); got.Reason != webhook.Forbidden || received.Load() != 1 {
		t.Errorf("http that is not allowed: %+v", got)
	}
}

// TestSlowReceiverTimesOut sends to a receiver that never answers. The attempt must end with
// the caller's context, and with the time limit of an attempt.
func TestSlowReceiverTimesOut(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	arrived := make(chan struct{}, 2)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-stop
	}))
	defer receiver.Close()
	defer close(stop)
	s := webhook.NewSender(testPolicy)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := s.Send(ctx, receiver.URL, webhook.Message{ID: "m"}, time.Now(), testKeys); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := send(t, s, receiver.URL); got.Reason != webhook.Timeout || got.Status != 0 || got.Took < webhook.SendTime {
		t.Errorf("%+v", got)
	}
}

// TestRebindingReachesNobody has a name whose address is public at the first lookup and this
// machine's at every later one. Only the address that is dialled counts.
//
// security: ASVS 1.3.6, ASVS 15.3.2, API7:2023
func TestRebindingReachesNobody(t *testing.T) {
	t.Parallel()
	received := atomic.Int32{}
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { received.Add(1) }))
	defer receiver.Close()
	_, port, err := net.SplitHostPort(receiver.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var lookups atomic.Int32
	answers := map[string][]string{ // addresses by the first label of the name, the first one for the first lookup
		"private": {"127.0.0.1"}, "mapped": {"::ffff:127.0.0.1"}, "metadata": {"169.254.169.254"}, "rebinding": {"192.0.2.1", "127.0.0.1"}, "zero": {"0.0.0.0"},
	}
	resolver := resolve(t, func(name string, kind uint16) (addresses []string) {
		list := answers[strings.Split(name, ".")[0]]
		i := min(int(lookups.Add(1))-1, len(list)-1)
		if i < 0 || strings.Contains(list[i], ":") != (kind == dns.TypeAAAA) {
			return nil
		}
		return list[i : i+1]
	})
	plain := webhook.Policy{HTTP: true}
	if err := plain.CheckURL("http://rebinding.example:" + port); err != nil {
		t.Fatal(err)
	}
	for label := range answers {
		lookups.Store(0)
		s := webhook.NewTestSender(plain, resolver, nil)
		for range 3 {
			if got := send(t, s, "http://"+label+".example:"+port); got.Reason != webhook.Forbidden || received.Load() != 0 {
				t.Errorf("%s: %+v, received %d", label, got, received.Load())
			}
		}
	}
	if got := send(t, webhook.NewTestSender(plain, resolver, nil), "http://unknown.example:"+port); got.Reason != webhook.Unknown {
		t.Errorf("an unknown name: %+v", got)
	}
	lookups.Store(0)
	if got := send(t, webhook.NewTestSender(testPolicy, resolver, nil), "http://private.example:"+port); got.Reason != "" || received.Load() != 1 {
		t.Errorf("where private networks are allowed: %+v, received %d", got, received.Load())
	}
}

// resolve returns a resolver that asks a name server of the test.
func resolve(t *testing.T, answer func(name string, kind uint16) []string) *net.Resolver {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, address := range answer(q.Question[0].Name, q.Question[0].Qtype) {
			head := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET}
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.ParseIP(address)})
			} else {
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: head, AAAA: net.ParseIP(address).To16()})
			}
		}
		if len(m.Answer) == 0 && strings.HasPrefix(q.Question[0].Name, "unknown.") {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}
