package gpt2

import (
	lists "container/list"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"colophon/model/kernel"
)

// keepPrefixes is how long a page of the prefix cache stays without a sequence that uses it.
// After that, the engine has no tokens of the text any more.
const keepPrefixes = 10 * time.Minute

// A prefixCache keeps full pages of the KV cache, so that later sequences with the same first
// tokens need not compute them. It has one tree of pages for each scope. The path from the
// root to a page spells the text whose keys and values end with the page. Pages never
// change, so any number of sequences can read one.
//
// A later sequence gets the same bits with and without the cache, because the keys and values of
// a token depend only on the tokens up to it.
//
// Pages that open sequences use do not count towards the limit. The cache evicts the least
// recently used pages above the limit, and those that no sequence has used for
// keepPrefixes. The engine's mutex guards all fields.
type prefixCache struct {
	limit     int                // largest number of unused pages
	scopes    map[string]*prefix // roots of the trees
	unused    lists.List         // *prefix of the pages that no sequence uses, most recently used first; a page is behind its parent
	evict     func(*kernel.Panels)
	pageBytes int64
	stats     PrefixStats
}

// A prefix is a page in a tree of a prefixCache, or the root of a tree.
type prefix struct {
	parent   *prefix // nil for a root
	scope    string  // of a root
	gone     bool    // true for a root that Forget was called for
	key      string  // tokens of the page, see pageKey
	page     *kernel.Panels
	children map[string]*prefix // by their keys
	users    int                // number of open sequences whose text begins with this prefix
	since    time.Time          // time at which the last of them was closed
	element  *lists.Element     // in prefixCache.unused; nil if a sequence uses the page
}

// PrefixStats says what the prefix cache of an engine has done.
type PrefixStats struct {
	Looked int   // number of tokens that were computed or found in the cache, of sequences with a scope
	Found  int   // number of these tokens that were found in the cache
	Unused int64 // size in bytes of the pages that no open sequence uses
}

// newPrefixCache returns a cache for pages of the given size. It calls evict with each page
// that it evicts.
func newPrefixCache(limit, pageBytes int64, evict func(*kernel.Panels)) *prefixCache {
	return &prefixCache{limit: int(limit / pageBytes), pageBytes: pageBytes, scopes: map[string]*prefix{}, evict: evict}
}

// pageKey returns the key of a page with the given tokens.
func pageKey(tokens []int) string {
	b := make([]byte, 0, 4*pageTokens)
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	return string(b)
}

// open returns the root of a scope for a new sequence, or nil if the sequence uses no cache.
func (c *prefixCache) open(scope string) *prefix {
	if c.limit == 0 || scope == "" {
		return nil
	}
	root := c.scopes[scope]
	if root == nil {
		root = &prefix{scope: scope}
		c.scopes[scope] = root
	}
	root.users++
	return root
}

// use returns the page with the key after p for a sequence that uses p. It returns nil if the
// cache has no such page.
func (c *prefixCache) use(p *prefix, key string) *prefix {
	child := p.children[key]
	if child == nil {
		return nil
	}
	child.users++
	if child.element != nil {
		c.unused.Remove(child.element)
		child.element = nil
	}
	return child
}

// add adds a page after p, for a sequence that uses p.
func (c *prefixCache) add(p *prefix, key string, page *kernel.Panels) *prefix {
	child := &prefix{parent: p, key: key, page: page, users: 1}
	if p.children == nil {
		p.children = map[string]*prefix{}
	}
	p.children[key] = child
	return child
}

// close ends the use of p, and of the pages before it, by a sequence.
func (c *prefixCache) close(p *prefix, now time.Time) {
	root := p.root()
	for ; p != nil; p = p.parent { // from the last page on, so that each page is behind its parent
		p.users--
		switch {
		case p.users > 0:
		case p.parent == nil:
			c.drop(p)
		case root.gone:
			c.remove(p)
		default:
			p.since = now
			p.element = c.unused.PushFront(p)
		}
	}
	c.shrink(func(*prefix) bool { return c.unused.Len() > c.limit })
}

// expire evicts the pages that have not been used since the given time. It returns the time of
// the page to expire next, or false if there is none.
func (c *prefixCache) expire(before time.Time) (next time.Time, ok bool) {
	c.shrink(func(p *prefix) bool { return !p.since.After(before) })
	if last := c.unused.Back(); last != nil {
		return last.Value.(*prefix).since, true
	}
	return time.Time{}, false
}

// shrink evicts unused pages, the least recently used first, while gone is true for the next
// one. Such a page has no children, because they would be behind it.
func (c *prefixCache) shrink(gone func(*prefix) bool) {
	for last := c.unused.Back(); last != nil && gone(last.Value.(*prefix)); last = c.unused.Back() {
		c.remove(last.Value.(*prefix))
	}
}

// remove evicts a page without children that no sequence uses.
func (c *prefixCache) remove(p *prefix) {
	if p.element != nil {
		c.unused.Remove(p.element)
		p.element = nil
	}
	delete(p.parent.children, p.key)
	c.evict(p.page)
	if p.parent.parent == nil {
		c.drop(p.parent)
	}
}

