package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"

	"colophon/api"
	"colophon/internal/metrics"
)

type adminFlags struct {
	AdminListen string `placeholder:"ADDRESS" help:"Address and port of /metrics and /debug/pprof/, such as 127.0.0.1:9000; without it there is no such listener. Who reaches it can read this process's memory ($COLOPHON_ADMIN_LISTEN)."`
	AdminRemote bool   `help:"Allow an admin listener that other machines reach ($COLOPHON_ADMIN_REMOTE)."`
}

// check refuses an address that other machines reach.
func (f *adminFlags) check() error {
	if f.AdminListen != "" && !loopback(f.AdminListen) && !f.AdminRemote {
		return &usageError{errors.New("--admin-listen: only 127.0.0.1, ::1 or localhost, unless --admin-remote says that other machines may read this process's memory")}
	}
	return nil
}

// admin returns the servers of a process, of which one is the admin's if the flags
// ask for it.
func (b *base) admin(ctx context.Context, f *adminFlags) (*servers, error) {
	s := newServers(ctx, b.log)
	if f.AdminListen == "" {
		return s, nil
	}
	listener, err := listen(ctx, "--admin-listen", f.AdminListen)
	if err != nil {
		return nil, err
	}
	s.add(adminHandler(b.metrics), listener, nil)
	b.log.Info("metrics and profiles", "url", "http://"+listener.Addr().String()+"/metrics")
	return s, nil
}

// loopback reports whether only this machine reaches a listener on an address. A
// name is believed if it is localhost.
func loopback(address string) bool {
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

// adminHandler shows how the process is.
func adminHandler(m *metrics.Metrics) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound) // there may be secrets among the flags
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		// A page that makes its own name mean 127.0.0.1 must not read this.
		if !api.IsLocal(r.Host) {
			http.Error(w, "ask for this by address or as localhost", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
