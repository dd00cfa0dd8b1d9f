package api

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"colophon/internal/network"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ffff::/48")}

func clientOf(remote string, forwarded ...string) string {
	r := &http.Request{RemoteAddr: remote, Header: http.Header{}}
	for _, line := range forwarded {
		r.Header.Add("X-Forwarded-For", line)
	}
	return network.Of(client(r, proxies))
}

// TestOnlyTrustedProxiesNameTheClient derives the client's address from X-Forwarded-For
// headers. Only hops that trusted proxies wrote may decide the address.
//
// security: ASVS 4.1.3, ASVS 15.3.4
func TestOnlyTrustedProxiesNameTheClient(t *testing.T) {
	for name, k := range map[string]struct {
		want, remote string
		forwarded    []string
	}{
		"no proxy":                     {"192.0.2.1", "192.0.2.1:1", nil},
		"a client claims to forward":   {"192.0.2.1", "192.0.2.1:1", []string{"198.51.100.1"}},
		"a proxy":                      {"198.51.100.1", "10.1.2.3:1", []string{"198.51.100.1"}},
		"a proxy over IPv6":            {"198.51.100.1", "[2001:db8:ffff::1]:1", []string{"198.51.100.1"}},
		"a proxy in IPv4 as IPv6":      {"198.51.100.1", "[::ffff:10.1.2.3]:1", []string{"198.51.100.1"}},
		"the client lies to the proxy": {"198.51.100.1", "10.1.2.3:1", []string{"203.0.113.9, 198.51.100.1"}},
		"the client claims to be one":  {"198.51.100.1", "10.1.2.3:1", []string{"203.0.113.9, 10.9.9.9, 198.51.100.1"}},
		"two proxies":                  {"198.51.100.1", "10.1.2.3:1", []string{"203.0.113.9,198.51.100.1,10.4.5.6"}},
		"two headers":                  {"198.51.100.1", "10.1.2.3:1", []string{"203.0.113.9", "198.51.100.1,10.4.5.6"}},
		"a proxy's own request":        {"10.1.2.3", "10.1.2.3:1", nil},
		"only proxies":                 {"10.4.5.6", "10.1.2.3:1", []string{"10.4.5.6, 10.7.8.9"}},
		"with a port":                  {"198.51.100.1", "10.1.2.3:1", []string{"198.51.100.1:443"}},
		"IPv6":                         {"2001:db8:1:2::/64", "10.1.2.3:1", []string{"2001:db8:1:2::9"}},
		"IPv6 with a port":             {"2001:db8:1:2::/64", "10.1.2.3:1", []string{"[2001:db8:1:2::9]:443"}},
		"IPv6 in brackets":             {"2001:db8:1:2::/64", "10.1.2.3:1", []string{"[2001:db8:1:2::9]"}},
		"empty":                        {"10.1.2.3", "10.1.2.3:1", []string{""}},
		"a hop that is no address":     {"10.1.2.3", "10.1.2.3:1", []string{"198.51.100.1, unknown"}},
		"no address further left":      {"10.4.5.6", "10.1.2.3:1", []string{"_hidden, 10.4.5.6"}},
		"garbage left of the client":   {"198.51.100.1", "10.1.2.3:1", []string{"\x00\xff,,,;;'--, 198.51.100.1"}},
		"a socket is never a proxy":    {"@", "@", []string{"198.51.100.1"}},
		"a zone changes nothing":       {"fe80::/64", "10.1.2.3:1", []string{"fe80::1%eth0"}},
	} {
		if got := clientOf(k.remote, k.forwarded...); got != k.want {
			t.Errorf("%s: %s, want %s", name, got, k.want)
		}
	}
	r := &http.Request{RemoteAddr: "10.1.2.3:1", Header: http.Header{"Forwarded": {"for=198.51.100.1"}}}
	if got := client(r, proxies); got != "10.1.2.3" {
		t.Errorf("Forwarded made the client %s", got)
	}
}

// TestRightMostUntrustedHopIsTheClient compares client with a simple implementation of
// the same rule. If the client adds hops of its own, the result must stay the same.
func TestRightMostUntrustedHopIsTheClient(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trusted := rapid.SampledFrom([]string{"10.0.0.1", "10.255.0.9", "2001:db8:ffff::7"})
		strangers := rapid.SampledFrom([]string{"192.0.2.1", "198.51.100.200", "2001:db8:2::1", "11.0.0.1"})
		garbage := rapid.SampledFrom([]string{"", "unknown", "10.0.0", "10.0.0.1/8", "1.2.3.4.5", "[10.0.0.1", "\x00", "::ffff:", "999.1.1.1"})
		hops := rapid.SliceOfN(rapid.OneOf(trusted, trusted, strangers, garbage), 0, 8).Draw(t, "hops")
		remote := trusted.Draw(t, "peer")
		// The simple implementation goes through the hops from the right.
		want := remote
		for _, hop := range slices.Backward(hops) {
			addr, err := netip.ParseAddr(hop)
			if err != nil {
				break
			}
			want = hop
			if !network.Contains(proxies, addr) {
				break
			}
		}
		var lines []string
		for rest := hops; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "in one line")
			lines, rest = append(lines, strings.Join(rest[:n], rapid.SampledFrom([]string{",", ", ", " ,\t"}).Draw(t, "comma"))), rest[n:]
		}
		got := clientOf(netip.AddrPortFrom(netip.MustParseAddr(remote), 443).String(), lines...)
		if got != network.Of(want) {
			t.Fatalf("%q from %s: %s, want %s", lines, remote, got, network.Of(want))
		}
		if network.Contains(proxies, netip.MustParseAddr(want)) {
			return
		}
		claims := rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "claims")
		if again := clientOf(netip.AddrPortFrom(netip.MustParseAddr(remote), 443).String(), append(claims, lines...)...); again != got {
			t.Fatalf("with the claims %q: %s, without them %s", claims, again, got)
		}
	})
}

func FuzzForwardedFor(f *testing.F) {
	f.Add("10.1.2.3:1", "198.51.100.1, 10.4.5.6", "x")
	f.Add("192.0.2.1:1", ",,,", "")
	f.Add("@", "[::1]:80", "[")
	f.Fuzz(func(t *testing.T, remote, line, claim string) {
		got := clientOf(remote, line)
		addr, err := network.ParseAddr(remote)
		if err != nil || !network.Contains(proxies, addr) {
			if got != network.Of(remote) {
				t.Fatalf("%q is no proxy, and became %q by the hops %q", remote, got, line)
			}
			return
		}
		at, err := netip.ParsePrefix(got)
		if err != nil {
			var one netip.Addr
			if one, err = netip.ParseAddr(got); err != nil {
				t.Fatalf("%q with the hops %q became %q, which is no network", remote, line, got)
			}
			at = netip.PrefixFrom(one, one.BitLen())
		}
		if network.Contains(proxies, at.Addr()) {
			return
		}
		if again := clientOf(remote, claim, line); again != got {
			t.Fatalf("with the claim %q: %q, without it %q", claim, again, got)
		}
		if again := clientOf(remote, claim+","+line); again != got {
			t.Fatalf("with the claim %q: %q, without it %q", claim, again, got)
		}
	})
}
