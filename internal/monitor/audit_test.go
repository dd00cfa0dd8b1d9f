package monitor_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"colophon/events/receipt"
	"colophon/internal/monitor"
)

// TestLogsOfAllShapesAreProven audits logs whose tiles are full, partial and missing in all
// ways. The path of tile 1234067 is the example of c2sp.org/tlog-tiles, and so is the size
// 70,000.
func TestLogsOfAllShapesAreProven(t *testing.T) {
	t.Parallel()
	if got := monitor.Path(-1, 1234067, 8); got != "tile/entries/x001/x234/067.p/8" {
		t.Error(got)
	}
	for _, size := range []int{0, 1, 2, 255, 256, 257, 511, 512, 600, 65535, 65536, 65537, 70_000} {
		f, now := newLog(size, nil)
		var earlier []receipt.Checkpoint
		for _, n := range []int{0, 1, 256, 300, size} {
			if n <= size {
				_, c := newLog(n, nil)
				earlier = append(earlier, c)
			}
		}
		a, err := audit(t, f, now, earlier...)
		if err != nil || a.First != nil || a.Entries != now.Size {
			t.Errorf("%d entries: %+v, %v", size, a, err)
			continue
		}
		tiles := 0
		for path := range f {
			if !strings.HasPrefix(path, "tile/entries") {
				tiles++
			}
		}
		if a.Tiles != int64(tiles) {
			t.Errorf("%d entries: %d tiles were compared, and the log has %d", size, a.Tiles, tiles)
		}
	}
}

// TestTamperedFilesAreNamed changes the files of a log. Its checkpoint stays. Each change must
// be found and named.
func TestTamperedFilesAreNamed(t *testing.T) {
	t.Parallel()
	f, now := newLog(70_000, nil)
	forged, forgedNow := newLog(70_000, func(n int, e *[32]byte) {
		if n == 1000 {
			e[0] ^= 1
		}
	})
	_, earlier := newLog(5000, nil)
	_, other := newLog(5000, func(n int, e *[32]byte) { e[0]++ })
	_, larger := newLog(70_001, nil)
	both := func(paths ...string) files {
		changed := maps.Clone(f)
		for _, path := range paths {
			changed[path] = forged[path]
		}
		return changed
	}
	for name, c := range map[string]struct {
		files   http.Handler
		now     receipt.Checkpoint
		earlier receipt.Checkpoint
		want    string
	}{
		"an entry":                   {f.with(t, "tile/entries/003", flip(232*34+2)), now, earlier, "entry 1000: the entry in tile/entries/003 is wrong: the checkpoint has signed the hash in tile/0/003"},
		"the last entry":             {f.with(t, "tile/entries/273.p/112", flip(111*34+33)), now, earlier, "entry 69999: the entry in tile/entries/273.p/112 is wrong"},
		"a hash of level 0":          {f.with(t, "tile/0/003", flip(232*32)), now, earlier, "entry 1000: the hash in tile/0/003 is wrong: the checkpoint has signed the entry in tile/entries/003"},
		"the last hash of level 0":   {f.with(t, "tile/0/273.p/112", flip(112*32-1)), now, earlier, "entry 69999: the hash in tile/0/273.p/112 is wrong"},
		"a hash of level 1":          {f.with(t, "tile/1/000", flip(3*32)), now, earlier, "entries 768 to 1023: hash 3 of tile/1/000 is not the one of these entries"},
		"the last hash of level 1":   {f.with(t, "tile/1/001.p/17", flip(17*32-1)), now, earlier, "entries 69632 to 69887: hash 16 of tile/1/001.p/17"},
		"a hash of level 2":          {f.with(t, "tile/2/000.p/1", flip(0)), now, earlier, "entries 0 to 65535: hash 0 of tile/2/000.p/1"},
		"an entry and its hash":      {both("tile/entries/003", "tile/0/003"), now, earlier, "entries 768 to 1023: hash 3 of tile/1/000 is not"},
		"an entry and all hashes":    {forged, now, earlier, "entries 0 to 4999: an earlier checkpoint has signed other ones"},
		"all, and no earlier one":    {forged, now, receipt.Checkpoint{}, "entries 0 to 69999: the checkpoint has signed other ones"},
		"a signed fork":              {forged, forgedNow, earlier, "entries 0 to 4999: an earlier checkpoint has signed other ones"},
		"an earlier fork":            {f, now, other, "entries 0 to 4999: an earlier checkpoint has signed other ones"},
		"both, in different ways":    {f.with(t, "tile/entries/003", flip(2)).with(t, "tile/0/003", flip(0)), now, earlier, "entry 768: tile/entries/003 and tile/0/003 do not belong together"},
		"a swap of bundles":          {f.with(t, "tile/entries/003", func([]byte) []byte { return f["tile/entries/004"] }), now, earlier, "entry 768: the entry in tile/entries/003 is wrong"},
		"a loss of the last entries": {f, now, larger, "the log has 70000 events, and an earlier checkpoint has 70001: events are lost or hidden"},
	} {
		a, err := audit(t, c.files, c.now, c.earlier)
		if err != nil || a.First == nil || !strings.HasPrefix(a.First.String(), c.want) || a.Faults < 1 {
			t.Errorf("%s: %+v, %v, want %q", name, a, err, c.want)
		}
	}
}

