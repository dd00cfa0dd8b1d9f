package jobs

import (
	"context"
	"sync"

	"github.com/google/uuid"
)

// submitsPerOwner is the largest number of concurrent submits of one owner in a
// process. It is smaller than the default size of a connection pool, which is ten or
// more.
const submitsPerOwner = 4

// ownerSemaphore limits the concurrent submits of each owner. The transactions of one
// owner wait for each other in checkQuota. Without the semaphore, each waiting
// transaction would occupy a connection.
type ownerSemaphore struct {
	mu     sync.Mutex
	owners map[uuid.UUID]*slots
}

type slots struct {
	taken chan struct{} // holds one element for each slot in use
	users int           // callers that hold a slot or wait for one
}

// acquire blocks until the owner has a free slot. The caller must call release.
func (s *ownerSemaphore) acquire(ctx context.Context, owner uuid.UUID) (release func(), err error) {
	s.mu.Lock()
	own := s.owners[owner]
	if own == nil {
		own = &slots{taken: make(chan struct{}, submitsPerOwner)}
		s.owners[owner] = own
	}
	own.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(s.owners, owner)
		}
	}
	select {
	case own.taken <- struct{}{}:
		return func() { <-own.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
