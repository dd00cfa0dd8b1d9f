// Package network classifies addresses: the network that a limit counts, trusted
// networks, and loopback.
//
// It reads text and opens no socket. All functions are pure and safe for concurrent
// use. An IPv4 address is the same whether it is written as IPv4 or as IPv6, and the
// zone of an IPv6 address is ignored.
package network

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ParseAddr reads an IP address, with or without a port, and with or without
// brackets.
func ParseAddr(text string) (netip.Addr, error) {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	} else if len(text) > 1 && text[0] == '[' && text[len(text)-1] == ']' {
		text = text[1 : len(text)-1]
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap().WithZone(""), err
}

// ParsePrefix reads a network such as 10.0.0.0/8, or an address, which is a network
// of its own. It refuses networks that contain every address. The bits after the prefix
// are zero in the result.
func ParsePrefix(text string) (netip.Prefix, error) {
	addr, err := netip.ParseAddr(text)
	var p netip.Prefix
	if err == nil {
		p, err = addr.Unmap().Prefix(addr.Unmap().BitLen())
	} else {
		p, err = netip.ParsePrefix(text)
	}
	if err == nil && p.Addr().Is4In6() { // Contains compares IPv4 with IPv4 only
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

// Of returns the network that limits count for an address, with or without a port. It
// is an IPv4 address itself, or the /64 of an IPv6 address, because a /64 usually
// belongs to one subscriber. A text that is no address is returned as it is, such as
// the peer of a unix socket.
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

// IsLiteral reports whether a Host header is an address or localhost. A web page that
// reaches this machine by DNS rebinding sends its own name instead.
func IsLiteral(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// IsLoopback reports whether only this machine can reach a listener on an address and
// port. localhost is the only name that it accepts.
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
