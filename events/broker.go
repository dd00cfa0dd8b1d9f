package events

import (
	"slices"
	"strings"
	"sync"
)

// broker wakes the followers of streams. It also keeps the latest events that this
// process appended to each followed stream. A follower close to the end of a stream
// therefore needs no query. The zero broker is ready for use.
type broker struct {
	mu     sync.Mutex
	topics map[Stream]*topic
}

// topic holds the followers of a stream, and the stream's latest events.
type topic struct {
	followers map[*follower]struct{}
	tail      []Event // the latest committed events that this process appended, without a gap
}

// tailEvents is the maximum number of events in a tail. A follower that needs earlier
// events reads the database.
const tailEvents = 32

// follower is one reader's subscription to a stream. A reader of several streams has one for
// each, with the same channel.
type follower struct {
	wake  chan struct{} // holds one value while a stream may have new events
	woken bool          // this stream may have new events

	// stale is true if the database may have later events than the topic's tail.
	stale bool
}

// wakeUp tells the reader that the stream may have new events. The caller holds broker.mu.
func (f *follower) wakeUp() {
	f.woken = true
	wakeUp(f.wake)
}

// subscribe adds a follower of a stream. The channel wake must have room for one value.
func (b *broker) subscribe(stream Stream, wake chan struct{}) *follower {
	f := &follower{wake: wake}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics == nil {
		b.topics = map[Stream]*topic{}
	}
	t := b.topics[stream]
	if t == nil {
		t = &topic{followers: map[*follower]struct{}{}}
		b.topics[stream] = t
	}
	t.followers[f] = struct{}{}
	return f
}

func (b *broker) unsubscribe(stream Stream, f *follower) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[stream]
	delete(t.followers, f)
	if len(t.followers) == 0 {
		delete(b.topics, stream)
	}
}

// appended wakes the followers of a stream to which this process has appended
// events. The events must be committed.
func (b *broker) appended(stream Stream, events []Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wakeAccountFollowers(stream)
	t := b.topics[stream]
	if t == nil {
		return
	}
	_, erased := events[len(events)-1].Fact.(JobErased)
	if n := len(t.tail); erased || n > 0 && t.tail[n-1].Version+1 != events[0].Version {
		// The texts in memory are not given to followers any more. Or another process has
		// appended too, or two commits of this process are reported out of order.
		t.tail = nil
		t.markStale()
		return
	}
	all := append(slices.Clip(t.tail), events...) // append must copy the tail, because followers may still read the old tail
	t.tail = all[max(0, len(all)-tailEvents):]
	for f := range t.followers {
		f.wakeUp()
	}
}

// announced wakes the followers of a stream to which another process has appended.
func (b *broker) announced(stream Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wakeAccountFollowers(stream)
	if t := b.topics[stream]; t != nil {
		t.markStale()
	}
}

// anyAccount is the topic for followers of all accounts. It names no real stream.
const anyAccount Stream = "account/"

// wakeAccountFollowers wakes the followers of anyAccount if the stream belongs to an
// account. The caller holds b.mu.
func (b *broker) wakeAccountFollowers(stream Stream) {
	if t := b.topics[anyAccount]; t != nil && strings.HasPrefix(string(stream), string(anyAccount)) {
		t.markStale()
	}
}

// announcementsLost wakes all followers, because any stream may have new events.
func (b *broker) announcementsLost() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.topics {
		t.markStale()
	}
}

func (t *topic) markStale() {
	for f := range t.followers {
		f.stale = true
		f.wakeUp()
	}
}

// woken reports whether the stream of f may have new events since the last call.
func (b *broker) woken(f *follower) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { f.woken = false }()
	return f.woken
}

// cached returns from memory the events that have a later version than after. If ok is
// false, the follower f must read these events from the database. That read brings f up
// to date, so cached then clears f.stale.
func (b *broker) cached(stream Stream, f *follower, after int) (events []Event, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	tail := b.topics[stream].tail
	if f.stale || len(tail) == 0 || after+1 < tail[0].Version {
		f.stale = false
		return nil, false
	}
	return tail[min(after+1-tail[0].Version, len(tail)):], true
}

// wakeUp puts a value into the channel wake, unless a value is waiting in it already.
// The channel must have room for one value.
func wakeUp(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default: // nothing to do, because a value is waiting already
	}
}
