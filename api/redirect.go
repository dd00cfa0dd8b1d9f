package api

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// NewRedirect returns the handler of a plain HTTP listener. A TLS listener on the port
// serves the API. The handler redirects reads to the same path over TLS. It refuses
// writes and requests with credentials, because these have already crossed the network
// unencrypted. If challenges is not nil, it answers /.well-known/acme-challenge/.
func NewRedirect(o Options, port string, challenges http.Handler) (http.Handler, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	if challenges != nil {
		mux.Handle("GET /.well-known/acme-challenge/", challenges)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Authorization") != "" || r.URL.Query().Has(ticketParam) {
			s.answer(w, r, newProblem(http.StatusForbidden, "https_required",
				"the request went over the network in the clear: use https, and change every secret that it contained"))
			return
		}
		name, ok := nameOf(r.Host)
		if !ok {
			s.answer(w, r, newProblem(http.StatusBadRequest, "no_host", "the Host header has no name or address to redirect to"))
			return
		}
		host := net.JoinHostPort(name, port)
		if port == "443" {
			host = strings.TrimSuffix(host, ":443")
		}
		to := url.URL{Scheme: "https", Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", to.String())
		w.WriteHeader(http.StatusPermanentRedirect)
	})
	return s.handler(mux), nil
}

// nameOf returns the host name or address in a Host header, without the port.
func nameOf(host string) (string, bool) {
	u, err := url.Parse("//" + host)
	if err != nil || u.Host != host { // the header has more than a host and a port
		return "", false
	}
	name := u.Hostname()
	return name, name != "" && strings.Contains(name, ":") == strings.HasPrefix(host, "[")
}
