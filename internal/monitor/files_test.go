package monitor_test

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/receipt"
	"colophon/internal/monitor"
)

// files are the files of a log, by their paths below its URL. They are a http.Handler, and a
// http.RoundTripper that needs no socket.
type files map[string][]byte

func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, ok := f[strings.TrimPrefix(r.URL.Path, "/log/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(content)
}

// transport calls a handler without a socket.
type transport struct{ http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	t.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// entry returns the n-th entry of the test's logs.
func entry(n int) [32]byte {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// root is an oracle: the definition of the Merkle tree hash of RFC 6962.
func root(leaves []tlog.Hash) tlog.Hash {
	switch len(leaves) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	}
	half := 1
	for half*2 < len(leaves) {
		half *= 2
	}
	return tlog.NodeHash(root(leaves[:half]), root(leaves[half:]))
}

// newLog returns a log of a number of entries. The function change, which may be nil, may
// change entries before the tree is made.
func newLog(size int, change func(n int, e *[32]byte)) (files, receipt.Checkpoint) {
	f := files{}
	leaves := make([]tlog.Hash, size)
	var bundle []byte
	for n := range leaves {
		e := entry(n)
		if change != nil {
			change(n, &e)
		}
		leaves[n] = tlog.RecordHash(e[:])
		bundle = append(append(bundle, 0, 32), e[:]...)
		if n%256 == 255 || n == size-1 {
			f[monitor.Path(-1, n/256, n%256+1)] = bundle
			bundle = nil
		}
	}
	for level, hashes := 0, leaves; len(hashes) > 0; level++ {
		var above []tlog.Hash
		for n := 0; n < len(hashes); n += 256 {
			tile := hashes[n:min(n+256, len(hashes))]
			var content []byte
			for _, hash := range tile {
				content = append(content, hash[:]...)
			}
			f[monitor.Path(level, n/256, len(tile))] = content
			if len(tile) == 256 {
				above = append(above, root(tile))
			}
		}
		hashes = above
	}
	return f, receipt.Checkpoint{Origin: "log.example", Size: int64(size), Root: root(leaves)}
}

// with returns a copy of the files in which change has changed one. It fails the test if there
// is no such file.
func (f files) with(t *testing.T, path string, change func(content []byte) []byte) files {
	t.Helper()
	content, ok := f[path]
	if !ok {
		t.Fatalf("the log has no file %s", path)
	}
	changed := maps.Clone(f)
	if content = change(append([]byte(nil), content...)); content != nil {
		changed[path] = content
	} else {
		delete(changed, path)
	}
	return changed
}

// flip returns a change of one byte.
func flip(at int) func([]byte) []byte {
	return func(content []byte) []byte {
		content[at] ^= 1
		return content
	}
}

func open(t *testing.T, url string, rt http.RoundTripper) *monitor.Log {
	t.Helper()
	log, err := monitor.Open(url, rt, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// audit audits a log whose files have no socket.
func audit(t *testing.T, h http.Handler, now receipt.Checkpoint, earlier ...receipt.Checkpoint) (*monitor.Audit, error) {
	t.Helper()
	return open(t, "https://log.example/log/", transport{h}).Audit(t.Context(), now, earlier, nil)
}
