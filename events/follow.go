package events

import (
	"cmp"
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

// Follow yields the events of a stream that have a later version than after. It yields
// the events in batches, as they are appended. After each heartbeat interval without
// events, it yields an empty batch.
//
// The sequence ends when the caller leaves the loop, or with an error such as the error
// of ctx. It does not end when the job ends. While the database is unavailable, Follow
// retries its reads and yields only empty batches.
func (s *Store) Follow(ctx context.Context, stream Stream, after int, heartbeat time.Duration) iter.Seq2[[]Event, error] {
	return func(yield func([]Event, error) bool) {
		for batch, err := range s.follow(ctx, []cursor{{stream: stream, after: after}}, heartbeat) {
			if !yield(batch.Events, err) {
				return
			}
		}
	}
}

// Followed has events of one of several streams, in order. A heartbeat has no events.
type Followed struct {
	Stream int // index of the stream
	Events []Event
}

// FollowAll is like Follow for several streams together, from their first events on. The events
// of each stream are in order. A heartbeat follows if no stream has events for that time.
func (s *Store) FollowAll(ctx context.Context, streams []Stream, heartbeat time.Duration) iter.Seq2[Followed, error] {
	all := make([]cursor, len(streams))
	for i, stream := range streams {
		all[i].stream = stream
	}
	return s.follow(ctx, all, heartbeat)
}

// cursor is the position of a reader in a stream.
type cursor struct {
	stream   Stream
	after    int // version of the last event that was read
	f        *follower
	mustRead bool // the database may have events that memory has not
}

// next returns the next events of the stream. After an error, the caller reads again.
func (s *Store) next(ctx context.Context, c *cursor) (batch []Event, err error) {
	cached := false
	if !c.mustRead {
		batch, cached = s.broker.cached(c.stream, c.f, c.after)
	}
	if !cached {
		batch, err = s.Read(ctx, c.stream, c.after)
	}
	if c.mustRead = err != nil; len(batch) > 0 {
		c.after = batch[len(batch)-1].Version
	}
	return batch, err
}

// follow yields the events after the cursors.
func (s *Store) follow(ctx context.Context, all []cursor, heartbeat time.Duration) iter.Seq2[Followed, error] {
	return func(yield func(Followed, error) bool) {
		// The subscriptions begin before the first reads, so every event is either read
		// or announced.
		wake := make(chan struct{}, 1)
		for i := range all {
			c := &all[i]
			c.f, c.mustRead = s.broker.subscribe(c.stream, wake), true
			defer s.broker.unsubscribe(c.stream, c.f)
		}
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for heartbeatDue := false; ; {
			var retryRead <-chan time.Time
			for i := range all {
				c := &all[i]
				if woken := s.broker.woken(c.f); !woken && !c.mustRead {
					continue
				}
				batch, err := s.next(ctx, c)
				if err != nil && (ctx.Err() != nil || !pg.Unavailable(err)) {
					yield(Followed{Stream: i}, err)
					return
				}
				if err != nil {
					retryRead = time.After(readRetryDelay)
					break // the other reads would fail too
				}
				if len(batch) > 0 {
					tick.Reset(heartbeat)
					heartbeatDue = false
					if !yield(Followed{i, batch}, nil) {
						return
					}
				}
			}
			if heartbeatDue && !yield(Followed{}, nil) {
				return
			}
			heartbeatDue = false
			select {
			case <-ctx.Done():
				yield(Followed{}, ctx.Err())
				return
			case <-wake:
			case <-retryRead:
			case <-tick.C:
				for i := range all {
					all[i].mustRead = true // the next reads also find events whose announcement was lost
				}
				heartbeatDue = true
			}
		}
	}
}

// WatchAccounts returns a channel that receives a value when a process may have
// appended to the stream of any account. The channel holds at most one value, so
// several appends may give only one value. The caller must call unsubscribe when it
// stops reading.
func (s *Store) WatchAccounts() (wake <-chan struct{}, unsubscribe func()) {
	f := s.broker.subscribe(anyAccount, make(chan struct{}, 1))
	return f.wake, func() { s.broker.unsubscribe(anyAccount, f) }
}

// readRetryDelay is the time after which a follower repeats a read that failed because
// the database was unavailable.
const readRetryDelay = 500 * time.Millisecond

// channel is the name of the LISTEN/NOTIFY channel. The payload of a notification
// contains the name of a stream, a space, and the name of the store that appended to the
// stream.
const channel = "colophon_events"

const (
	// announceEvery is the minimum time between two announcements of a store. Appends
	// that follow each other within this time share one announcement.
	announceEvery = 25 * time.Millisecond

	// announceSoon is the minimum time between two announcements that contain an
	// Announcement of the store's caller.
	announceSoon = 5 * time.Millisecond
)

// An Announcement is a hint to other processes, which listen on a LISTEN/NOTIFY channel.
// It is sent after the commit of the change that it announces, and it may be lost.
type Announcement struct{ Channel, Payload string }

// announcements holds what this store has not announced yet.
type announcements struct {
	mu      *sync.Mutex
	pending map[Announcement]struct{}
	wake    chan struct{} // holds one value while there may be pending announcements
	soon    chan struct{} // holds one value while some of them may wait only for announceSoon

	sending *sync.Mutex // held while announcements are sent
	sent    time.Time   // time of the last announcements that could wait only for announceSoon; guarded by sending
}

func newAnnouncements() announcements {
	return announcements{
		mu: &sync.Mutex{}, sending: &sync.Mutex{},
		pending: map[Announcement]struct{}{}, wake: make(chan struct{}, 1), soon: make(chan struct{}, 1),
	}
}

// add adds announcements that may wait for announceEvery, and announcements that may wait
// for announceSoon.
func (a *announcements) add(every, soon []Announcement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, announcement := range slices.Concat(every, soon) {
		a.pending[announcement] = struct{}{}
	}
	if len(soon) > 0 {
		wakeUp(a.soon)
	}
	wakeUp(a.wake)
}

// take returns the pending announcements. It also reports whether some of them may wait
// only for announceSoon.
func (a *announcements) take() (all []Announcement, soon bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all = slices.Collect(maps.Keys(a.pending))
	clear(a.pending)
	select {
	case <-a.soon:
		soon = true
	default:
	}
	return all, soon
}

// Announce announces a in the background. It must not be called before the commit of the
// announced change.
func (s *Store) Announce(a Announcement) { s.announcements.add(nil, []Announcement{a}) }

// Run announces this store's appends, listens for the announcements of all processes and
// keeps the clock in step, until ctx is done. It reconnects after errors. If the function
// ready is not nil, Run calls it once, when Run listens for the first time.
func (s *Store) Run(ctx context.Context, ready func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.announce(ctx) })
	wg.Go(func() { s.keepTime(ctx) })
	wg.Go(func() { s.watchLog(ctx) })
	wait := retry.Backoff{First: 50 * time.Millisecond, Max: 2 * time.Second}
	listen := func() error {
		return s.listen(ctx, func() {
			wait.Reset()
			s.broker.announcementsLost() // announcements were lost while there was no connection
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
	wait := retry.Backoff{First: announceEvery, Max: 2 * time.Second}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-s.announcements.wake:
		}
		var pause time.Duration // time in which nothing is announced
		s.announcements.sending.Lock()
		if s.notify(ctx) {
			wait.Reset()
			pause = max(0, announceSoon-time.Since(s.announcements.sent))
		} else {
			pause = wait.Next()
		}
		s.announcements.sending.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
		case <-s.announcements.soon:
		case <-time.After(announceEvery - pause):
		}
	}
	s.announcements.sending.Lock()
	defer s.announcements.sending.Unlock()
	s.notify(ctx) // announces the last appends before Run returns
}

