package events

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whatever order commits, their news and the wake-ups of a follower come in, it
// gets every event once and in order, without a beat.
func TestFollowersMissNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const stream = Stream("job/1")
		var h hub
		var onRecord []Event
		var news []func() // that are under way, in any order
		appendEvents := func(n int) []Event {
			first := len(onRecord)
			for range n {
				onRecord = append(onRecord, Event{Stream: stream, Version: len(onRecord) + 1})
			}
			return slices.Clone(onRecord[first:])
		}
		f := h.subscribe(stream)
		got, asked := 0, 0
		follow := func(ask bool) { // a round of Follow
			var batch []Event
			known := false
			if !ask {
				batch, known = h.fresh(stream, f, got)
			}
			if !known {
				asked++
				batch = onRecord[got:]
			}
			for _, e := range batch {
				if e.Version != got+1 {
					t.Fatalf("version %d came after %d", e.Version, got)
				}
				got++
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append here": func(t *rapid.T) {
				events := appendEvents(rapid.IntRange(1, 40).Draw(t, "events"))
				news = append(news, func() { h.appended(stream, events) })
			},
			"append elsewhere": func(t *rapid.T) {
				appendEvents(rapid.IntRange(1, 3).Draw(t, "events"))
				news = append(news, func() { h.announced(stream) })
			},
			"news": func(t *rapid.T) {
				if len(news) == 0 {
					t.Skip("there is none")
				}
				i := rapid.IntRange(0, len(news)-1).Draw(t, "which")
				news[i]()
				news = slices.Delete(news, i, i+1)
			},
			"wake": func(t *rapid.T) {
				select {
				case <-f.wake:
					follow(false)
				default:
					t.Skip("asleep")
				}
			},
			"beat": func(*rapid.T) { follow(true) },
		})
		for _, tell := range news {
			tell()
		}
		for range 2 {
			select {
			case <-f.wake:
				follow(false)
			default:
			}
		}
		if got != len(onRecord) {
			t.Fatalf("%d of %d events came", got, len(onRecord))
		}
		h.unsubscribe(stream, f)
		if len(h.streams) != 0 {
			t.Error("a stream without followers is kept")
		}
	})
}

// What is appended in this process reaches its followers without a query.
func TestFollowersNeedNoDatabase(t *testing.T) {
	var h hub
	const stream = Stream("job/1")
	f := h.subscribe(stream)
	h.fresh(stream, f, 0)
	for version := 1; version <= 3*tailEvents; version++ {
		h.appended(stream, []Event{{Stream: stream, Version: version}})
		if batch, known := h.fresh(stream, f, version-1); !known || len(batch) != 1 || batch[0].Version != version {
			t.Fatalf("version %d: %v, known %t", version, batch, known)
		}
	}
	if n := len(h.streams[stream].tail); n != tailEvents {
		t.Errorf("%d events are kept, want %d", n, tailEvents)
	}
	if batch, known := h.fresh(stream, f, 3*tailEvents); !known || len(batch) != 0 {
		t.Errorf("nothing new: %v, known %t", batch, known)
	}
	if _, known := h.fresh(stream, f, 1); known {
		t.Error("what is no longer kept is said to be known")
	}
}

// What does not follow what was appended here has followers look at once, and
// not when somebody announces what lies in between, or at the next beat.
func TestFollowersAskForWhatDoesNotFollow(t *testing.T) {
	const stream = Stream("job/1")
	put := func(h *hub, version int) { h.appended(stream, []Event{{Stream: stream, Version: version}}) }
	for what, next := range map[string]int{"others append as well": 4, "two commits come in the other order": 3, "what has been seen comes again": 1} {
		var h hub
		f := h.subscribe(stream)
		put(&h, 1)
		<-f.wake
		if batch, known := h.fresh(stream, f, 0); !known || len(batch) != 1 {
			t.Fatalf("%s: %v, known %t", what, batch, known)
		}
		put(&h, next)
		select {
		case <-f.wake:
		default:
			t.Errorf("%s: the follower sleeps on", what)
		}
		if batch, known := h.fresh(stream, f, 1); known {
			t.Errorf("%s: %v is said to be all there is", what, batch)
		}
	}
}
