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

// Follow yields the events of a stream after a version as they come, in
// batches. An empty batch says that nothing came for a beat. The sequence ends
// with an error, ctx's among them, or when the caller stops; it does not end
// with the job, nor with the database: until that is back, nothing comes.
func (s *Store) Follow(ctx context.Context, stream Stream, after int, beat time.Duration) iter.Seq2[[]Event, error] {
	return func(yield func([]Event, error) bool) {
		// Subscribe, then read, then wait: what commits in between is either
		// read or announced.
		f := s.hub.subscribe(stream)
		defer s.hub.unsubscribe(stream, f)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for ask, quiet := true, false; ; {
			var batch []Event
			var err error
			known := false
			if !ask {
				batch, known = s.hub.fresh(stream, f, after)
			}
			if !known {
				batch, err = s.Read(ctx, stream, after)
			}
			var again <-chan time.Time
			switch ask = err != nil; {
			case !ask:
			case ctx.Err() == nil && pg.Unavailable(err):
				again = time.After(readAgain)
			default:
				yield(nil, err)
				return
			}
			if len(batch) > 0 {
				after = batch[len(batch)-1].Version
				tick.Reset(beat)
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
			case <-again:
			case <-tick.C:
				ask, quiet = true, true // a lost wake-up costs no more than a beat
			}
		}
	}
}

// Accounts returns a channel that holds a value when any process may have
// appended to the stream of any account, and what ends that.
func (s *Store) Accounts() (wake <-chan struct{}, end func()) {
	f := s.hub.subscribe(anyAccount)
	return f.wake, func() { s.hub.unsubscribe(anyAccount, f) }
}

// readAgain is how long a follower waits after the database was not there.
const readAgain = 500 * time.Millisecond

func nudge(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default: // one is waiting already
	}
}

// channel is the LISTEN/NOTIFY channel; its payloads are the name of a stream, a
// space and the name of the store that appended to it.
const channel = "colophon_events"

// announceEvery is the least time between two announcements of a process:
// appends that follow each other closely share one.
const announceEvery = 25 * time.Millisecond

// announcements collects the streams that have something new.
type announcements struct {
	mu      *sync.Mutex
	pending map[Stream]struct{}
	some    chan struct{} // holds one value while pending may not be empty
}

func newAnnouncements() announcements {
	return announcements{mu: &sync.Mutex{}, pending: map[Stream]struct{}{}, some: make(chan struct{}, 1)}
}

func (a *announcements) add(stream Stream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending[stream] = struct{}{}
	nudge(a.some)
}

func (a *announcements) take() []Stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	streams := slices.Collect(maps.Keys(a.pending))
	clear(a.pending)
	return streams
}

// Run announces what this process appends and hears what any process announces,
// over one connection each way, until ctx is done. It reconnects by itself.
// ready, if it is not nil, is called once announcements are heard.
func (s *Store) Run(ctx context.Context, ready func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.announce(ctx) })
	wait := retry.Backoff{First: 50 * time.Millisecond, Max: 2 * time.Second}
	listen := func() error {
		return s.listen(ctx, func() {
			wait.Reset()
			// What was announced while nobody listened is made up for.
			s.hub.unheard()
			if ready != nil {
				ready()
				ready = nil
			}
		})
	}
	_ = retry.Do(ctx, listen, func(err error) (time.Duration, bool) {
		s.log.WarnContext(ctx, "lost the connection that hears announcements; reconnecting", "err", err)
		return wait.Next(), true
	})
}

func (s *Store) announce(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.news.some:
		}
		s.notify(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(announceEvery):
		}
	}
	s.notify(ctx) // what was appended meanwhile
}

// notifyTimeout bounds one announcement.
const notifyTimeout = 2 * time.Second

// notify announces what is pending. It does so after ctx has ended too:
// followers elsewhere should not wait a beat for a process's last words.
func (s *Store) notify(ctx context.Context) {
	streams := s.news.take()
	if len(streams) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notifyTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `select pg_notify($1, stream || ' ' || $3) from unnest($2::text[]) as stream`, channel, streams, s.name)
	if err != nil {
		// Followers look for themselves at the next beat.
		s.log.WarnContext(ctx, "could not announce events", "streams", len(streams), "err", err)
	}
}

func (s *Store) listen(ctx context.Context, heard func()) error {
	// Not from the pool: this connection is never given back.
	config := s.pool.Config().ConnConfig.Copy()
	config.RuntimeParams["application_name"] += " listen" // so that pg_stat_activity tells it apart
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
		return err
	}
	heard()
	for {
		n, err := s.wait(ctx, conn)
		if err != nil {
			return err
		}
		if n != nil {
			if stream, by, _ := strings.Cut(n.Payload, " "); by != s.name { // which has woken its own
				s.hub.announced(Stream(stream))
			}
		}
	}
}

const (
	// listenCheck is for how long nothing may be heard until the server is asked
	// whether it is still there, and checkTimeout how long it may take to answer:
	// a connection that was cut without a word says nothing either.
	listenCheck  = 5 * time.Second
	checkTimeout = 2 * time.Second
)

// wait returns the next announcement, or nil if there was none for long.
func (s *Store) wait(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, listenCheck)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	if err == nil || quiet.Err() == nil || ctx.Err() != nil {
		return n, err
	}
	check, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if err := conn.Ping(check); err != nil {
		return nil, err
	}
	return n, nil
}