// drop forgets a root that has no pages and no sequences.
func (c *prefixCache) drop(root *prefix) {
	if root.users == 0 && len(root.children) == 0 && !root.gone {
		delete(c.scopes, root.scope)
	}
}

// forget evicts the pages of a scope that no sequence uses. The others follow when their last
// sequence is closed. Later sequences find none of them.
func (c *prefixCache) forget(scope string) {
	root := c.scopes[scope]
	if root == nil {
		return
	}
	root.gone = true
	delete(c.scopes, scope)
	for e := c.unused.Back(); e != nil; {
		p := e.Value.(*prefix)
		e = e.Prev()
		if p.root() == root {
			c.remove(p)
		}
	}
}

// root returns the root of the tree of p, or nil for no page.
func (p *prefix) root() *prefix {
	for p != nil && p.parent != nil {
		p = p.parent
	}
	return p
}

// A claim is a page that a sequence has begun to compute, or will compute in the next step.
type claim struct {
	after *prefix
	key   string
}

// sharedPages returns the number of pages at the start of the sequence's cache that are in the
// prefix cache.
func (s *sequence) sharedPages() int {
	if s.prefix == nil {
		return 0
	}
	return (s.cache.tokens - len(s.tail)) / pageTokens
}

// nextKey returns the key of the page after the shared ones. It returns false if the tokens to
// compute do not fill the page, or if the caller wants logits of tokens in it.
func (s *sequence) nextKey() (string, bool) {
	n := pageTokens - len(s.tail)
	if s.prefix == nil || len(s.tokens)-s.computed < n+s.wanted {
		return "", false
	}
	return pageKey(slices.Concat(s.tail, s.tokens[s.computed:][:n])), true
}

// reuse puts all pages of the prefix cache that begin the tokens to compute into the
// sequence's cache. The engine's mutex must be held.
func (s *sequence) reuse() {
	c := s.engine.prefixes
	for len(s.tail) == 0 {
		key, ok := s.nextKey()
		if !ok {
			return
		}
		next := c.use(s.prefix, key)
		if next == nil {
			return
		}
		s.prefix = next
		s.cache.pages = append(s.cache.pages, next.page)
		s.cache.tokens += pageTokens
		s.computed += pageTokens
		c.stats.Looked += pageTokens
		c.stats.Found += pageTokens
	}
}

// waits reports whether a sequence in the step being planned computes the page that s would
// begin. Otherwise it claims the page for s. The engine's mutex must be held.
func (e *Engine) waits(s *sequence) bool {
	key, ok := s.nextKey()
	if !ok {
		return false
	}
	next := claim{s.prefix, key}
	if slices.Contains(e.claims, next) {
		return len(s.tail) == 0
	}
	e.claims = append(e.claims, next)
	return false
}

// advance counts the tokens of a step as computed. The engine's mutex must be held.
func (s *sequence) advance() {
	done := s.tokens[s.computed:][:s.inStep]
	s.computed += s.inStep
	s.inStep = 0
	s.keep(done)
}

// keep counts tokens whose keys and values are in the pages, and adds the pages that they have
// filled to the prefix cache. The engine's mutex must be held.
func (s *sequence) keep(done []int) {
	s.cache.tokens += len(done)
	if s.prefix == nil {
		return
	}
	e := s.engine
	e.prefixes.stats.Looked += len(done)
	s.tail = append(s.tail, done...)
	for len(s.tail) >= pageTokens {
		at, key := s.sharedPages(), pageKey(s.tail[:pageTokens])
		next := e.prefixes.use(s.prefix, key)
		if next == nil {
			next = e.prefixes.add(s.prefix, key, s.cache.pages[at])
		} else { // another sequence has computed the same page meanwhile
			e.free = append(e.free, s.cache.pages[at])
			s.cache.pages[at] = next.page
		}
		s.prefix = next
		s.tail = slices.Delete(s.tail, 0, pageTokens)
	}
}

// PrefixStats returns what the prefix cache has done so far.
func (e *Engine) PrefixStats() PrefixStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.prefixes.stats
	s.Unused = int64(e.prefixes.unused.Len()) * e.prefixes.pageBytes
	return s
}

// Scopes returns the scopes whose pages are in the prefix cache.
func (e *Engine) Scopes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.prefixes.scopes))
}

// Forget drops what the prefix cache has of a scope. Open sequences of the scope go on with
// their pages, which are dropped when the sequences are closed.
func (e *Engine) Forget(scope string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.prefixes.forget(scope)
}

// expire evicts the pages that no sequence has used for keepPrefixes.
func (e *Engine) expire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	now := time.Now()
	wait := keepPrefixes
	if since, ok := e.prefixes.expire(now.Add(-keepPrefixes)); ok {
		wait = since.Add(keepPrefixes).Sub(now)
	}
	e.expiry.Reset(wait)
}
