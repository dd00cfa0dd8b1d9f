package policy

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// letter is what a character stands for to the word rules. It is found for each
// character by itself: compatibility variants are decomposed, case is folded,
// and marks and ignorable characters are nothing.
type letter struct {
	own    rune   // itself, in lower case
	likes  uint32 // the Latin letters that it is, or is taken for: bit 0 is a
	kind   kind
	proper bool // a letter, and not a digit or a sign that is taken for one
}

// kind is how a character behaves at the end of a word.
type kind uint8

const (
	between kind = iota // cannot be part of a word, or only as a sign that is taken for a letter
	inWord              // letters, digits
	alone               // letters of scripts that do without spaces: any number of them may be a word (UAX #29)
)

// punctuation is what comes between words of a sentence, if white space follows.
func (l letter) punctuation() bool {
	switch l.own {
	case ',', '.', ';', ':', '!', '?':
		return true
	}
	return false
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
	table['I'].likes |= bit('l') // which it looks like
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

// likeness holds, for each character of lookalikes, the letters it is taken for.
var likeness = func() map[rune]uint32 {
	table := map[rune]uint32{'€': bit('e'), '£': bit('l'), '¡': bit('i') | bit('l')}
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

// letters calls yield with what r stands for, in order: nothing, one letter, or
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
	if nothing(r) {
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
		} else if !nothing(d) {
			yield(letterOf(d))
		}
	}
}

// nothing reports whether a character, which is not of ASCII, does not count.
func nothing(r rune) bool { return unicode.Is(unicode.M, r) || ignorable(r) }

// letterOf returns the letter of a character that does not decompose.
func letterOf(r rune) letter {
	own := unicode.ToLower(unicode.ToUpper(r)) // one sigma
	l := letter{own: own, likes: likeness[r] | likeness[unicode.ToLower(r)], proper: unicode.IsLetter(r)}
	switch {
	case betweenWords(r):
		l.kind = between
		if l.proper || unicode.Is(unicode.N, r) {
			l.kind = alone
		}
	default:
		l.kind = inWord
	}
	return l
}

// betweenWords reports whether a word may end before or after r, whatever else
// is there.
func betweenWords(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.M, unicode.N) ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}
