package jobs

import (
	"context"
	"sync"

	"github.com/google/uuid"
)

// atOnce is how many submits of one owner a process makes at once: pools have
// ten connections and more.
const atOnce = 4

// turns lets few at a time of each owner go to the database. Postgres makes
// them wait for each other at the end, each with a connection that others could use.
type turns struct {
	mu sync.Mutex
	of map[uuid.UUID]*turn
}

type turn struct {
	taken chan struct{} // holds an element for each who has one
	users int           // who have one or wait for one
}

// wait returns when it is one of the owner's turn; call done when it is over.
func (t *turns) wait(ctx context.Context, owner uuid.UUID) (done func(), err error) {
	t.mu.Lock()
	mine := t.of[owner]
	if mine == nil {
		mine = &turn{taken: make(chan struct{}, atOnce)}
		t.of[owner] = mine
	}
	mine.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(t.of, owner)
		}
	}
	select {
	case mine.taken <- struct{}{}:
		return func() { <-mine.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
