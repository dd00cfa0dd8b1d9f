package network

import (
	"net/netip"
	"testing"
)

func TestOfIsTheAddressOrThe64OfIPv6(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:1234":               "192.0.2.7",
		"192.0.2.7":                    "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:443":   "2001:db8:1:2::/64",
		"2001:db8:1:2:3:4:5:6":         "2001:db8:1:2::/64",
		"[2001:db8:1:2::1]:443":        "2001:db8:1:2::/64",
		"[2001:db8:1:2::1]":            "2001:db8:1:2::/64",
		"[::ffff:192.0.2.7]:443":       "192.0.2.7",
		"[fe80::1%eth0]:443":           "fe80::/64",
		"@":                            "@", // the peer of a Unix socket
		"[2001:db8:1:3:ffff::1]:65535": "2001:db8:1:3::/64",
	} {
		if got := Of(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

// TestSiteIsThe48OfIPv6 checks the sites of networks. Only IPv6 networks may have a site,
// and networks of the same /48 must have the same site.
func TestSiteIsThe48OfIPv6(t *testing.T) {
	for remote, want := range map[string]string{
		"[2001:db8:1:2:3:4:5:6]:443": "2001:db8:1::/48",
		"2001:db8:1:ffff::9":         "2001:db8:1::/48",
		"2001:db8:2:2::9":            "2001:db8:2::/48",
		"192.0.2.7:1234":             "",
		"[::ffff:192.0.2.7]:443":     "",
		"@":                          "",
		"":                           "",
	} {
		if got := Site(Of(remote)); got != want {
			t.Errorf("%s: %q, want %q", remote, got, want)
		}
	}
}

func TestIsLiteralAcceptsAddressesAndLocalhost(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:8000": true, "[::1]": true, "[::1]:8000": true, "localhost": true, "LOCALHOST:8000": true, "192.0.2.1": true,
		"": false, "rebound.example": false, "rebound.example:8000": false, "127.0.0.1.rebound.example": false, "localhost.rebound.example": false,
		"127.0.0.1:8000:8000": false, "1": false, "0x7f.1": false,
	} {
		if got := IsLiteral(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestParsePrefixReadsNetworksAndAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.0.0.0/8", "192.0.2.1": "192.0.2.1/32", "2001:db8::/32": "2001:db8::/32",
		"2001:db8::1": "2001:db8::1/128", "::ffff:192.0.2.1": "192.0.2.1/32", "::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:192.0.2.1/128": "192.0.2.1/32",
		"::ffff:0.0.0.0/96": "", "::ffff:10.0.0.0/95": "", "::ffff:10.0.0.0/8": "",
		"0.0.0.0/0": "", "::/0": "", "": "", "10.0.0.0/33": "", "localhost": "", "10.0.0": "", "10.0.0.0/8 ": "",
	} {
		p, err := ParsePrefix(text)
		if (err == nil) != (want != "") || err == nil && p != netip.MustParsePrefix(want) {
			t.Errorf("%q: %s, %v, want %q", text, p, err, want)
		}
	}
}
