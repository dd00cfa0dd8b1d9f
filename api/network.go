package api

import (
	"net/http"
	"net/netip"
	"strings"

	"colophon/internal/network"
)

// client returns the address of the client: the peer's or, if the peer is a trusted
// proxy, the right-most hop of X-Forwarded-For that is not one. Hops further left were
// written by a client that is not trusted, and are ignored. The header Forwarded is
// ignored too, because most proxies pass on the client's value.
func client(r *http.Request, trusted []netip.Prefix) string {
	addr, err := network.ParseAddr(r.RemoteAddr)
	if err != nil || !network.Contains(trusted, addr) {
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
			next, err := network.ParseAddr(strings.TrimSpace(hop))
			if err != nil {
				return addr.String() // the hop is no address, so the proxy that wrote it counts
			}
			if addr = next; !network.Contains(trusted, addr) {
				return addr.String()
			}
		}
	}
	return addr.String() // a proxy that sends its own request
}

// localHost refuses requests under a name that is not this machine's, if the
// service is local; see Options.Local.
func (s *server) localHost(next http.Handler) http.Handler {
	if !s.Local {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !network.IsLiteral(r.Host) {
			s.turnAway(w, r, newProblem(http.StatusMisdirectedRequest, "misdirected",
				"use the address of this service or localhost as Host; a proxy that passes on other names has to be a trusted one"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
