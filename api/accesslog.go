package api

import (
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
)

// accessLog logs each request that has been answered, and passes its route, status and
// duration to Observe.
func (s *server) accessLog(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin, rec := time.Now(), &recorder{ResponseWriter: w}
		defer func() { // deferred, so that an aborted answer is logged too
			took, about := time.Since(begin), requestOf(r.Context())
			if s.Observe != nil {
				s.Observe(about.route, rec.status, took)
			}
			attrs := []slog.Attr{slog.String("request", about.id), slog.String("route", about.route),
				slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes), slog.Duration("took", took)}
			if about.account != uuid.Nil {
				attrs = append(attrs, slog.String("account", about.account.String()))
			}
			if about.key != uuid.Nil {
				attrs = append(attrs, slog.String("key", about.key.String()))
			}
			switch rec.status {
			case http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest, http.StatusTooManyRequests:
				attrs = append(attrs, slog.String("network", about.network)) // so that operators can investigate and block networks
			}
			s.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
		}()
		next.ServeHTTP(rec, r)
	})
}

// recorder notes the status and the size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status < http.StatusOK { // no status yet, or a 1xx status, which is not final
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status < http.StatusOK {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController and Huma find the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// recoverPanics answers with a problem when a handler panics. If the handler has already
// started an answer, that answer is aborted, so that no client takes half an answer for a
// whole one.
func (s *server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, _ := p.(error); !errors.Is(err, http.ErrAbortHandler) {
				s.Log.ErrorContext(r.Context(), "handler panicked", "request", requestID(r.Context()), "panic", p, "stack", string(debug.Stack()))
				if rec.status < http.StatusOK {
					s.answer(rec, r, internalError())
					return
				}
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(rec, r)
	})
}
