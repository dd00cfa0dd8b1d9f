package main

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"colophon/test/apitest"
)

// TestTwoProcessesCountTogether floods two API processes over one database.
func TestTwoProcessesCountTogether(t *testing.T) {
	const most, requests = 7, 30
	m := newMembers(t)
	serve := func() *process {
		return start(t, m.env, "api", "--listen", "127.0.0.1:0", "--limit-jobs", fmt.Sprintf("%d/1h", most), "--limit-anonymous", "3/1h")
	}
	first, second := serve(), serve()
	c := m.client(first, "flooder")
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			user := apitest.Client{T: apitest.Beside(t), URL: []string{first.url, second.url}[i%2], Access: c.Access}
			a := user.Do("POST", "/jobs", `{"prompt":"Light","max_length":10}`)
			if a.Status == 202 {
				accepted.Add(1)
				return
			}
			a.Refused(user.T, 429, "rate_limit_exceeded")
		})
	}
	wg.Wait()
	if n := accepted.Load(); n != most {
		t.Errorf("two processes accepted %d jobs, want %d", n, most)
	}
	// What reaches no user is each process's own, and works without a database.
	m.pg.stop()
	for _, p := range []*process{first, second} {
		stranger := anyone(t, p.url)
		for range 3 {
			stranger.Do("GET", "/docs", "").Must(t, 200)
		}
		stranger.Do("GET", "/docs", "").Refused(t, 429, "rate_limit_exceeded")
		stranger.As(c.Access).Do("GET", "/history", "").Refused(t, 503, "unavailable")
	}
}

func TestReadTrustedProxies(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.0.0.0/8", "192.0.2.1": "192.0.2.1/32", "2001:db8::/32": "2001:db8::/32",
		"2001:db8::1": "2001:db8::1/128", "::ffff:192.0.2.1": "192.0.2.1/32", "::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:192.0.2.1/128": "192.0.2.1/32",
		"::ffff:0.0.0.0/96": "", "::ffff:10.0.0.0/95": "", "::ffff:10.0.0.0/8": "",
		"0.0.0.0/0": "", "::/0": "", "": "", "10.0.0.0/33": "", "localhost": "", "10.0.0": "", "10.0.0.0/8 ": "",
	} {
		var p trustedProxy
		if err := p.UnmarshalText([]byte(text)); (err == nil) != (want != "") || err == nil && p.Masked() != netip.MustParsePrefix(want) {
			t.Errorf("%q: %s, %v, want %q", text, p, err, want)
		}
	}
}

func TestReadRates(t *testing.T) {
	for text, ok := range map[string]bool{"5/1m": true, "1/1s": true, "4294967295/24h": true, "0/1m": false, "5": false, "5/": false, "-1/1m": false, "5/1ms": false, "5/800h": false, "5/x": false,
		"5/1m x": false, "5/1m ": false, " 5/1m": false, "5 /1m": false, "+5/1m": false, "5/1m/1m": false, "4294967296/1m": false, "0x5/1m": false} {
		var r rate
		if err := r.UnmarshalText([]byte(text)); (err == nil) != ok {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}
