package monitor

import (
	"context"
	"iter"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// chunk is a bundle of entries with its tile of level 0.
type chunk struct {
	entries []tlog.Hash // hashes of the entries
	tile    []tlog.Hash // hashes of the tile
}

// chunks fetches all bundles and tiles of level 0 of a log that has the given size, a few at
// once, and returns them in order. It ends after an error. No request runs when it has ended.
func (l *Log) chunks(ctx context.Context, size int64) iter.Seq2[chunk, error] {
	type result struct {
		chunk chunk
		err   error
	}
	return func(yield func(chunk, error) bool) {
		var running sync.WaitGroup
		defer running.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		results := make(chan chan result, ahead)
		running.Go(func() {
			defer close(results)
			for n := int64(0); n*tileWidth < size; n++ {
				fetched := make(chan result, 1)
				select {
				case results <- fetched:
				case <-ctx.Done():
					return
				}
				running.Go(func() {
					c, err := l.chunk(ctx, n, int(min(size-n*tileWidth, tileWidth)))
					fetched <- result{c, err}
				})
			}
		})
		for fetched := range results {
			r := <-fetched
			if !yield(r.chunk, r.err) || r.err != nil {
				return
			}
		}
	}
}

func (l *Log) chunk(ctx context.Context, n int64, width int) (c chunk, err error) {
	c.entries, err = l.leaves(ctx, tileID{entryLevel, n, width})
	if err == nil {
		c.tile, err = l.hashes(ctx, tileID{0, n, width})
	}
	return c, err
}
