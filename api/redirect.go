package api

import (
	"net"
	"net/http"
	"net/url"
)

// NewRedirect returns the handler of a plain HTTP listener beside one with TLS on
// the port: it sends readers to the same path there, and refuses everything that
// has already sent over plain HTTP what should not have been. challenges, if it is
// not nil, answers for /.well-known/acme-challenge/.
func NewRedirect(o Options, port string, challenges http.Handler) (http.Handler, error) {
	origins, err := newOrigins(o.CORSOrigins)
	if err != nil {
		return nil, err
	}
	s := &server{Options: o, origins: origins}
	mux := http.NewServeMux()
	if challenges != nil {
		mux.Handle("GET /.well-known/acme-challenge/", challenges)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Authorization") != "" {
			s.answer(w, r, newProblem(http.StatusForbidden, "https_required",
				"this went over the network in the clear: use https, and change what was secret in it"))
			return
		}
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if port != "443" {
			host = net.JoinHostPort(host, port)
		}
		to := url.URL{Scheme: "https", Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", to.String())
		w.WriteHeader(http.StatusPermanentRedirect)
	})
	return s.guard(mux), nil
}
