package api

import (
	"net/http"
	"net/netip"
	"strings"

	"colophon/internal/network"
)

// client returns the address of who sent the request: the peer, or, if that is a
// trusted proxy, the right-most hop of X-Forwarded-For that is none. What stands
// further left was written by somebody who is not trusted, and is not looked at.
// The header Forwarded is never believed: most proxies pass on the one that the
// client has sent.
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
				return addr.String() // of the one who wrote that
			}
			if addr = next; !network.Contains(trusted, addr) {
				return addr.String()
			}
		}
	}
	return addr.String() // a proxy asks on its own behalf
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
				"ask for this service by its address or as localhost; a proxy that passes other names on has to be among the trusted ones"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