// TestFilesThatAreNotOfALogEndTheAudit removes files, or replaces them by others than those
// that a log has. Nothing is proven or refuted by that.
func TestFilesThatAreNotOfALogEndTheAudit(t *testing.T) {
	t.Parallel()
	f, now := newLog(600, nil)
	remove := func([]byte) []byte { return nil }
	for name, c := range map[string]struct {
		files files
		want  string
	}{
		"no bundle":         {f.with(t, "tile/entries/001", remove), "fetch https://log.example/log/tile/entries/001: it does not exist there: the server answers 404 Not Found"},
		"no last bundle":    {f.with(t, "tile/entries/002.p/88", remove), "tile/entries/002.p/88: it does not exist there"},
		"no tile":           {f.with(t, "tile/0/001", remove), "tile/0/001: it does not exist there"},
		"no tile above":     {f.with(t, "tile/1/000.p/2", remove), "tile/1/000.p/2: it does not exist there"},
		"a short tile":      {f.with(t, "tile/0/001", func(b []byte) []byte { return b[:255*32] }), "tile/0/001: the answer has 8160 bytes, want 8192"},
		"a long tile":       {f.with(t, "tile/0/002.p/88", func(b []byte) []byte { return append(b, b...) }), "tile/0/002.p/88: the answer has more than 2816 bytes"},
		"an empty tile":     {f.with(t, "tile/0/001", func(b []byte) []byte { return b[:0:0] }), "the answer has 0 bytes"},
		"no whole number":   {f.with(t, "tile/0/001", func(b []byte) []byte { return b[:100] }), "the answer has 100 bytes"},
		"a short bundle":    {f.with(t, "tile/entries/001", func(b []byte) []byte { return b[34:] }), "tile/entries/001: the answer has 8670 bytes, want 8704"},
		"other entries":     {f.with(t, "tile/entries/001", func(b []byte) []byte { b[34+1] = 31; return b }), "tile/entries/001: entry 257 has 31 bytes, want 32"},
		"an endless length": {f.with(t, "tile/entries/001", func(b []byte) []byte { b[0] = 0xff; return b }), "entry 256 has 65312 bytes"},
	} {
		a, err := audit(t, c.files, now)
		if err == nil || a.First != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, want %q", name, a, err, c.want)
		}
	}
	// A fault that was found before counts.
	a, err := audit(t, f.with(t, "tile/entries/000", flip(2)).with(t, "tile/0/001", remove), now)
	if err == nil || a.First == nil || a.First.String() != "entry 0: the hash in the tile of level 0 is not the one of the entry" {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestLogThatGrowsIsProven audits a log that grows after its checkpoint and removes partial
// tiles when the full ones exist.
func TestLogThatGrowsIsProven(t *testing.T) {
	t.Parallel()
	_, now := newLog(70_000, nil)
	grown, _ := newLog(2*65536, nil)
	var mu sync.Mutex
	asked := map[string]bool{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[strings.TrimPrefix(r.URL.Path, "/log/")] = true
		mu.Unlock()
		grown.ServeHTTP(w, r)
	})
	if a, err := audit(t, h, now); err == nil || a.First != nil || !strings.Contains(err.Error(), "tile/2/000.p/1: it does not exist there") {
		t.Errorf("%+v, %v, want that only the tile of level 2 is missing", a, err)
	}
	grown["tile/2/000.p/1"] = grown["tile/2/000.p/2"][:32]
	a, err := audit(t, h, now)
	if err != nil || a.First != nil || a.Entries != now.Size {
		t.Errorf("%+v, %v", a, err)
	}
	for _, path := range []string{"tile/entries/273.p/112", "tile/entries/273", "tile/0/273.p/112", "tile/0/273", "tile/1/001.p/17", "tile/1/001"} {
		if !asked[path] {
			t.Errorf("%s was not asked for", path)
		}
	}
	changed := grown.with(t, "tile/0/273", flip(111*32))
	if a, err := audit(t, changed, now); err != nil || a.First == nil || !strings.HasPrefix(a.First.String(), "entry 69999: ") {
		t.Errorf("%+v, %v", a, err)
	}
	changed = grown.with(t, "tile/0/273", flip(112*32)) // is not in the tree of the checkpoint
	if a, err := audit(t, changed, now); err != nil || a.First != nil {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestProgressIsShown expects a call for each bundle, up to the size of the log.
func TestProgressIsShown(t *testing.T) {
	t.Parallel()
	f, now := newLog(600, nil)
	var shown []string
	_, err := open(t, "http://log.example/log", transport{f}).Audit(t.Context(), now, nil, func(done, total int) {
		shown = append(shown, fmt.Sprintf("%d/%d", done, total))
	})
	if got := strings.Join(shown, " "); err != nil || got != "256/600 512/600 600/600" {
		t.Errorf("%q, %v", got, err)
	}
}
