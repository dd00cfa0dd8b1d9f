package jobs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// quiet returns a logger that drops every record below the level of a warning. River logs
// each job at a lower level.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(atLeast{log.Handler(), slog.LevelWarn}) }

// atLeast is a log handler that drops the records below a level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(attrs), h.level}
}
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}

// rarelyEvery is the time between two records of the same kind.
const rarelyEvery = time.Minute

// rarely limits the records of each kind to one a minute. The zero value is ready for use. It
// is safe for concurrent use.
type rarely struct {
	mu    sync.Mutex
	kinds map[string]*suppressed
}

// suppressed counts the records of one kind that were not logged since the last one.
type suppressed struct {
	last time.Time
	n    int
}

// due reports whether a record of the given kind may be logged, and how many records of the
// kind were not logged before it.
func (r *rarely) due(kind string) (due bool, notLogged int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kinds == nil {
		r.kinds = map[string]*suppressed{}
	}
	s := r.kinds[kind]
	if s == nil {
		s = &suppressed{}
		r.kinds[kind] = s
	}
	if now := time.Now(); s.last.IsZero() || now.Sub(s.last) >= rarelyEvery {
		notLogged = s.n
		s.last, s.n = now, 0
		return true, notLogged
	}
	s.n++
	return false, 0
}
