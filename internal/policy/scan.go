package policy

import "unicode/utf8"

const (
	// maxGap is how many characters may stand between two letters of a word that
	// is spread out; marks and ignorable characters do not count.
	maxGap = 3

	// minProper is how many letters of a word must be letters, and not digits or
	// signs that are taken for them: 455 is a number.
	minProper = 2

	// longWord is how many letters a word has that cannot come about by chance
	// where the words of a sentence meet.
	longWord = 7
)

// scan finds words in a text that comes letter by letter. Where it stands
// depends on the letters alone, and not on how they were handed over.
type scan struct {
	rules    *Rules
	last     kind            // of the letter before
	threads  []thread        // words that may be under way, by when they began
	previous []thread        // room for the next ones
	places   map[thread]bool // of the threads, without their beginnings, if they are many
	looked   [64]struct {
		r rune
		l letter
	} // some of the characters that were looked up
}

// thread is the beginning of a word in the text.
type thread struct {
	start  int   // where in the text
	node   int32 // what of a word has been seen
	gap    uint8 // characters after the last letter
	proper uint8 // letters that are letters, up to minProper
	run    uint8 // how often in a row the last letter has come, up to 3
	pairs  uint8 // letters after the first that have come twice, up to 2, without the last
	joined bool  // two letters side by side
	piece  bool  // the last two are
	signs  bool  // what follows the last gap are digits and signs only
	hyphen bool  // the gap begins with a hyphen
	stop   bool  // the character before is punctuation
	broken bool  // punctuation and white space have come between letters
	words  bool  // its pieces are words by themselves, if the word is not a long one
}

// next reads the letter at a place in the text. If a word that is refused has
// ended before it, next returns where that word begins, the first of several.
func (s *scan) next(l letter, at int) (start int, refused bool) {
	if s.idle(&l) {
		return 0, false
	}
	before := s.threads
	s.threads = s.previous[:0]
	clear(s.places)
	for i := range before {
		t := &before[i]
		if !refused && s.over(t) && (s.boundary(l.kind) || s.rules.nodes[t.node].alone) {
			start, refused = t.start, true
		}
	}
	for i := range before {
		s.step(&before[i], &l)
	}
	if s.begins(l.kind) {
		s.step(&thread{start: at}, &l)
	}
	s.previous = before
	s.last = l.kind
	return start, refused
}

// idle reads a letter if no word is under way and none begins with it.
func (s *scan) idle(l *letter) bool {
	root := &s.rules.nodes[0]
	if len(s.threads) > 0 || (root.likes&l.likes != 0 || root.other) && s.begins(l.kind) {
		return false
	}
	s.last = l.kind
	return true
}

// boundary reports whether a word may end before a letter of a kind.
func (s *scan) boundary(next kind) bool {
	return next == between || next == alone || next == foreign && s.last == inWord || next == inWord && s.last == foreign
}

// begins reports whether a word may begin with a letter of a kind.
func (s *scan) begins(kind kind) bool {
	return s.last == between || s.last == alone || kind == alone || kind != between && kind != s.last
}

// step goes on with a thread.
func (s *scan) step(t *thread, l *letter) {
	n := &s.rules.nodes[t.node]
	n.leads(l, func(to int32, own bool) {
		u := *t
		u.node, u.gap, u.run, u.stop, u.hyphen = to, 0, 1, false, false
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
		s.keep(u)
	})
	if t.node == 0 {
		return
	}
	if t.gap == 0 && l.proper && (l.own == n.letter || l.like(n.letter)) {
		u := *t
		u.run, u.piece = min(t.run+1, 3), true
		s.keep(u)
	}
	if l.kind != between || t.gap == maxGap {
		return
	}
	u := *t
	u.gap++
	u.hyphen = t.hyphen || t.gap == 0 && (l.own == '-' || l.own == '\u2010')
	if space(l.own) {
		u.broken = t.broken || t.stop
		u.words = t.words || t.piece && !u.hyphen
	}
	u.stop = l.punctuation()
	s.keep(u)
}

// keep adds a thread, unless it cannot become a word or an earlier one stands at
// the same place. A short word that is spread out has its letters apart, all of
// them, or in pieces: none of two letters or more before white space, and without
// the punctuation of a sentence. "h, a, t, e", "h ate" and "ha-te" are one; "ha
// te", "a hat, e.g." and "hat 3" are none.
func (s *scan) keep(t thread) {
	n := &s.rules.nodes[t.node]
	none := t.words || t.joined && t.broken // of the short ones
	switch {
	case none && !n.long:
		return
	case none || !n.short: // the rest does not matter any more
		t = thread{start: t.start, node: t.node, gap: t.gap, proper: t.proper, words: true}
	}
	if !s.known(t) {
		s.threads = append(s.threads, t)
	}
}

// known reports whether an earlier thread stands at the same place as t.
func (s *scan) known(t thread) bool {
	const few = 32 // of which looking at each is the quickest
	if len(s.threads) < few {
		for i := range s.threads {
			u := &s.threads[i]
			if u.node == t.node && u.gap == t.gap {
				if t.start = u.start; t == *u {
					return true
				}
			}
		}
		return false
	}
	if len(s.places) == 0 {
		if s.places == nil {
			s.places = map[thread]bool{}
		}
		for _, u := range s.threads {
			u.start = 0
			s.places[u] = true
		}
	}
	t.start = 0
	if s.places[t] {
		return true
	}
	s.places[t] = true
	return false
}

// over reports whether a thread is a word that is refused if it ends here.
func (s *scan) over(t *thread) bool {
	n := &s.rules.nodes[t.node]
	if !n.word || t.gap != 0 || t.proper != minProper {
		return false
	}
	return n.depth >= longWord || !t.words && !(t.joined && t.signs) && !t.other(n)
}

// other reports whether a letter that has come twice makes a short word another
// one, as in "latter". Three in a row make none, nor do two pairs, the first
// letter, and the last of four or more.
func (t *thread) other(n *node) bool {
	last := t.run == 2 && n.depth > 1
	switch t.pairs {
	case 0:
		return last && n.depth < 4
	case 1:
		return !last
	}
	return false
}

// end returns where the first word begins that is refused if the text ends here.
func (s *scan) end() (start int, refused bool) {
	for i := range s.threads {
		if t := &s.threads[i]; s.over(t) {
			return t.start, true
		}
	}
	return 0, false
}

// read reads text that begins at a place. It stops at a word that is refused,
// and at a character that turns the letters after it round.
func (s *scan) read(text string, at int) (start int, refused bool) {
	for i, r := range text {
		if r < utf8.RuneSelf {
			if l := &ascii[r]; !s.idle(l) {
				start, refused = s.next(*l, at+i)
			}
		} else if override(r) {
			if start, refused = s.end(); !refused {
				start, refused = at+i, true
			}
		} else if known := &s.looked[r%rune(len(s.looked))]; known.r == r {
			start, refused = s.next(known.l, at+i)
		} else {
			n := 0
			letters(r, func(l letter) {
				if n++; n == 1 {
					known.r, known.l = r, l
				}
				if !refused {
					start, refused = s.next(l, at+i)
				}
			})
			if n != 1 {
				known.r = 0 // it is for single letters
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
