package policy

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// letter is the meaning of a character to the word rules. It depends on the
// character alone: compatibility variants are decomposed, case is folded, and
// marks and ignorable characters have none.
type letter struct {
	own    rune   // itself, in lower case
	likes  uint32 // the Latin letters that it is, or is taken for: bit 0 is a
	kind   kind
	proper bool // a real letter: no digit or sign that is taken for a letter
	sign   bool // counts as a sign where it is taken for another letter
}

// kind is a character's behaviour at a word boundary.
type kind uint8

const (
	between kind = iota // part of a word only as a sign that is taken for a letter
	inWord              // letters, digits
	foreign             // letters that never share a word with Latin ones: a boundary lies between the two
	alone               // letters of scripts without spaces: a word may begin or end at each of them (UAX #29)
)

// punctuation reports whether l, followed by white space, separates words of a
// sentence.
func (l letter) punctuation() bool {
	switch l.own {
	case ',', '.', ';', ':', '!', '?':
		return true
	}
	return false
}

// like reports whether l is, or is taken for, a letter of the Latin alphabet.
func (l *letter) like(letter rune) bool {
	return 'a' <= letter && letter <= 'z' && l.likes&bit(byte(letter)) != 0
}

// ascii holds the letters of the ASCII characters.
var ascii = func() (table [utf8.RuneSelf]letter) {
	for c := range table {
		r := rune(c)
		table[c] = letter{own: unicode.ToLower(r)}
		if unicode.IsLetter(r) {
			table[c].likes = bit(byte(unicode.ToLower(r)))
			table[c].proper = true
		}
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			table[c].kind = inWord
		}
	}
	table['I'].likes |= bit('l') // a capital i looks like it
	for c, letters := range map[byte]string{
		'0': "o", '1': "il", '2': "z", '3': "e", '4': "a", '5': "s", '6': "bg", '7': "t", '8': "b", '9': "g",
		'@': "a", '$': "s", '!': "il", '|': "il", '+': "t", '(': "c",
	} {
		for i := range len(letters) {
			table[c].likes |= bit(letters[i])
		}
	}
	return table
}()

func bit(letter byte) uint32 { return 1 << (letter - 'a') }

// everyday are lookalikes that are frequent in ordinary texts of their scripts.
// Matched as themselves they count as letters. Matched as Latin letters they count as
// signs.
const everyday = "ค๒๔เ๓ภ๏รยฬ乃千爪几尺丂山乂乙〇"

// sign marks everyday characters in likeness.
const sign = 1 << 31

// likeness holds the letters that each character of lookalikes resembles.
var likeness = func() map[rune]uint32 {
	table := map[rune]uint32{'€': bit('e'), '£': bit('l'), '¡': bit('i') | bit('l')}
	for _, r := range everyday {
		table[r] = sign
	}
	for _, l := range lookalikes {
		for _, r := range l.runes {
			table[r] |= ascii[l.like].likes
			if l.like == 'l' {
				table[r] |= bit('i')
			}
		}
	}
	return table
}()

// letters calls yield with the letters that r stands for, in order: none, one, or
// those of a ligature.
func letters(r rune, yield func(letter)) {
	switch {
	case r < utf8.RuneSelf:
		yield(ascii[r])
		return
	case 0x1f150 <= r && r <= 0x1f169: // letters in black circles
		yield(ascii['a'+r-0x1f150])
		return
	case 0x1f170 <= r && r <= 0x1f189: // in black squares
		yield(ascii['a'+r-0x1f170])
		return
	case 0x1f1e6 <= r && r <= 0x1f1ff: // of flags
		yield(ascii['a'+r-0x1f1e6])
		return
	case r == 'ß' || r == 'ẞ':
		yield(ascii['s'])
		yield(ascii['s'])
		return
	}
	if standsForNothing(r) {
		return
	}
	var encoded [utf8.UTFMax]byte
	decomposed := norm.NFKD.Properties(utf8.AppendRune(encoded[:0], r)).Decomposition()
	if decomposed == nil {
		yield(letterOf(r))
		return
	}
	for len(decomposed) > 0 {
		d, n := utf8.DecodeRune(decomposed)
		decomposed = decomposed[n:]
		if d < utf8.RuneSelf {
			yield(ascii[d])
		} else if !standsForNothing(d) {
			yield(letterOf(d))
		}
	}
}

// standsForNothing reports whether a character outside ASCII stands for no letter.
func standsForNothing(r rune) bool { return unicode.Is(unicode.M, r) || ignorable(r) }

// letterOf returns the letter of a character that does not decompose.
func letterOf(r rune) letter {
	own := unicode.ToLower(unicode.ToUpper(r)) // maps both small sigmas to one
	likes := likeness[r] | likeness[own] | likeness[unicode.ToLower(r)]
	if !unlikeCapital(own) {
		likes |= likeness[unicode.ToUpper(r)]
	}
	l := letter{own: own, likes: likes &^ sign, proper: unicode.IsLetter(r), sign: likes&sign != 0}
	switch {
	case betweenWords(r):
		l.kind = between
		if l.proper || unicode.Is(unicode.N, r) {
			l.kind = alone
		}
	case l.proper && foreignScript(r):
		l.kind = foreign
	default:
		l.kind = inWord
	}
	return l
}

// unlikeCapital reports whether a small Greek letter looks like another Latin
// letter than its capital, or like none.
func unlikeCapital(r rune) bool { return r == 'δ' || r == 'λ' || r == 'ξ' || r == 'σ' }

// foreignScript reports whether r is of a script whose words stand directly beside
// Latin ones ("나는chat를") and whose letters are not taken for Latin ones.
func foreignScript(r rune) bool {
	return unicode.In(r, unicode.Hangul, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi, unicode.Gujarati, unicode.Oriya,
		unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala, unicode.Arabic, unicode.Hebrew)
}

// betweenWords reports whether a word may end before or after r, regardless of its
// other neighbour.
func betweenWords(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.M, unicode.N) ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}
