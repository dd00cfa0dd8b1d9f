package webhook

import (
	"errors"
	"net/netip"
	"slices"

	"colophon/internal/errcode"
)

// ErrAddress occurs when the address of a URL is not a public one.
var ErrAddress = errcode.New("webhook_address", "the URL leads to an address that is not public")

// Policy says which receivers the operator allows beside public ones over HTTPS.
type Policy struct {
	HTTP    bool // URLs without TLS
	Private bool // loopback and private networks; never link-local addresses and the metadata services of clouds
}

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// notPublic4 are the IPv4 networks of IANA's registry of special addresses that lead to no
// public host, and one public address that only machines of a cloud reach.
var notPublic4 = prefixes(
	"0.0.0.0/8",        // this network
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // between a provider and its customers (CGNAT)
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // services of Azure's platform, not in the registry
	"169.254.0.0/16",   // link-local, and the metadata services of most clouds
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocols, and the metadata service of Oracle's cloud
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // relays of 6to4
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, and broadcast
)

// global6 is the IPv6 network that public addresses are assigned from. Outside it are, among
// others, loopback, link-local, unique local and multicast addresses, IPv4 addresses in the
// form ::1.2.3.4, and those of NAT64 (64:ff9b::/96 and 64:ff9b:1::/48).
var global6 = netip.MustParsePrefix("2000::/3")

// notPublic6 are the parts of global6 that lead to no public host, or to an IPv4 address
// inside the IPv6 address.
var notPublic6 = prefixes(
	"2001::/23",     // protocols: Teredo, benchmarks, ORCHID
	"2001:db8::/32", // documentation
	"2002::/16",     // 6to4
	"3fff::/20",     // documentation
)

// private are the networks that Policy.Private allows.
var private = prefixes("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")

// metadata are the metadata services of clouds that have unique local addresses.
var metadata = prefixes("fd00:ec2::254/128", "fd20:ce::254/128")

// check returns ErrAddress unless the policy allows connections to the address.
func (p Policy) check(a netip.Addr) error {
	if a.Zone() != "" { // only link-local addresses have zones
		return ErrAddress
	}
	a = a.Unmap()
	in := func(networks []netip.Prefix) bool {
		return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
	}
	switch {
	case p.Private && in(private) && !in(metadata):
		return nil
	case a.Is4() && !in(notPublic4), a.Is6() && global6.Contains(a) && !in(notPublic6):
		return nil
	}
	return ErrAddress
}

// checkDialled is check for the text of an address and a port, as net.Dialer.Control gets it.
func (p Policy) checkDialled(address string) error {
	dialled, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.Join(ErrAddress, err)
	}
	return p.check(dialled.Addr())
}
