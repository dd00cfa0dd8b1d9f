package pg

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// silence is the time without an answer after which a statement looks for another server
// that accepts writes. A second such look follows after the same time.
const silence = time.Second

// takeover moves a pool away from a primary that does not answer any more, once another
// host of the URL accepts writes. A primary whose machine is frozen or cut off ends no
// connection. Without a takeover, the statements there would fill the pool until their
// deadlines. A slow primary loses no connection, because its standbys accept no writes.
type takeover struct {
	mu          sync.Mutex // held by the only look
	connections *connections
	connect     func(context.Context) (*pgx.Conn, error)
}

// await looks for a takeover again and again, until ctx ends. ctx is the context of a
// statement that the given server has not answered.
func (t *takeover) await(ctx context.Context, server string) {
	tick := time.NewTicker(silence)
	defer tick.Stop()
	for ctx.Err() == nil && !t.look(ctx, server) {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// look drops the connections to the server and returns true if a new connection, for
// which the hosts are tried in their order, leads to another server. While one statement
// looks, others do not.
func (t *takeover) look(ctx context.Context, server string) bool {
	if !t.mu.TryLock() {
		return false
	}
	defer t.mu.Unlock()
	conn, err := t.connect(ctx)
	if err != nil {
		return false // no host accepts writes at present
	}
	defer conn.Close(ctx)
	if conn.PgConn().Conn().RemoteAddr().String() == server {
		return false
	}
	t.connections.drop(server, nil)
	return true
}
