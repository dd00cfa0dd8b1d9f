package limit

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxKeys is the maximum number of keys of a limit in memory, at about 200 bytes each. A
// client with many addresses can bring many keys. Beyond maxKeys, the key that was used
// least recently is forgotten, and its next request begins a new window.
const maxKeys = 100_000

// memory counts requests within this process. It behaves like go-limiter's memory store,
// which has no bound on its keys.
type memory struct {
	rate Rate

	mu      sync.Mutex
	windows *simplelru.LRU[string, *window]
}

// window is the current window of a key.
type window struct {
	left uint64
	ends time.Time
}

func newMemory(rate Rate) (*memory, error) {
	windows, err := simplelru.NewLRU[string, *window](maxKeys, nil)
	return &memory{rate: rate, windows: windows}, err
}

// Take takes one token of a key. It is described at [Store.Take].
func (m *memory) Take(_ context.Context, key string) (tokens, remaining, reset uint64, ok bool, err error) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgetOld(now)
	w, known := m.windows.Get(key)
	if !known {
		w = &window{m.rate.Requests, now.Add(m.rate.Per)}
		m.windows.Add(key, w)
	}
	if late := now.Sub(w.ends); late >= 0 {
		w.left, w.ends = m.rate.Requests, w.ends.Add(m.rate.Per*(1+late/m.rate.Per))
	}
	if ok = w.left > 0; ok {
		w.left--
	}
	return m.rate.Requests, w.left, uint64(w.ends.UnixNano()), ok, nil
}

// forgetOld forgets keys that have had no request for a whole window after their last one.
// Each call forgets at most two keys and adds at most one, so such keys do not stay.
func (m *memory) forgetOld(now time.Time) {
	for range 2 {
		_, w, ok := m.windows.GetOldest()
		if !ok || now.Sub(w.ends) < m.rate.Per {
			return
		}
		m.windows.RemoveOldest()
	}
}
