package webhook_test

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"colophon/internal/webhook"
)

// TestAddressesAreClassified has an address of each class of IANA's registries, the metadata
// services of clouds, and the forms of IPv6 that have an IPv4 address inside.
//
// security: ASVS 1.3.6, ASVS 15.3.2, API7:2023
func TestAddressesAreClassified(t *testing.T) {
	const public, private, never = "public", "private", "never"
	for address, class := range map[string]string{
		"1.1.1.1": public, "8.8.8.8": public, "9.255.255.255": public, "11.0.0.0": public, "100.63.255.255": public, "100.128.0.0": public,
		"172.15.255.255": public, "172.32.0.0": public, "192.0.1.0": public, "198.17.255.255": public, "198.20.0.0": public, "223.255.255.255": public,
		"2606:4700:4700::1111": public, "2a00::1": public, "2001:4860:4860::8888": public, "2620:fe::fe": public, "::ffff:8.8.8.8": public,

		"10.0.0.1": private, "10.255.255.255": private, "172.16.0.1": private, "172.31.255.255": private, "192.168.0.1": private,
		"127.0.0.1": private, "127.255.255.254": private, "::1": private, "fc00::1": private, "fdff:ffff::1": private,
		"::ffff:127.0.0.1": private, "::ffff:10.0.0.1": private,

		"0.0.0.0": never, "0.1.2.3": never, "100.64.0.1": never, "100.100.100.200": never, "100.127.255.255": never, "169.254.169.254": never, "169.254.0.1": never,
		"168.63.129.16": never, "192.0.0.192": never, "192.0.0.8": never, "192.0.2.1": never, "192.88.99.1": never, "198.18.0.1": never, "198.19.255.255": never,
		"198.51.100.1": never, "203.0.113.1": never, "224.0.0.1": never, "239.255.255.255": never, "240.0.0.1": never, "255.255.255.255": never,
		"::": never, "::ffff:169.254.169.254": never, "::ffff:0.0.0.0": never, "::ffff:100.64.0.1": never, "::169.254.169.254": never, "::127.0.0.1": never, "::ffff:0:127.0.0.1": never,
		"64:ff9b::169.254.169.254": never, "64:ff9b::8.8.8.8": never, "64:ff9b:1::a00:1": never, "100::1": never, "100:0:0:1::1": never,
		"2001::1": never, "2001:0:7f00:1::": never, "2001:2::1": never, "2001:20::1": never, "2001:db8::1": never, "2002:7f00:1::": never, "2002:a9fe:a9fe::": never,
		"3fff::1": never, "5f00::1": never, "fe80::1": never, "fe80::1%eth0": never, "fec0::1": never, "ff02::1": never, "ff0e::1": never,
		"fd00:ec2::254": never, "fd20:ce::254": never, "fe80::5efe:10.0.0.1": never, "8.8.8.8%1": "",
	} {
		a, err := netip.ParseAddr(address)
		if err != nil {
			if class != "" {
				t.Fatal(err)
			}
			continue
		}
		for policy, allowed := range map[webhook.Policy]bool{
			{}:                          class == public,
			{HTTP: true}:                class == public,
			{Private: true}:             class != never,
			{HTTP: true, Private: true}: class != never,
		} {
			if err := webhook.CheckAddress(policy, a); (err == nil) != allowed || err != nil && !errors.Is(err, webhook.ErrAddress) {
				t.Errorf("%s with %+v: %v, want allowed %v", address, policy, err, allowed)
			}
		}
	}
}

