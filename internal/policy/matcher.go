package policy

import "unicode/utf8"

const (
	// maxGap is the maximum number of characters between two letters of a word that is
	// spread out, such as "h a t e". Marks and ignorable characters are not counted.
	maxGap = 3

	// minProper is the minimum number of real letters in a refused word. Digits and
	// signs that look like letters do not count, so 455 is a number and not a word.
	minProper = 2

	// longWord is the minimum length of a long word in letters. The adjacent words of a
	// sentence do not spell a long word by chance.
	longWord = 7
)

// matcher finds refused words in a text that arrives letter by letter. Its states
// depend only on the letters and not on the pieces in which the letters arrive. The
// matcher is a nondeterministic automaton over the tree of words. Each state is one way
// to read the latest characters as the beginning of a refused word.
type matcher struct {
	rules  *Rules
	last   kind           // kind of the previous letter
	states []state        // the current states, ordered by their start in the text
	spare  []state        // unused storage for the next list of states
	seen   map[state]bool // the states with start set to 0, used only if there are many states
	cache  [64]struct {
		r rune
		l letter
	} // recently looked up characters, each of which stands for exactly one letter
}

// state is a possible beginning of a word in the text.
type state struct {
	start    int   // position in the text at which the word begins
	node     int32 // index of the node for the letters read so far
	gap      uint8 // number of characters after the last letter
	proper   uint8 // number of real letters, counted up to minProper
	run      uint8 // number of successive occurrences of the last letter, counted up to 3
	pairs    uint8 // number of doubled letters between the first and the last letter, counted up to 2
	joined   bool  // true if at least two letters of the word are adjacent
	piece    bool  // true if the last two letters are adjacent
	signs    bool  // true if all letters after the last gap are written as digits or signs
	hyphen   bool  // true if the gap begins with a hyphen
	stop     bool  // true if the previous character is punctuation
	broken   bool  // true if punctuation followed by white space came between two letters
	wordlike bool  // true if the parts between gaps look like separate words, so only a long refused word can match
}

// next reads the letter l. The parameter at is the position of l in the text. If a
// refused word ends directly before l, next returns the start of the first such word.
func (m *matcher) next(l letter, at int) (start int, refused bool) {
	if m.idle(&l) {
		return 0, false
	}
	before := m.states
	m.states = m.spare[:0]
	clear(m.seen)
	for i := range before {
		t := &before[i]
		if !refused && m.complete(t) && (m.boundary(l.kind) || m.rules.nodes[t.node].alone) {
			start, refused = t.start, true
		}
	}
	for i := range before {
		m.step(&before[i], &l)
	}
	if m.begins(l.kind) {
		m.step(&state{start: at}, &l)
	}
	m.spare = before
	m.last = l.kind
	return start, refused
}

// idle reports whether a letter has no effect, because there is no state and no word
// begins with the letter. If the result is true, the letter counts as read.
func (m *matcher) idle(l *letter) bool {
	root := &m.rules.nodes[0]
	if len(m.states) > 0 || (root.likes&l.likes != 0 || root.other) && m.begins(l.kind) {
		return false
	}
	m.last = l.kind
	return true
}

// boundary reports whether a word may end before a letter of the given kind.
func (m *matcher) boundary(next kind) bool {
	return next == between || next == alone || next == foreign && m.last == inWord || next == inWord && m.last == foreign
}

// begins reports whether a word may begin with a letter of the given kind.
func (m *matcher) begins(kind kind) bool {
	return m.last == between || m.last == alone || kind == alone || kind != between && kind != m.last
}

// step adds the states that follow the state t when the letter l is read. The letter may
// be the next letter of a word, a repetition of the last letter, or a part of the gap
// between two letters.
func (m *matcher) step(t *state, l *letter) {
	n := &m.rules.nodes[t.node]
	n.children(l, func(child int32, own bool) {
		u := *t
		u.node, u.gap, u.run, u.stop, u.hyphen = child, 0, 1, false, false
		u.piece = t.node != 0 && t.gap == 0
		u.joined = t.joined || u.piece
		if t.run == 2 && n.depth > 1 {
			u.pairs = min(t.pairs+1, 2)
		}
		letter := l.proper && (own || !l.sign)
		if letter {
			u.proper = min(t.proper+1, minProper)
		}
		u.signs = !letter && !own && (t.signs || t.gap > 0)
		m.add(u)
	})
	if t.node == 0 {
		return
	}
	if t.gap == 0 && l.proper && (l.own == n.letter || l.like(n.letter)) {
		u := *t
		u.run, u.piece = min(t.run+1, 3), true
		m.add(u)
	}
	if l.kind != between || t.gap == maxGap {
		return
	}
	u := *t
	u.gap++
	u.hyphen = t.hyphen || t.gap == 0 && (l.own == '-' || l.own == '\u2010')
	if space(l.own) {
		u.broken = t.broken || t.stop
		u.wordlike = t.wordlike || t.piece && !u.hyphen
	}
	u.stop = l.punctuation()
	m.add(u)
}

