package main

import (
	"context"
	"time"

	"github.com/google/uuid"

	"colophon/internal/periodic"
	"colophon/model"
	"colophon/model/gpt2"
)

// prefixFlags configure the prefix cache of a worker's engine.
type prefixFlags struct {
	PrefixCacheMiB uint16 `name:"prefix-cache-mib" default:"256" help:"Memory for what the engine has computed for the texts of ended jobs, in MiB. A later job of the same user whose prompt begins alike starts sooner. 0 keeps nothing ($COLOPHON_PREFIX_CACHE_MIB)."`
	SharePrefixes  bool   `help:"Use the prefix cache for the jobs of all users together. Then users can find out by timing whether another user has sent a prompt that begins alike ($COLOPHON_SHARE_PREFIXES)."`
}

// bytes returns the size of the prefix cache.
func (f *prefixFlags) bytes() int64 { return int64(f.PrefixCacheMiB) << 20 }

// forgetEvery is the interval at which a worker looks for closed accounts whose texts are in
// the prefix cache.
const forgetEvery = 5 * time.Second

// watchPrefixes adds the figures of the engine's prefix cache and of its draft tokens to the
// metrics, and drops what the cache has of closed accounts until stop is called. Only the native
// engine has these.
func (b *base) watchPrefixes(ctx context.Context, e model.Engine) (stop func()) {
	native, ok := e.(*gpt2.Engine)
	if !ok {
		return func() {}
	}
	b.metrics.PrefixCache(func() (computed, found int, unused int64) {
		s := native.PrefixStats()
		return s.Looked - s.Found, s.Found, s.Unused
	})
	b.metrics.Drafts(func() (accepted, rejected int) {
		s := native.DraftStats()
		return s.Accepted, s.Rejected
	})
	return background(ctx, func(ctx context.Context) {
		periodic.Run(ctx, forgetEvery, b.log, "prefixes of closed accounts not forgotten, retrying", func(ctx context.Context) error {
			return b.forgetClosed(ctx, native)
		})
	})
}

// forgetClosed drops what the prefix cache has of closed accounts.
func (b *base) forgetClosed(ctx context.Context, e *gpt2.Engine) error {
	var owners []uuid.UUID
	for _, scope := range e.Scopes() {
		if owner, err := uuid.Parse(scope); err == nil { // the scope of all owners together is no id
			owners = append(owners, owner)
		}
	}
	if len(owners) == 0 {
		return nil
	}
	closed, err := b.store.ClosedAmong(ctx, owners)
	for _, owner := range closed {
		e.Forget(owner.String())
	}
	return err
}
