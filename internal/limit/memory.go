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

// memory counts requests within this process. It counts single requests like go-limiter's
// memory store, which has no bound on its keys.
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

// take is described at store.
func (m *memory) take(_ context.Context, key string, n, most uint64) (c Count, undo func(context.Context) error, err error) {
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
	c.Limit, c.Reset = min(m.rate.Requests, most), w.ends.Sub(now)
	reserved := m.rate.Requests - c.Limit // beyond the key's own limit
	if c.OK = w.left >= reserved && w.left-reserved >= n; c.OK {
		w.left -= n
	}
	c.Remaining = w.left - min(w.left, reserved)
	if !c.OK {
		return c, nil, nil
	}
	ends := w.ends
	return c, func(context.Context) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if w.ends.Equal(ends) {
			w.left += n
		}
		return nil
	}, nil
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
