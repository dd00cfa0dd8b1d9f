package main

import (
	"colophon/internal/metrics"
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

// showPrefixCache adds the figures of the engine's prefix cache to the metrics. Only the
// native engine has one.
func showPrefixCache(e model.Engine, m *metrics.Metrics) {
	native, ok := e.(*gpt2.Engine)
	if !ok {
		return
	}
	m.PrefixCache(func() (computed, found int, unused int64) {
		s := native.PrefixStats()
		return s.Looked - s.Found, s.Found, s.Unused
	})
}