// notifyAtOnce sends the pending announcements, and saves the time in which the goroutine
// of Run wakes up. It leaves them to Run if announcements are being sent, or if the last ones
// were sent within announceSoon.
func (s *Store) notifyAtOnce(ctx context.Context) {
	if !s.announcements.sending.TryLock() {
		return
	}
	defer s.announcements.sending.Unlock()
	if time.Since(s.announcements.sent) >= announceSoon {
		s.notify(ctx)
	}
}

// notifyTimeout bounds one announcement.
const notifyTimeout = 2 * time.Second

// notify sends the pending announcements, even if ctx is done. The followers in other
// processes therefore see the last events of a stopping process at once. notify returns
// false if the announcements are still pending. The caller must hold sending.
func (s *Store) notify(ctx context.Context) bool {
	all, soon := s.announcements.take()
	if len(all) == 0 {
		return true
	}
	if soon {
		s.announcements.sent = time.Now()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notifyTimeout)
	defer cancel()
	channels, payloads := make([]string, len(all)), make([]string, len(all))
	for i, a := range all {
		channels[i], payloads[i] = a.Channel, a.Payload
	}
	_, err := s.pool.Exec(ctx, `select pg_notify(channel, payload) from unnest($1::text[], $2::text[]) as pending (channel, payload)`, channels, payloads)
	if err != nil {
		s.announcements.add(all, nil)
		s.log.WarnContext(ctx, "events not announced, retrying", "announcements", len(all), "err", err)
	}
	return err == nil
}

// listen opens a connection and passes announcements to the broker until the connection
// fails. It calls the function listening when the connection is ready for announcements.
func (s *Store) listen(ctx context.Context, listening func()) error {
	// The connection does not come from the pool, because listen would keep it for as
	// long as the store runs.
	config := cmp.Or(s.Listener, s.pool.Config().ConnConfig).Copy()
	config.RuntimeParams["application_name"] += " listen" // identifies the connection in pg_stat_activity
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
			// This store's own announcements are skipped, because publish has already
			// woken the followers of these streams.
			if stream, by, _ := strings.Cut(n.Payload, " "); by != s.name {
				s.broker.announced(Stream(stream))
			}
		}
	}
}

const (
	// defaultListenCheck is the time for which the listening connection may be silent
	// before it is checked. Without the check, two faults would stay unnoticed. A
	// connection that was cut silently reports no error, and a server that has become
	// read-only sends no announcements.
	defaultListenCheck = 2 * time.Second

	// defaultListenCheckTimeout bounds the check of a silent connection.
	defaultListenCheckTimeout = time.Second
)

// nextNotification returns the next notification. If no notification arrives within
// listenCheck, it checks the connection, and returns nil and no error if the connection
// works and its server accepts writes.
func (s *Store) nextNotification(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, s.listenCheck)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	if err == nil || quiet.Err() == nil || ctx.Err() != nil {
		return n, err
	}
	check, cancel := context.WithTimeout(ctx, s.listenCheckTimeout)
	defer cancel()
	if err := pg.CheckWritable(check, conn); err != nil {
		return nil, err
	}
	return n, nil
}
