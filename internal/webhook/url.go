package webhook

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"colophon/internal/errcode"
)

// MaxURL is the length of the longest URL in bytes.
const MaxURL = 2048

// ErrURL occurs when a text is not the URL of a receiver.
var ErrURL = errcode.New("webhook_url", "the URL must be absolute, without user, fragment and control characters, with a host name in ASCII")

// ErrPlain occurs when a URL is not one of HTTPS.
var ErrPlain = errcode.New("webhook_not_https", "the URL must begin with https://")

// CheckURL returns ErrURL, ErrPlain or ErrAddress unless a message may be sent to the URL. A
// name passes: its addresses are checked when it is dialled.
func (p Policy) CheckURL(text string) error {
	if len(text) > MaxURL || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return ErrURL
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" || u.User != nil || strings.Contains(text, "#") {
		return ErrURL
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !p.HTTP) {
		return ErrPlain
	}
	host := u.Hostname()
	if host == "" || strings.HasSuffix(u.Host, ":") {
		return ErrURL
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return ErrURL
		}
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return p.check(address)
	}
	if strings.HasPrefix(u.Host, "[") || !isName(host) {
		return ErrURL
	}
	return nil
}

// isName reports whether a host has the form of a name. Numbers that some resolvers read as an
// IPv4 address, such as 127.1 and 0x7f000001, are no names: the last label of a name begins
// with a letter.
func isName(host string) bool {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return false
		}
	}
	first := labels[len(labels)-1][0] | 0x20 // in lower case
	return len(host) <= 254 && first >= 'a' && first <= 'z'
}
