// Package network classifies IP addresses. It finds the network that a limit counts, and
// recognizes trusted networks and loopback.
//
// The package reads text and opens no socket. All functions are pure and safe for
// concurrent use. An IPv4 address that is written as IPv6 equals the same address written
// as IPv4. The zone of an IPv6 address is ignored.
package network

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ParseAddr reads an IP address. The text may also have a port, and brackets around the
// address.
func ParseAddr(text string) (netip.Addr, error) {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	} else if len(text) > 1 && text[0] == '[' && text[len(text)-1] == ']' {
		text = text[1 : len(text)-1]
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap().WithZone(""), err
}

// ParsePrefix reads a network such as 10.0.0.0/8. A single address becomes the network
// that contains only this address. ParsePrefix refuses networks that contain every address.
// In the result the bits after the prefix are zero.
func ParsePrefix(text string) (netip.Prefix, error) {
	addr, err := netip.ParseAddr(text)
	var p netip.Prefix
	if err == nil {
		p, err = addr.Unmap().Prefix(addr.Unmap().BitLen())
	} else {
		p, err = netip.ParsePrefix(text)
	}
	if err == nil && p.Addr().Is4In6() { // netip's Contains finds no IPv4 address in an IPv6 network
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		if p.Bits() < 0 {
			return netip.Prefix{}, fmt.Errorf("%q is not an IPv4 network: want the form 10.0.0.0/8", text)
		}
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network, such as 10.0.0.0/8, or an address", text)
	}
	if p.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%s contains every address: any client could claim the address of another", text)
	}
	return p.Masked(), nil
}

// Contains reports whether one of the networks contains an address that [ParseAddr]
// returned.
func Contains(networks []netip.Prefix, addr netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// Of returns the network of an address for use in limits. The address may have a port. The
// network of an IPv4 address is the address itself. The network of an IPv6 address is its
// /64, because a /64 usually belongs to one subscriber. If the text is not an address, Of
// returns the text unchanged. An example is the peer of a Unix socket.
func Of(remote string) string {
	addr, err := ParseAddr(remote)
	if err != nil {
		return remote
	}
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}

// Site returns the site of a network that [Of] returned. The site of an IPv6 network is its
// /48, because providers give a customer up to 65,536 networks of the same /48. An IPv4
// address has no site, and Site returns an empty text.
func Site(of string) string {
	network, err := netip.ParsePrefix(of)
	if err != nil {
		return ""
	}
	site, err := network.Addr().Prefix(48)
	if err != nil {
		return ""
	}
	return site.String()
}

// IsLiteral reports whether the value of a Host header is an IP address or localhost. The
// requests of a web page that uses DNS rebinding have the page's own host name instead.
func IsLiteral(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// IsLoopback reports whether a listener on an address with a port can be reached from this
// machine only. The only host name that IsLoopback accepts is localhost.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
