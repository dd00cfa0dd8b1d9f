package events

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"colophon/internal/pg"
	"colophon/internal/retry"
)

// Follow yields the events of a stream after a version as they are appended, in
// batches. It yields an empty batch if nothing arrives for the time of heartbeat.
//
// The sequence ends when the caller stops, or with an error such as ctx's. It does
// not end with the job. While the database is unavailable it yields nothing and
// tries again.
func (s *Store) Follow(ctx context.Context, stream Stream, after int, heartbeat time.Duration) iter.Seq2[[]Event, error] {
	return func(yield func([]Event, error) bool) {
		// The order is subscribe, read, wait. An event that commits in between is
		// either read or announced.
		f := s.broker.subscribe(stream)
		defer s.broker.unsubscribe(stream, f)
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for mustRead, quiet := true, false; ; {
			var batch []Event
			var err error
			cached := false
			if !mustRead {
				batch, cached = s.broker.cached(stream, f, after)
			}
			if !cached {
				batch, err = s.Read(ctx, stream, after)
			}
			var retryRead <-chan time.Time
			switch mustRead = err != nil; {
			case !mustRead:
			case ctx.Err() == nil && pg.Unavailable(err):
				retryRead = time.After(readRetryDelay)
			default:
				yield(nil, err)
				return
			}
			if len(batch) > 0 {
				after = batch[len(batch)-1].Version
				tick.Reset(heartbeat)
			}
			if (len(batch) > 0 || quiet) && !yield(batch, nil) {
				return
			}
			quiet = false
			select {
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			case <-f.wake:
			case <-retryRead:
			case <-tick.C:
				mustRead, quiet = true, true // so a lost announcement delays an event by one heartbeat
			}
		}
	}
}

// Accounts returns a channel that receives a value when any process may have
// appended to the stream of any account. The caller calls unsubscribe at the end.
func (s *Store) Accounts() (wake <-chan struct{}, unsubscribe func()) {
	f := s.broker.subscribe(anyAccount)
	return f.wake, func() { s.broker.unsubscribe(anyAccount, f) }
}

// readRetryDelay is how long a follower waits after the database was unavailable.
const readRetryDelay = 500 * time.Millisecond

// channel is the LISTEN/NOTIFY channel. A payload is the name of a stream, a space
// and the name of the store that appended to it.
const channel = "colophon_events"

// announceEvery is the least time between two announcements of a process. Appends
// in quick succession share an announcement.
const announceEvery = 25 * time.Millisecond

// announcements collects the streams that this process has yet to announce.
type announcements struct {
	mu      *sync.Mutex
	pending map[Stream]struct{}
	wake    chan struct{} // holds one value while pending may not be empty
}

func newAnnouncements() announcements {
	return announcements{mu: &sync.Mutex{}, pending: map[Stream]struct{}{}, wake: make(chan struct{}, 1)}
}

func (a *announcements) add(stream Stream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending[stream] = struct{}{}
	wakeUp(a.wake)
}

func (a *announcements) take() []Stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	streams := slices.Collect(maps.Keys(a.pending))
	clear(a.pending)
	return streams
}

// Run announces what this process appends and listens for the announcements of all
// processes until ctx is done. It reconnects by itself. ready, if it is not nil, is
// called once, when Run listens.
func (s *Store) Run(ctx context.Context, ready func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.announce(ctx) })
	wait := retry.Backoff{First: 50 * time.Millisecond, Max: 2 * time.Second}
	listen := func() error {
		return s.listen(ctx, func() {
			wait.Reset()
			s.broker.announcementsLost() // those made while there was no connection
			if ready != nil {
				ready()
				ready = nil
			}
		})
	}
	_ = retry.Do(ctx, listen, func(err error) (time.Duration, bool) {
		s.log.WarnContext(ctx, "listening connection lost, reconnecting", "err", err)
		return wait.Next(), true
	})
}

func (s *Store) announce(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.announcements.wake:
		}
		s.notify(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(announceEvery):
		}
	}
	s.notify(ctx) // the appends since the last announcement
}

// notifyTimeout bounds one announcement.
const notifyTimeout = 2 * time.Second

// notify announces the pending streams. It does so even after ctx has ended, so
// that followers elsewhere see the last events of a stopping process at once.
func (s *Store) notify(ctx context.Context) {
	streams := s.announcements.take()
	if len(streams) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notifyTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `select pg_notify($1, stream || ' ' || $3) from unnest($2::text[]) as stream`, channel, streams, s.name)
	if err != nil {
		// Followers read the events at their next heartbeat.
		s.log.WarnContext(ctx, "events not announced", "streams", len(streams), "err", err)
	}
}

// listen passes announcements to the broker until its connection fails. It calls
// listening when the connection listens.
func (s *Store) listen(ctx context.Context, listening func()) error {
	// The connection does not come from the pool, because it is never given back.
	config := s.pool.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] += " listen" // tells it apart in pg_stat_activity
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
		return err
	}
	listening()
	for {
		n, err := s.nextNotification(ctx, conn)
		if err != nil {
			return err
		}
		if n != nil {
			// A store's own announcements are skipped: it has woken its followers.
			if stream, by, _ := strings.Cut(n.Payload, " "); by != s.name {
				s.broker.announced(Stream(stream))
			}
		}
	}
}

const (
	// defaultListenCheck is how long the listening connection may be silent before
	// it is checked. A connection that was cut silently reports no error.
	defaultListenCheck = 5 * time.Second

	// defaultListenCheckTimeout bounds the check.
	defaultListenCheckTimeout = 2 * time.Second
)

// nextNotification returns the next notification. It returns nil if there was none
// for a while and the connection is sound.
func (s *Store) nextNotification(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, s.listenCheck)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	if err == nil || quiet.Err() == nil || ctx.Err() != nil {
		return n, err
	}
	check, cancel := context.WithTimeout(ctx, s.listenCheckTimeout)
	defer cancel()
	if err := conn.Ping(check); err != nil {
		return nil, err
	}
	return n, nil
}
