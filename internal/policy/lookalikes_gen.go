//go:build ignore

// Command lookalikes_gen makes lookalikes.go from confusables.txt, which is a data file
// of Unicode Technical Standard #39, and from the names of Latin letters:
//
//	go run lookalikes_gen.go < confusables.txt > lookalikes.go
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
	"golang.org/x/text/unicode/runenames"
)

// scripts has the scripts whose letters look like Latin letters. Scripts that are
// written from right to left, and the digits of other scripts, are omitted.
var scripts = []*unicode.RangeTable{
	unicode.Latin, unicode.Greek, unicode.Cyrillic, unicode.Armenian, unicode.Coptic, unicode.Cherokee,
	unicode.Lisu, unicode.Deseret, unicode.Canadian_Aboriginal, unicode.Common,
}

// more has lookalikes that confusables.txt does not assign to a Latin letter. Some are
// small capitals, turned letters, or letters that look like a letter of the other case.
// Other characters are here only because of their shape. Some websites use these
// characters to rewrite a Latin text with Cherokee, Thai, Yi or Chinese characters.
var more = map[byte]string{
	'a': "ᴀɐΛΔʌⲁ₳ᗩค卂ꍏ", 'b': "ʙвβ฿๒乃ꌃ", 'c': "ɔ₵ᑕ匚ꉓ⊂", 'd': "ᴅ∂๔ꀸ", 'e': "ᴇεɛєЄəǝɘɜэΣΞ∃∑ⲉ乇ꍟ", 'f': "ꜰ₣千ꎇ", 'g': "ɢ₲ꁅ",
	'h': "ʜнɥђɧ卄ꃅ", 'i': "ɪเ丨ꀤ", 'j': "ᴊꀭ", 'k': "ᴋкκꀘ", 'l': "ʟӏㄥ꒒", 'm': "ᴍмɯ₥๓爪ꂵ", 'n': "ɴпиИπ₦ภᑎ几ꈤ",
	'o': "ᴏ○◯●◎⊙⚪⭕〇๏ㄖꂦ", 'p': "ᴘ₱卩ꉣ", 'q': "ꆰ", 'r': "ʀяЯɹ尺ꋪ", 's': "ꜱ§₴รᔕ丂ꌗ", 't': "ᴛтτʇɬՇԵㄒ꓄", 'u': "µμцЦยㄩꀎ",
	'v': "ʌ√ꃴ", 'w': "ωшШฬᗯ山ꅏ", 'x': "χӾ乂ꊼ", 'y': "ʏλㄚꌩ", 'z': "ᴢᘔ乙ꁴ",
}

// variant matches the Unicode name of a variant of a Latin letter, such as a letter with
// a stroke or a small capital.
var variant = regexp.MustCompile(`^LATIN (?:CAPITAL |SMALL )?LETTER (?:SMALL CAPITAL |DOTLESS |BARRED |INSULAR |SCRIPT |BLACKLETTER )?([A-Z])(?: WITH .*)?$`)

func main() {
	table := map[byte]map[rune]bool{}
	add := func(like byte, r rune) {
		if table[like] == nil {
			table[like] = map[rune]bool{}
		}
		table[like][r] = true
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "\ufeff"), "#")
		fields := strings.Split(line, ";")
		if len(fields) < 3 {
			continue
		}
		from, to := decode(fields[0]), plain(decode(fields[1]))
		r := []rune(from)[0]
		// Characters that decompose are omitted, because the matcher looks up each of
		// their parts separately.
		if r >= unicode.MaxASCII && norm.NFKD.String(from) == from && unicode.In(r, scripts...) && !unicode.In(r, unicode.M) &&
			len(to) == 1 && (to[0] >= 'a' && to[0] <= 'z' || to[0] >= '0' && to[0] <= '9') {
			add(to[0], r)
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	for r := rune(unicode.MaxASCII + 1); r <= unicode.MaxRune; r++ {
		if m := variant.FindStringSubmatch(runenames.Name(r)); m != nil && unicode.Is(unicode.Latin, r) && norm.NFKD.String(string(r)) == string(r) {
			add(m[1][0]|' ', r)
		}
	}
	for like, runes := range more {
		for _, r := range norm.NFKD.String(runes) {
			add(like, r)
		}
	}
	fmt.Print(`// Made by lookalikes_gen.go. DO NOT EDIT.

package policy

// lookalikes are characters that are taken for ASCII letters and digits. Most are from
// confusables.txt of Unicode Technical Standard #39, Unicode 15.0, © Unicode, Inc.,
// used under the Unicode License V3 (unicode.org/license.txt), or have the letter in
// their name. The generator lists the rest. "l" stands for every character that looks
// like a stroke: capital i, small l and the digit 1.
var lookalikes = [...]struct {
	like  byte
	runes string
}{
`)
	for like := range 128 {
		runes := []rune{}
		for r := range table[byte(like)] {
			runes = append(runes, r)
		}
		slices.Sort(runes)
		if len(runes) > 0 {
			fmt.Printf("\t{'%c', %q},\n", like, string(runes))
		}
	}
	fmt.Println("}")
}

func decode(hex string) string {
	var s strings.Builder
	for field := range strings.FieldsSeq(hex) {
		r, err := strconv.ParseUint(field, 16, 32)
		if err != nil {
			log.Fatal(err)
		}
		s.WriteRune(rune(r))
	}
	return s.String()
}

// plain returns text without marks and in lower case.
func plain(text string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.M) {
			return -1
		}
		return r
	}, norm.NFKD.String(text)))
}
