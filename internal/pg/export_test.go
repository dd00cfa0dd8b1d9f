package pg

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Meanings returns the rows of the table of SQLSTATEs in the runbook.
func Meanings() (rows []string) {
	next := map[after]string{keeps: "kept", drops: "dropped", stops: "not made"}
	for _, code := range slices.Sorted(maps.Keys(meanings)) {
		m := meanings[code]
		state, _ := errors.AsType[interface {
			error
			Code() string
		}](m.state)
		if len(code) < 5 {
			code += "…"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | `%s` | %s |", code, m.why, state.Code(), next[m.after]))
	}
	return rows
}

// Bound returns the tracer that gives statements a deadline.
func Bound(d time.Duration) pgx.QueryTracer { return bound{limit: d} }

// Watch adds the hooks of a pool to cfg. The function open returns the number of
// connections that the hooks remember.
func Watch(cfg *pgxpool.Config) (open func() int) {
	c := watch(cfg)
	return func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.open)
	}
}
