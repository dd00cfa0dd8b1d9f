package policy

import (
	"slices"
	"unicode/utf8"
)

const (
	// maxGap is how many characters may stand between two letters of a word that
	// is spread out; marks and ignorable characters do not count.
	maxGap = 3

	// minProper is how many letters of a word must be letters, and not digits or
	// signs that are taken for them: 455 is a number.
	minProper = 2
)

// scan finds words in a text that comes letter by letter. Where it stands
// depends on the letters alone, and not on how they were handed over.
type scan struct {
	rules    *Rules
	inWord   bool     // the letter before is part of a word
	threads  []thread // words that may be under way, by when they began
	previous []thread // room for the next ones
	known    [64]struct {
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
	joined bool  // two letters side by side
	stop   bool  // the character before is punctuation
	broken bool  // punctuation and white space have come between letters
}

// next reads the letter at a place in the text. If a word that is refused has
// ended before it, next returns where that word begins, the first of several.
func (s *scan) next(l letter, at int) (start int, refused bool) {
	if s.idle(&l) {
		return 0, false
	}
	before := s.threads
	s.threads = s.previous[:0]
	for _, t := range before {
		if s.over(t) && (l.kind != inWord || s.rules.nodes[t.node].alone) && !refused {
			start, refused = t.start, true
		}
	}
	for _, t := range before {
		s.step(t, l)
	}
	if !s.inWord || l.kind == alone {
		s.step(thread{start: at}, l)
	}
	s.previous = before
	s.inWord = l.kind == inWord
	return start, refused
}

// idle reads a letter if no word is under way and none begins with it.
func (s *scan) idle(l *letter) bool {
	root := &s.rules.nodes[0]
	if len(s.threads) > 0 || !(s.inWord && l.kind == inWord) && (root.likes&l.likes != 0 || root.other) {
		return false
	}
	s.inWord = l.kind == inWord
	return true
}

// step goes on with a thread.
func (s *scan) step(t thread, l letter) {
	n := &s.rules.nodes[t.node]
	n.leads(l, func(to int32) {
		u := t
		u.node, u.gap, u.stop = to, 0, false
		u.joined = t.joined || t.node != 0 && t.gap == 0
		if l.proper {
			u.proper = min(t.proper+1, minProper)
		}
		s.keep(u)
	})
	if t.node == 0 || l.kind != between || t.gap == maxGap {
		return
	}
	t.gap++
	t.broken = t.broken || t.stop && space(l.own)
	t.stop = l.punctuation()
	s.keep(t)
}

// keep adds a thread, unless it cannot become a word or an earlier one stands at
// the same place. A word that is spread out has its letters apart, all of them,
// or in pieces without the punctuation of a sentence: "h, a, t, e" and "ha te"
// are one, "a hat, e.g." is none.
func (s *scan) keep(t thread) {
	if t.joined && t.broken {
		return
	}
	same := func(u thread) bool { u.start = t.start; return u == t }
	if !slices.ContainsFunc(s.threads, same) {
		s.threads = append(s.threads, t)
	}
}

// over reports whether a thread is a word that is refused if it ends here.
func (s *scan) over(t thread) bool {
	return t.gap == 0 && t.proper == minProper && s.rules.nodes[t.node].word
}

// end returns where the first word begins that is refused if the text ends here.
func (s *scan) end() (start int, refused bool) {
	for _, t := range s.threads {
		if s.over(t) {
			return t.start, true
		}
	}
	return 0, false
}

// read reads text that begins at a place. It stops at a word that is refused.
func (s *scan) read(text string, at int) (start int, refused bool) {
	for i, r := range text {
		if r < utf8.RuneSelf {
			if l := &ascii[r]; !s.idle(l) {
				start, refused = s.next(*l, at+i)
			}
		} else if known := &s.known[r%rune(len(s.known))]; known.r == r {
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
