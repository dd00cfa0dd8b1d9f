package api_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"colophon/events/ledger"
	"colophon/events/receipt"
	"colophon/test/apitest"
)

// sequence gives all events an index, and signs the log.
func (f *fixture) sequence() {
	f.T.Helper()
	log := slog.New(slog.DiscardHandler)
	keys := ledger.NewKeys(f.db.App, f.vault)
	if err := keys.Ensure(f.T.Context(), ""); err != nil {
		f.T.Fatal(err)
	}
	guard, err := ledger.OpenGuard(filepath.Join(f.T.TempDir(), "log-state"))
	if err != nil {
		f.T.Fatal(err)
	}
	defer guard.Close()
	if _, err := ledger.NewSequencer(f.db.App, log).Pass(f.T.Context()); err != nil {
		f.T.Fatal(err)
	}
	if err := ledger.NewSigner(f.db.App, keys, nil, log).Sign(f.T.Context(), guard); err != nil {
		f.T.Fatal(err)
	}
}

// TestLogIsServedInTiles reads the whole log over HTTP, as a client of c2sp.org/tlog-tiles
// does, and compares it with the signed checkpoint.
func TestLogIsServedInTiles(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.Do("GET", "/log/checkpoint", "").Refused(t, http.StatusNotFound, "no_checkpoint")
	f.Do("GET", "/log/key", "").Refused(t, http.StatusNotFound, "no_checkpoint")
	f.Do("GET", "/log/tile/0/000.p/1", "").Refused(t, http.StatusNotFound, "no_such_tile")
	if _, err := f.db.App.Exec(t.Context(), `insert into events (stream, version, owner, type, at, schema, payload)
		select 'account/' || gen_random_uuid(), 1, gen_random_uuid(), 'test', now(), 2, convert_to(gen_random_uuid()::text, 'UTF8') from generate_series(1, 300)`); err != nil {
		t.Fatal(err)
	}
	f.sequence()
	keyAnswer := f.Do("GET", "/log/key", "").Must(t, 200)
	key, err := receipt.ParseKey(strings.TrimSuffix(string(keyAnswer.Body), "\n"))
	if err != nil {
		t.Fatal(err)
	}
	answer := f.Do("GET", "/log/checkpoint", "").Must(t, 200)
	c, err := receipt.OpenCheckpoint(string(answer.Body), key)
	if err != nil || c.Size < 300 {
		t.Fatalf("%+v, %v", c, err)
	}
	for name, a := range map[string]apitest.Answer{"text/plain; charset=utf-8 public, max-age=1": answer, "text/plain; charset=utf-8 public, max-age=60": keyAnswer} {
		if got := a.Header.Get("Content-Type") + " " + a.Header.Get("Cache-Control"); got != name {
			t.Errorf("headers %q, want %q", got, name)
		}
	}
	reader := tlog.TileHashReader(c.Tree(), tilesOverHTTP{t, f})
	for i := range c.Size {
		if _, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, i)}); err != nil {
			t.Fatal(err)
		}
	}
	for path, length := range map[string]int{"0/000": 8192, "entries/000": 256 * 34, fmt.Sprintf("entries/001.p/%d", c.Size-256): int(c.Size-256) * 34, "1/000.p/1": 32} {
		a := f.Do("GET", "/log/tile/"+path, "").Must(t, 200)
		if len(a.Body) != length || a.Header.Get("Content-Type") != "application/octet-stream" || a.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("%s: %d bytes, want %d: %v", path, len(a.Body), length, a.Header)
		}
	}
	for _, path := range []string{"0/001", "1/000", "2/000.p/1", fmt.Sprintf("0/001.p/%d", c.Size-255), "63/000.p/1", "0/x999/x999/x999/x999/x999/999.p/255"} {
		f.Do("GET", "/log/tile/"+path, "").Refused(t, http.StatusNotFound, "no_such_tile")
	}
	for _, path := range []string{
		"0/0", "0/00", "0/0000", "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000.p/", "0/000.p", "0/x000/000", "0/001/000", "0/x1/000",
		"-1/000", "64/000", "00/000", "x/000", "data/000", "0/+12", "0/x001/x001/x001/x001/x001/x001/001", "0/000.p/1.p/1", "0/000/",
	} {
		f.Do("GET", "/log/tile/"+path, "").Refused(t, http.StatusNotFound, "no_such_route")
	}
	f.Do("POST", "/log/tile/0/000", "").Must(t, http.StatusMethodNotAllowed)
}

// TestPrivateLogIsNotServed expects that nobody can read a private log.
func TestPrivateLogIsNotServed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(f *fixture) { f.api.PrivateLog = true })
	f.sequence()
	for _, path := range []string{"/log/checkpoint", "/log/key", "/log/tile/0/000.p/1", "/log/tile/entries/000.p/1"} {
		f.Do("GET", path, "").Refused(t, http.StatusNotFound, "no_such_route")
	}
}

// tilesOverHTTP reads the tiles of a service.
type tilesOverHTTP struct {
	t *testing.T
	f *fixture
}

func (r tilesOverHTTP) Height() int                         { return 8 }
func (r tilesOverHTTP) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (r tilesOverHTTP) ReadTiles(tiles []tlog.Tile) (all [][]byte, err error) {
	for _, tile := range tiles {
		// The paths of x/mod also have the height of the tiles.
		path := strings.Replace(tile.Path(), "tile/8/", "/log/tile/", 1)
		all = append(all, r.f.Do("GET", path, "").Must(r.t, 200).Body)
	}
	return all, nil
}