// add adds a state to the matcher. It drops a state that can no longer become a word. It
// also drops a state that differs from an earlier state only in its start.
//
// A short word that is spread out matches if no two of its letters are adjacent. If some
// letters are adjacent, the word must have no piece of two or more letters before white
// space. It must also have no sentence punctuation between its letters. The spellings
// "h, a, t, e", "h ate" and "ha-te" match. The texts "ha te", "a hat, e.g." and "hat 3"
// do not match.
func (m *matcher) add(t state) {
	n := &m.rules.nodes[t.node]
	notShort := t.wordlike || t.joined && t.broken
	switch {
	case notShort && !n.long:
		return
	case notShort || !n.short: // only a long word can match, so only the following fields matter
		t = state{start: t.start, node: t.node, gap: t.gap, proper: t.proper, wordlike: true}
	}
	if !m.duplicate(t) {
		m.states = append(m.states, t)
	}
}

// duplicate reports whether an earlier state equals t except for its start.
func (m *matcher) duplicate(t state) bool {
	const few = 32 // below this number of states, a comparison with each state is faster than the map
	if len(m.states) < few {
		for i := range m.states {
			u := &m.states[i]
			if u.node == t.node && u.gap == t.gap {
				if t.start = u.start; t == *u {
					return true
				}
			}
		}
		return false
	}
	if len(m.seen) == 0 {
		if m.seen == nil {
			m.seen = map[state]bool{}
		}
		for _, u := range m.states {
			u.start = 0
			m.seen[u] = true
		}
	}
	t.start = 0
	if m.seen[t] {
		return true
	}
	m.seen[t] = true
	return false
}

// complete reports whether the letters that t has read are a whole refused word, assuming
// that the word ends here.
func (m *matcher) complete(t *state) bool {
	n := &m.rules.nodes[t.node]
	if !n.word || t.gap != 0 || t.proper != minProper {
		return false
	}
	return n.depth >= longWord || !t.wordlike && !(t.joined && t.signs) && !t.doubled(n)
}

// doubled reports whether a doubled letter turns a short word into a different word.
// For example, a doubled t turns "later" into "latter". A doubled first letter does not
// do this. A doubled last letter does this only in words of up to three letters. A word
// with two doubled letters, or with three equal letters in a row, is still the same
// word.
func (t *state) doubled(n *node) bool {
	last := t.run == 2 && n.depth > 1
	switch t.pairs {
	case 0:
		return last && n.depth < 4
	case 1:
		return !last
	}
	return false
}

// end returns the start of the first refused word that is complete if the text ends
// now.
func (m *matcher) end() (start int, refused bool) {
	for i := range m.states {
		if t := &m.states[i]; m.complete(t) {
			return t.start, true
		}
	}
	return 0, false
}

// read reads the next part of a text. The parameter at is the position of this part.
// read stops at a refused word, and at a character that overrides the direction of text.
func (m *matcher) read(text string, at int) (start int, refused bool) {
	for i, r := range text {
		if r < utf8.RuneSelf {
			if l := &ascii[r]; !m.idle(l) {
				start, refused = m.next(*l, at+i)
			}
		} else if override(r) {
			if start, refused = m.end(); !refused {
				start, refused = at+i, true
			}
		} else if cached := &m.cache[r%rune(len(m.cache))]; cached.r == r {
			start, refused = m.next(cached.l, at+i)
		} else {
			n := 0
			letters(r, func(l letter) {
				if n++; n == 1 {
					cached.r, cached.l = r, l
				}
				if !refused {
					start, refused = m.next(l, at+i)
				}
			})
			if n != 1 {
				cached.r = 0 // the cache holds only characters that stand for one letter
			}
		}
		if refused {
			return start, true
		}
	}
	return 0, false
}

func space(r rune) bool {
	return r == ' ' || '\t' <= r && r <= '\r' || r == 0x2028 || r == 0x2029 || r == 0x1680
}
