package policy

import (
	"strings"
	"unicode"

	"github.com/mtibben/confusables"
)

// combined lists the scripts that one word may combine: those of Japanese, of Chinese with
// phonetic letters, and of Korean, each with Latin. They are the combinations of the level
// "highly restrictive" of Unicode Technical Standard #39.
var combined = [][]string{
	{"Latin", "Han", "Hiragana", "Katakana"},
	{"Latin", "Han", "Bopomofo"},
	{"Latin", "Han", "Hangul"},
}

// mixesScripts reports whether a text has letters of scripts that are not written
// together. In such a text, a letter of another script can look like a Latin letter.
func mixesScripts(text string) bool {
	found := map[string]bool{}
	for _, r := range text {
		if script := scriptOf(r); script != "" {
			found[script] = true
		}
	}
	if len(found) <= 1 {
		return false
	}
	for _, together := range combined {
		n := 0
		for _, script := range together {
			if found[script] {
				n++
			}
		}
		if n == len(found) {
			return false
		}
	}
	return true
}

// scriptOf returns the name of a character's script. It returns an empty text for a
// character that several scripts use.
func scriptOf(r rune) string {
	if r <= unicode.MaxASCII {
		if unicode.IsLetter(r) {
			return "Latin"
		}
		return ""
	}
	if unicode.In(r, unicode.Common, unicode.Inherited) {
		return ""
	}
	for name, table := range unicode.Scripts {
		if unicode.Is(table, r) {
			return name
		}
	}
	return ""
}

// latin has the small ASCII letter of each skeleton.
var latin = func() map[string]rune {
	m := map[string]rune{}
	for r := 'a'; r <= 'z'; r++ {
		m[confusables.Skeleton(string(r))] = r
	}
	return m
}()

// Skeleton returns the skeleton of a user name's key. Two keys have the same skeleton if
// they look alike and differ only in characters outside ASCII. The skeleton is that of
// Unicode Technical Standard #39, but it keeps ASCII characters: people choose names such
// as user1 and userl, and expect both to be free.
func Skeleton(key string) string {
	var b strings.Builder
	for _, r := range key {
		if r <= unicode.MaxASCII {
			b.WriteRune(r)
			continue
		}
		skeleton := confusables.Skeleton(string(r))
		if letter, ok := latin[skeleton]; ok {
			b.WriteRune(letter)
		} else {
			b.WriteString(skeleton)
		}
	}
	return b.String()
}
