package policy

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// letter describes a character for the word rules. It depends only on the character and
// not on the text around it. A compatibility variant is first decomposed, and case is
// folded. Marks and ignorable characters have no letter.
type letter struct {
	own    rune   // the character itself, in lower case
	likes  uint32 // set of the Latin letters that the character is or looks like, with bit 0 for 'a'
	kind   kind
	proper bool // true for a real letter, false for a digit or sign that looks like a letter
	sign   bool // true if the character counts as a sign when it stands for a Latin letter that it looks like
}

// kind says whether a word may begin or end beside a character.
type kind uint8

const (
	between kind = iota // characters that are no part of a word, except as a sign that looks like a letter
	inWord              // letters and digits
	foreign             // letters that are never in the same word as Latin letters, so a word ends between a foreign and a Latin letter
	alone               // letters of scripts that are written without spaces; a word may begin or end at each of them (UAX #29)
)

// punctuation reports whether l is a punctuation mark of a sentence. Such a mark before
// white space separates words.
func (l letter) punctuation() bool {
	switch l.own {
	case ',', '.', ';', ':', '!', '?':
		return true
	}
	return false
}

// like reports whether l is, or looks like, the given Latin letter.
func (l *letter) like(letter rune) bool {
	return 'a' <= letter && letter <= 'z' && l.likes&bit(byte(letter)) != 0
}

// ascii holds the letter of each ASCII character.
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
	table['I'].likes |= bit('l') // a capital i looks like a small l
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

// everyday has the lookalikes that are frequent in ordinary texts of their own scripts,
// such as Thai. When a word of the rules contains such a character, it counts as a
// letter. When it stands for a Latin letter, it counts as a sign.
const everyday = "ค๒๔เ๓ภ๏รยฬ乃千爪几尺丂山乂乙〇"

// sign is a bit in the values of the map likeness. It is set for the characters in
// everyday.
const sign = 1 << 31

// likeness holds, for each lookalike, the set of Latin letters that it resembles.
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

// letters calls yield with each letter that r stands for, in order. A mark stands for no
// letter, and a ligature stands for several letters.
func letters(r rune, yield func(letter)) {
	switch {
	case r < utf8.RuneSelf:
		yield(ascii[r])
		return
	case 0x1f150 <= r && r <= 0x1f169: // white letters in black circles, such as 🅐
		yield(ascii['a'+r-0x1f150])
		return
	case 0x1f170 <= r && r <= 0x1f189: // white letters in black squares, such as 🅰
		yield(ascii['a'+r-0x1f170])
		return
	case 0x1f1e6 <= r && r <= 0x1f1ff: // regional indicators, which are the letters of flags
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
	own := unicode.ToLower(unicode.ToUpper(r)) // ToUpper first, so that both forms of the small sigma become the same letter
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

// unlikeCapital reports whether a small Greek letter looks like a different Latin letter
// than its capital does, or like no Latin letter.
func unlikeCapital(r rune) bool { return r == 'δ' || r == 'λ' || r == 'ξ' || r == 'σ' }

// foreignScript reports whether r belongs to a script whose words can stand directly
// beside Latin words, as in "나는chat를". The letters of these scripts do not look like
// Latin letters.
func foreignScript(r rune) bool {
	return unicode.In(r, unicode.Hangul, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi, unicode.Gujarati, unicode.Oriya,
		unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala, unicode.Arabic, unicode.Hebrew)
}

// betweenWords reports whether a word may end directly before r or begin directly after
// r. The answer depends only on r and not on the characters around r.
func betweenWords(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.M, unicode.N) ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}
