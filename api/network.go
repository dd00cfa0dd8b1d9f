package api

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// client returns the address of who sent the request: the peer, or, if that is a
// trusted proxy, the right-most hop of X-Forwarded-For that is none. What stands
// further left was written by somebody who is not trusted, and is not looked at.
// The header Forwarded is never believed: most proxies pass on the one that the
// client has sent.
func client(r *http.Request, trusted []netip.Prefix) string {
	addr, err := parseHop(r.RemoteAddr)
	if err != nil || !within(trusted, addr) {
		return r.RemoteAddr
	}
	for lines := r.Header["X-Forwarded-For"]; len(lines) > 0; lines = lines[:len(lines)-1] {
		rest := lines[len(lines)-1]
		for more := true; more; {
			var hop string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				hop, more = rest, false
			}
			next, err := parseHop(strings.TrimSpace(hop))
			if err != nil {
				return addr.String() // of the one who wrote that
			}
			if addr = next; !within(trusted, addr) {
				return addr.String()
			}
		}
	}
	return addr.String() // a proxy asks on its own behalf
}

func within(networks []netip.Prefix, addr netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// localHost refuses requests under a name that is not this machine's, if the
// service is local; see Options.Local.
func (s *server) localHost(next http.Handler) http.Handler {
	if !s.Local {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !IsLocal(r.Host) {
			s.turnAway(w, r, newProblem(http.StatusMisdirectedRequest, "misdirected",
				"ask for this service by its address or as localhost; a proxy that passes other names on has to be among the trusted ones"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// IsLocal reports whether a Host header has an address or localhost. A page whose
// own name means this machine to a browser, because whoever owns the name says so,
// asks under that name.
func IsLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// parseHop reads an IP address, with or without a port.
func parseHop(hop string) (netip.Addr, error) {
	if host, _, err := net.SplitHostPort(hop); err == nil {
		hop = host
	} else if len(hop) > 1 && hop[0] == '[' && hop[len(hop)-1] == ']' {
		hop = hop[1 : len(hop)-1]
	}
	addr, err := netip.ParseAddr(hop)
	return addr.Unmap().WithZone(""), err
}

// Network returns what limits count for an address, with or without a port: the
// address, or of IPv6 the /64 that one subscriber has to himself.
func Network(remote string) string {
	addr, err := parseHop(remote)
	if err != nil {
		return remote // a unix socket has no address
	}
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}
