package api

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// NewRedirect returns the handler of a plain HTTP listener beside one with TLS on
// the port: it sends readers to the same path there, and refuses everything that
// has already sent over plain HTTP what should not have been. challenges, if it is
// not nil, answers for /.well-known/acme-challenge/.
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
				"this went over the network in the clear: use https, and change what was secret in it"))
			return
		}
		name, ok := nameOf(r.Host)
		if !ok {
			s.answer(w, r, newProblem(http.StatusBadRequest, "no_host", "the Host header says no name or address to send you to"))
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

// nameOf returns the name or the address that a Host header has, without a port.
func nameOf(host string) (string, bool) {
	u, err := url.Parse("//" + host)
	if err != nil || u.Host != host { // it has more than a host has
		return "", false
	}
	name := u.Hostname()
	return name, name != "" && strings.Contains(name, ":") == strings.HasPrefix(host, "[")
}