// TestURLsAreChecked has URLs in the forms that have deceived other readers of URLs.
//
// security: ASVS 2.2.1, ASVS 1.3.6, API7:2023
func TestURLsAreChecked(t *testing.T) {
	for text, want := range map[string]error{
		"https://example.com": nil, "https://example.com/hook?a=b&c=d": nil, "https://EXAMPLE.com:8443/%2e%2e/": nil, "https://xn--bcher-kva.example/": nil,
		"https://8.8.8.8/": nil, "https://[2606:4700::1111]:443/": nil, "https://a_b.example.com./x": nil, "https://localhost/": nil, // the address of a name is checked when it is dialled

		"": webhook.ErrURL, "example.com": webhook.ErrURL, "/hook": webhook.ErrURL, "//example.com": webhook.ErrPlain, "https:": webhook.ErrURL, "https://": webhook.ErrURL, "https:///x": webhook.ErrURL,
		"https://user@example.com": webhook.ErrURL, "https://user:password@example.com": webhook.ErrURL, "https://@example.com": webhook.ErrURL,
		"https://example.com#f": webhook.ErrURL, "https://example.com/#": webhook.ErrURL, "https://example.com:": webhook.ErrURL, "https://example.com:0/": webhook.ErrURL, "https://example.com:65536/": webhook.ErrURL, "https://example.com:x/": webhook.ErrURL,
		"https://exa mple.com": webhook.ErrURL, "https://example.com/a b": webhook.ErrURL, "https://example.com/\n": webhook.ErrURL, "https://example.com/\x00": webhook.ErrURL, " https://example.com": webhook.ErrURL,
		"https://bücher.example/": webhook.ErrURL, "https://example.com/ü": webhook.ErrURL, "https://①②⑦.⓪.⓪.①/": webhook.ErrURL,
		"https://127.1/": webhook.ErrURL, "https://2130706433/": webhook.ErrURL, "https://0x7f000001/": webhook.ErrURL, "https://0x7f.1/": webhook.ErrURL, "https://0177.0.0.1/": webhook.ErrURL, "https://127.0.0.1./": webhook.ErrURL,
		"https://[::1%25eth0]/": webhook.ErrAddress, "https://[example.com]/": webhook.ErrURL, "https://example..com/": webhook.ErrURL, "https://exa%6dple.com/": webhook.ErrURL, "https://example.com%00/": webhook.ErrURL, `https://example.com\@127.0.0.1/`: webhook.ErrURL,
		"https://" + strings.Repeat("a", 64) + ".com/": webhook.ErrURL, "https://example.com/" + strings.Repeat("a", webhook.MaxURL): webhook.ErrURL,

		"http://example.com": webhook.ErrPlain, "ftp://example.com": webhook.ErrPlain, "file:///etc/passwd": webhook.ErrURL, "gopher://example.com": webhook.ErrPlain, "javascript:alert(1)": webhook.ErrURL, "unix://x/y": webhook.ErrPlain,
		"https://127.0.0.1/": webhook.ErrAddress, "https://[::1]/": webhook.ErrAddress, "https://169.254.169.254/latest": webhook.ErrAddress, "https://[::ffff:169.254.169.254]/": webhook.ErrAddress, "https://[64:ff9b::a9fe:a9fe]/": webhook.ErrAddress, "https://0.0.0.0/": webhook.ErrAddress,
	} {
		if err := (webhook.Policy{}).CheckURL(text); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
	open := webhook.Policy{HTTP: true, Private: true}
	for text, want := range map[string]error{
		"http://127.0.0.1:8080/hook": nil, "http://[::1]/": nil, "http://10.0.0.1": nil, "http://example.com": nil,
		"http://169.254.169.254/": webhook.ErrAddress, "ftp://127.0.0.1/": webhook.ErrPlain, "http://user@127.0.0.1/": webhook.ErrURL,
	} {
		if err := open.CheckURL(text); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

// FuzzCheckURL checks that a URL that passes leads where it seems to lead: the client of
// net/http sees the same scheme, a host name or a public address, and nothing of a user.
func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://example.com/hook", "https://[::ffff:127.0.0.1]:443/", "https://127.1/", "https://a@b/", "https://a#b", "https://0x7f.1", `https://a\b`, "https://xn--a/", "https://[fe80::1%25a]/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := webhook.Policy{}
		if p.CheckURL(text) != nil {
			return
		}
		r, err := http.NewRequest(http.MethodPost, text, nil)
		if err != nil {
			t.Fatalf("%q passes and is no URL: %v", text, err)
		}
		u := r.URL
		if u.Scheme != "https" || u.User != nil || u.Fragment != "" || u.Opaque != "" || u.Hostname() == "" || r.Host != u.Host {
			t.Errorf("%q: %+v", text, u)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && webhook.CheckAddress(p, a) != nil {
			t.Errorf("%q leads to %s", text, a)
		}
		if again, err := url.Parse(u.String()); err != nil || again.Host != u.Host {
			t.Errorf("%q: %v, %v", text, again, err)
		}
	})
}
