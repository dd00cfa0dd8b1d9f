// Package monitor audits remote transparency logs through their tiles
// (c2sp.org/tlog-tiles).
//
// [Log.Audit] fetches all entries of a log and all hashes of its Merkle tree. It computes
// the tree from the entries and believes no hash that it has not computed. A monitor needs
// no database and trusts no server. The memory that it uses does not depend on the size of
// the log, and each answer of the server is bounded in its size and time.
//
// The entries must have 32 bytes, as those of Colophon's logs have: hashes of events.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// A tile has tileWidth hashes, unless it is the last one of its level.
	tileHeight = 8
	tileWidth  = 1 << tileHeight

	// maxCheckpoint bounds a checkpoint in bytes: it may have many signatures.
	maxCheckpoint = 64 << 10

	// entrySize is the size of an entry in a bundle: the length in two bytes, and a hash.
	entrySize = 2 + tlog.HashSize
)

// Log is a log on a server. It is safe for concurrent use if its function note is.
type Log struct {
	base   *url.URL
	client *http.Client
	note   func(text string)
}

// Open returns the log that has the file "checkpoint" below a URL. It sends no request. The
// function note receives a line for the user before each repeated request. It may be called
// by several goroutines at once. transport may be nil for the usual one.
func Open(address string, transport http.RoundTripper, note func(text string)) (*Log, error) {
	base, err := parseURL(address)
	if err != nil {
		return nil, err
	}
	if usual, ok := http.DefaultTransport.(*http.Transport); ok && transport == nil {
		usual = usual.Clone()
		usual.MaxIdleConnsPerHost = ahead + 2 // all requests of an audit use these connections again
		transport = usual
	}
	return &Log{base, &http.Client{Transport: transport, CheckRedirect: sameHost}, note}, nil
}

// String returns the URL of the log, without a slash at its end.
func (l *Log) String() string { return strings.TrimSuffix(l.base.String(), "/") }

// Checkpoint returns the latest checkpoint as the server answers it, without verifying
// anything.
func (l *Log) Checkpoint(ctx context.Context) (string, error) {
	content, err := l.get(ctx, "checkpoint", maxCheckpoint, "Cache-Control", "no-cache")
	return string(content), err
}

// tileID names a tile of hashes, or a bundle of entries if its level is entryLevel.
type tileID struct {
	level int
	n     int64
	width int // 1 to tileWidth
}

// entryLevel is the level of entry bundles.
const entryLevel = -1

// String returns the tile's path below the log's URL.
func (t tileID) String() string {
	path := fmt.Sprintf("%03d", t.n%1000)
	for n := t.n / 1000; n > 0; n /= 1000 {
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	level := "entries"
	if t.level != entryLevel {
		level = fmt.Sprint(t.level)
	}
	if t.width < tileWidth {
		path += fmt.Sprintf(".p/%d", t.width)
	}
	return fmt.Sprintf("tile/%s/%s", level, path)
}

// read returns the content of a tile. Each of its items has the given size in bytes. A log
// may remove a partial tile when the full one exists, so read falls back on the full one.
func (l *Log) read(ctx context.Context, t tileID, itemSize int) ([]byte, error) {
	content, err := l.readExactly(ctx, t, itemSize)
	if errors.Is(err, errMissing) && t.width < tileWidth {
		full := t
		full.width = tileWidth
		var fullErr error
		if content, fullErr = l.readExactly(ctx, full, itemSize); fullErr == nil {
			return content[:t.width*itemSize], nil
		} else if !errors.Is(fullErr, errMissing) {
			return nil, fullErr
		}
	}
	return content, err
}

func (l *Log) readExactly(ctx context.Context, t tileID, itemSize int) ([]byte, error) {
	want := t.width * itemSize
	content, err := l.get(ctx, t.String(), want)
	if err == nil && len(content) != want {
		err = fmt.Errorf("fetch %s: the answer has %d bytes, want %d", l.base.JoinPath(t.String()), len(content), want)
	}
	return content, err
}

// hashes returns the hashes of a tile.
func (l *Log) hashes(ctx context.Context, t tileID) ([]tlog.Hash, error) {
	content, err := l.read(ctx, t, tlog.HashSize)
	if err != nil {
		return nil, err
	}
	hashes := make([]tlog.Hash, t.width)
	for i := range hashes {
		hashes[i] = tlog.Hash(content[i*tlog.HashSize:])
	}
	return hashes, nil
}

// leaves returns the hashes of the entries in a bundle.
func (l *Log) leaves(ctx context.Context, t tileID) ([]tlog.Hash, error) {
	content, err := l.read(ctx, t, entrySize)
	if err != nil {
		return nil, err
	}
	hashes := make([]tlog.Hash, t.width)
	for i := range hashes {
		entry := content[i*entrySize:][:entrySize]
		if length := int(entry[0])<<8 | int(entry[1]); length != tlog.HashSize {
			return nil, fmt.Errorf("fetch %s: entry %d has %d bytes, want %d", l.base.JoinPath(t.String()), t.n*tileWidth+int64(i), length, tlog.HashSize)
		}
		hashes[i] = tlog.RecordHash(entry[2:])
	}
	return hashes, nil
}
