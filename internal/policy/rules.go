package policy

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// These are the limits of a rules file.
const (
	MaxRulesSize = 64 << 10 // maximum number of bytes
	MaxWords     = 1000
	MaxWord      = 64 // maximum number of letters, after folding
	MinWord      = 2
	maxName      = 32 // maximum number of characters
)

// method is the version of the matching code. It must be increased with every change
// after which the same rules may give a different result for the same text.
const method = 3

//go:embed seed.policy
var seed string

// Rules are the refused words and the characters that are removed from prompts.
// They are immutable and safe for concurrent use.
type Rules struct {
	name    string
	version string
	removed []rune
	nodes   []node // the words as a tree of letters, whose root is the first node
}

// node is a node of the tree of words. It stands for a prefix of one or more words.
type node struct {
	next   []edge
	likes  uint32 // set of the Latin letters in next, with bit 0 for 'a'
	letter rune   // the last letter of the prefix
	depth  uint8  // number of letters in the prefix
	other  bool   // true if next has letters that are not Latin
	word   bool   // true if the prefix is a whole word
	alone  bool   // true if the last letter belongs to a script without spaces
	short  bool   // true if a short word has this prefix
	long   bool   // true if a long word has this prefix
}

type edge struct {
	letter rune
	to     int32
}

// Default returns the built-in rules.
func Default() *Rules {
	r, err := Parse(seed)
	if err != nil {
		panic(err) // never happens, because a test parses the embedded file
	}
	return r
}

// Version identifies the rules. It has the name from the rules file and a digest of
// everything that affects the results of the rules, including the constant method. Every
// job records the version.
func (r *Rules) Version() string { return r.version }

// Parse reads rules, one per line:
//
//	# a comment; empty lines are skipped
//	name NAME      1 to 32 of a-z, 0-9, . _ and -; once
//	word WORD      refuse this word of 2 to 64 letters and digits
//	remove CHARS   remove these characters from prompts; white space may separate them
//
// Case, accents and compatibility variants of words do not matter. An error names
// the line.
func Parse(file string) (*Rules, error) {
	if len(file) > MaxRulesSize {
		return nil, fmt.Errorf("the rules have %d bytes, more than the limit of %d", len(file), MaxRulesSize)
	}
	r := &Rules{nodes: make([]node, 1)}
	words := map[string]int{} // number of the line that defines each word
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(file, "\ufeff")) {
		number++
		if err := r.line(strings.TrimSpace(line), number, words); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if r.name == "" {
		return nil, errors.New("the name is missing: add a line such as: name house-rules")
	}
	slices.Sort(r.removed)
	r.removed = slices.Compact(r.removed)
	digest := sha256.New()
	fmt.Fprintf(digest, "%d %s %s\n%q\n%q", method, unicode.Version, norm.Version, slices.Sorted(maps.Keys(words)), r.removed)
	r.version = r.name + "/" + hex.EncodeToString(digest.Sum(nil)[:8])
	return r, nil
}

func (r *Rules) line(line string, number int, words map[string]int) error {
	if damaged(line) {
		return errors.New("not valid UTF-8")
	}
	if line == "" || line[0] == '#' {
		return nil
	}
	what, rest := line, ""
	if i := strings.IndexFunc(line, unicode.IsSpace); i >= 0 {
		what, rest = line[:i], strings.TrimSpace(line[i:])
	}
	switch what {
	case "name":
		return r.rename(rest)
	case "word":
		word, err := foldWord(rest)
		if err != nil {
			return err
		}
		if before, ok := words[string(word)]; ok {
			return fmt.Errorf("the word repeats line %d", before)
		}
		if len(words) == MaxWords {
			return fmt.Errorf("more than %d words", MaxWords)
		}
		words[string(word)] = number
		r.add(word)
		return nil
	case "remove":
		return r.remove(rest)
	}
	return errors.New("a line must begin with name, word, remove or #")
}

func (r *Rules) rename(name string) error {
	switch {
	case r.name != "":
		return errors.New("the rules already have a name")
	case name == "" || len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "":
		return fmt.Errorf("a name has 1 to %d of the characters a-z, 0-9, dot, underscore and hyphen", maxName)
	}
	r.name = name
	return nil
}

func (r *Rules) remove(characters string) error {
	if characters == "" {
		return errors.New("remove needs at least one character")
	}
	for _, c := range characters {
		switch {
		case unicode.IsSpace(c):
		case unicode.In(c, unicode.L, unicode.M, unicode.N):
			return errors.New("letters, marks and digits cannot be removed: a word would become another")
		default:
			r.removed = append(r.removed, c)
		}
	}
	return nil
}

// foldWord returns the letters of a word in the form that the tree stores.
func foldWord(word string) ([]rune, error) {
	var folded []rune
	proper, fits := 0, true
	for _, c := range word {
		letters(c, func(l letter) {
			folded = append(folded, l.own)
			fits = fits && l.kind != between
			if l.proper {
				proper++
			}
		})
	}
	switch {
	case len(folded) < MinWord || len(folded) > MaxWord:
		return nil, fmt.Errorf("a word has %d to %d letters", MinWord, MaxWord)
	case !fits:
		return nil, errors.New("a word may only have letters and digits")
	case proper < minProper:
		return nil, fmt.Errorf("a word needs %d letters that are not digits", minProper)
	}
	return folded, nil
}

// add puts a word into the tree.
func (r *Rules) add(word []rune) {
	at := int32(0)
	for _, c := range word {
		to := r.nodes[at].child(c)
		if to == 0 {
			to = int32(len(r.nodes)) // no overflow, because there are at most MaxWords * MaxWord nodes
			r.nodes = append(r.nodes, node{letter: c, depth: r.nodes[at].depth + 1, alone: c >= utf8.RuneSelf && betweenWords(c)})
			n := &r.nodes[at]
			n.next = append(n.next, edge{c, to})
			if 'a' <= c && c <= 'z' {
				n.likes |= bit(byte(c))
			} else {
				n.other = true
			}
		}
		at = to
		n := &r.nodes[at]
		n.short, n.long = n.short || len(word) < longWord, n.long || len(word) >= longWord
	}
	r.nodes[at].word = true
}

// child returns the index of the child node for a letter, or 0 if there is none.
func (n *node) child(letter rune) int32 {
	for _, e := range n.next {
		if e.letter == letter {
			return e.to
		}
	}
	return 0
}

// children calls yield for each child node that matches the letter l. The argument own
// is true if l is the letter of the child node, and false if l only looks like that
// letter.
func (n *node) children(l *letter, yield func(child int32, own bool)) {
	if n.likes&l.likes == 0 && !n.other {
		return
	}
	for _, e := range n.next {
		if own := e.letter == l.own; own || l.like(e.letter) {
			yield(e.to, own)
		}
	}
}
