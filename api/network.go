package api

import (
	"net/http"
	"net/netip"
	"strings"

	"colophon/internal/network"
)

// client returns the address of the client. If the peer is not a trusted proxy, this is
// the peer's address. Otherwise it is the right-most hop of X-Forwarded-For that is not a
// trusted proxy. Hops further left are ignored, because a client that is not trusted
// wrote them. The header Forwarded is ignored too, because most proxies pass on the
// client's value.
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
				return addr.String() // the hop is not an address, so the proxy that wrote the hop counts as the client
			}
			if addr = next; !network.Contains(trusted, addr) {
				return addr.String()
			}
		}
	}
	return addr.String() // no hop is left, so a trusted proxy itself sent the request
}

// localHost refuses requests whose Host is neither an address nor localhost, if
// Options.Local is set.
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
