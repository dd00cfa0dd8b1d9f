package monitor_test

import (
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
	"colophon/internal/monitor"
)

// endless is a log whose entries are all the same. It needs no memory: all tiles of a level
// have the same content.
type endless struct {
	bundle []byte
	tiles  [][]byte // full tiles, by level
}

func newEndless() *endless {
	l := &endless{}
	e := entry(0)
	node := tlog.RecordHash(e[:])
	for range 256 {
		l.bundle = append(append(l.bundle, 0, 32), e[:]...)
	}
	for range 4 {
		var tile []byte
		for range 256 {
			tile = append(tile, node[:]...)
		}
		l.tiles = append(l.tiles, tile)
		for range 8 {
			node = tlog.NodeHash(node, node)
		}
	}
	return l
}

// ServeHTTP answers with a file of a log of any size.
func (l *endless) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, partial, isPartial := strings.Cut(strings.TrimPrefix(r.URL.Path, "/tile/"), ".p/")
	level, _, _ := strings.Cut(path, "/")
	content, item := l.bundle, 34
	if n, err := strconv.Atoi(level); err == nil {
		content, item = l.tiles[n], 32
	}
	if width, err := strconv.Atoi(partial); err == nil && isPartial {
		content = content[:width*item]
	}
	_, _ = w.Write(content)
}

// BenchmarkAudit audits a log without a network. COLOPHON_BENCH_EVENTS sets the number of
// events, 100,000 by default. The root is wrong, which the audit finds at its end.
func BenchmarkAudit(b *testing.B) {
	size := int64(100_000)
	if n, err := strconv.ParseInt(os.Getenv("COLOPHON_BENCH_EVENTS"), 10, 64); err == nil {
		size = n
	}
	log, err := monitor.Open("https://log.example", transport{newEndless()}, func(string) {})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		begin := time.Now()
		a, err := log.Audit(b.Context(), receipt.Checkpoint{Size: size}, nil, nil)
		if err != nil || a.Faults != 1 || a.Entries != size {
			b.Fatalf("%+v, %v", a, err)
		}
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		b.ReportMetric(float64(size)/time.Since(begin).Seconds(), "events/s")
		b.ReportMetric(float64(memory.Sys)/(1<<20), "MiB")
	}
}
