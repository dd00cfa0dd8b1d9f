package api

import "net/http"

// strictest is the Content-Security-Policy of answers that are not pages.
const strictest = "default-src 'none'; frame-ancestors 'none'"

// secureHeaders sets the security headers of every answer. Pages replace
// Content-Security-Policy and Cache-Control with their own values.
func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Content-Security-Policy", strictest)
		h.Set("Cache-Control", "no-store")
		if r.TLS != nil { // over plain HTTP, anyone on the network path could have added this header
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}
