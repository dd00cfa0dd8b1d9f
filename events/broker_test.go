package events

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestFollowerMissesNoEvent makes commits, announcements and wake-ups in random order.
// The follower must get every event exactly once and in order, without waiting for a
// heartbeat.
func TestFollowerMissesNoEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const stream = Stream("job/1")
		var b broker
		var committed []Event
		var calls []func() // calls of the broker's methods that have not been made yet; they may be made in any order
		appendEvents := func(n int) []Event {
			first := len(committed)
			for range n {
				committed = append(committed, Event{Stream: stream, Version: len(committed) + 1})
			}
			return slices.Clone(committed[first:])
		}
		f := b.subscribe(stream, make(chan struct{}, 1))
		got := 0
		follow := func(mustRead bool) { // one iteration of Follow's loop
			var batch []Event
			cached := false
			if !mustRead {
				batch, cached = b.cached(stream, f, got)
			}
			if !cached {
				batch = committed[got:]
			}
			for _, e := range batch {
				if e.Version != got+1 {
					t.Fatalf("version %d follows %d", e.Version, got)
				}
				got++
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append here": func(t *rapid.T) {
				events := appendEvents(rapid.IntRange(1, 40).Draw(t, "events"))
				calls = append(calls, func() { b.appended(stream, events) })
			},
			"append elsewhere": func(t *rapid.T) {
				appendEvents(rapid.IntRange(1, 3).Draw(t, "events"))
				calls = append(calls, func() { b.announced(stream) })
			},
			"call the broker": func(t *rapid.T) {
				if len(calls) == 0 {
					t.Skip("no call to make")
				}
				i := rapid.IntRange(0, len(calls)-1).Draw(t, "which")
				calls[i]()
				calls = slices.Delete(calls, i, i+1)
			},
			"wake": func(t *rapid.T) {
				select {
				case <-f.wake:
					follow(false)
				default:
					t.Skip("not woken")
				}
			},
			"heartbeat": func(*rapid.T) { follow(true) },
		})
		for _, call := range calls {
			call()
		}
		for range 2 {
			select {
			case <-f.wake:
				follow(false)
			default:
			}
		}
		if got != len(committed) {
			t.Fatalf("%d of %d events received", got, len(committed))
		}
		b.unsubscribe(stream, f)
		if len(b.topics) != 0 {
			t.Error("a topic without followers is kept")
		}
	})
}

// TestLocalFollowersNeedNoQuery appends events in the follower's own process. The
// follower must get the events from memory, without a query.
func TestLocalFollowersNeedNoQuery(t *testing.T) {
	var b broker
	const stream = Stream("job/1")
	f := b.subscribe(stream, make(chan struct{}, 1))
	b.cached(stream, f, 0)
	for version := 1; version <= 3*tailEvents; version++ {
		b.appended(stream, []Event{{Stream: stream, Version: version}})
		if batch, cached := b.cached(stream, f, version-1); !cached || len(batch) != 1 || batch[0].Version != version {
			t.Fatalf("version %d: %v, cached %t", version, batch, cached)
		}
	}
	if n := len(b.topics[stream].tail); n != tailEvents {
		t.Errorf("%d events in the tail, want %d", n, tailEvents)
	}
	if batch, cached := b.cached(stream, f, 3*tailEvents); !cached || len(batch) != 0 {
		t.Errorf("at the end of the stream: %v, cached %t", batch, cached)
	}
	if _, cached := b.cached(stream, f, 1); cached {
		t.Error("version 2 is cached after its removal")
	}
}

// TestFollowersReadTheDatabaseAfterAGap makes a gap in the events that this process
// appends. Followers must then read the database at once. They must not wait for an
// announcement or a heartbeat.
func TestFollowersReadTheDatabaseAfterAGap(t *testing.T) {
	const stream = Stream("job/1")
	put := func(b *broker, version int) { b.appended(stream, []Event{{Stream: stream, Version: version}}) }
	for name, next := range map[string]int{"another process appends too": 4, "two commits in the other order": 3, "repeated event": 1} {
		var b broker
		f := b.subscribe(stream, make(chan struct{}, 1))
		put(&b, 1)
		<-f.wake
		if batch, cached := b.cached(stream, f, 0); !cached || len(batch) != 1 {
			t.Fatalf("%s: %v, cached %t", name, batch, cached)
		}
		put(&b, next)
		select {
		case <-f.wake:
		default:
			t.Errorf("%s: the follower is not woken", name)
		}
		if batch, cached := b.cached(stream, f, 1); cached {
			t.Errorf("%s: %v is returned as complete", name, batch)
		}
	}
}
