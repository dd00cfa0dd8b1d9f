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

// ownerSemaphore limits how many calls of each owner run at a time. For submits, it saves
// connections: the transactions of one owner wait for each other in checkQuota, and each
// waiting transaction would occupy a connection.
type ownerSemaphore struct {
	most int // number of slots of each owner

	mu     sync.Mutex
	owners map[uuid.UUID]*slots
}

func newOwnerSemaphore(most int) *ownerSemaphore {
	return &ownerSemaphore{most: most, owners: map[uuid.UUID]*slots{}}
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
		own = &slots{taken: make(chan struct{}, s.most)}
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
