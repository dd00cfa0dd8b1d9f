package httpd

import (
	"net/http"
	"net/http/pprof"

	"colophon/internal/network"
)

// Admin returns the handler of a listener for operators. It serves /debug/pprof/, and
// /metrics with the given handler. The Host header of a request must be an IP address or
// localhost, so that no web page can read the responses by DNS rebinding.
func Admin(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound) // the command line may have secrets
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !network.IsLiteral(r.Host) {
			http.Error(w, "use an IP address or localhost as the host", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
