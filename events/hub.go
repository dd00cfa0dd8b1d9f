package events

import (
	"slices"
	"strings"
	"sync"
)

// hub wakes the followers of streams, and has what this process has appended to
// the streams that are followed: whoever has read all that came before need not
// ask the database for it.
type hub struct {
	mu      sync.Mutex
	streams map[Stream]*followed
}

// followed is a stream with followers.
type followed struct {
	followers map[*follower]struct{}
	tail      []Event // the last that were appended here, contiguous and on record
}

// tailEvents is how many events of a stream are kept for followers that are
// behind; who is further behind reads.
const tailEvents = 32

// A follower is one that follows a stream.
type follower struct {
	wake chan struct{} // holds one if there may be something new

	// There may be something that was not appended here, behind what was: the
	// database is to be asked.
	ask bool
}

func (h *hub) subscribe(stream Stream) *follower {
	f := &follower{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams == nil {
		h.streams = map[Stream]*followed{}
	}
	s := h.streams[stream]
	if s == nil {
		s = &followed{followers: map[*follower]struct{}{}}
		h.streams[stream] = s
	}
	s.followers[f] = struct{}{}
	return f
}

func (h *hub) unsubscribe(stream Stream, f *follower) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[stream]
	delete(s.followers, f)
	if len(s.followers) == 0 {
		delete(h.streams, stream)
	}
}

// appended wakes the followers of a stream to which this process has appended
// events that are on record now.
func (h *hub) appended(stream Stream, events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.account(stream)
	s := h.streams[stream]
	if s == nil {
		return
	}
	if n := len(s.tail); n > 0 && s.tail[n-1].Version+1 != events[0].Version {
		// Others append as well, or two transactions of this process have
		// committed in one order and come here in the other.
		s.tail = nil
		s.ask()
		return
	}
	all := append(slices.Clip(s.tail), events...) // not in place: followers have parts of it
	s.tail = all[max(0, len(all)-tailEvents):]
	for f := range s.followers {
		nudge(f.wake)
	}
}

// announced wakes the followers of a stream to which another process has appended.
func (h *hub) announced(stream Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.account(stream)
	if s := h.streams[stream]; s != nil {
		s.ask()
	}
}

// anyAccount stands for the streams of all accounts.
const anyAccount Stream = "account/"

// account wakes the followers of all accounts if the stream is one of theirs.
// The caller holds h.mu.
func (h *hub) account(stream Stream) {
	if s := h.streams[anyAccount]; s != nil && strings.HasPrefix(string(stream), string(anyAccount)) {
		s.ask()
	}
}

// unheard wakes all followers: there may have been announcements that nobody heard.
func (h *hub) unheard() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.streams {
		s.ask()
	}
}

func (s *followed) ask() {
	for f := range s.followers {
		f.ask = true
		nudge(f.wake)
	}
}

// fresh returns what there is after a version, if that can be said without
// asking the database.
func (h *hub) fresh(stream Stream, f *follower, after int) (events []Event, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	tail := h.streams[stream].tail
	if f.ask || len(tail) == 0 || after+1 < tail[0].Version {
		f.ask = false
		return nil, false
	}
	return tail[min(after+1-tail[0].Version, len(tail)):], true
}
