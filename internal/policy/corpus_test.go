package policy

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

//go:embed testdata/benign.txt
var benign string

//go:embed testdata/refused.txt
var written string

//go:embed testdata/passes.txt
var passes string

// lines returns the lines of a test file that are not comments.
func lines(corpus string) []string {
	var list []string
	for line := range strings.SplitSeq(strings.TrimSuffix(corpus, "\n"), "\n") {
		if !strings.HasPrefix(line, "# ") {
			list = append(list, line)
		}
	}
	return list
}

// unquoted returns the lines of a corpus of Go string literals.
func unquoted(t testing.TB, corpus string) []string {
	t.Helper()
	list := lines(corpus)
	for i, line := range list {
		text, err := strconv.Unquote(`"` + line + `"`)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list[i] = text
	}
	return list
}

// spelling is one spelling of a refused word, with the text before and after the word.
type spelling struct{ before, word, after string }

// obfuscated returns spellings of the words in the built-in rules. The first spellings
// come from testdata/refused.txt. A generator with a fixed seed makes the others.
func obfuscated(t testing.TB) []spelling {
	t.Helper()
	var list []spelling
	for _, text := range unquoted(t, written) {
		before, rest, marked := strings.Cut(text, "⟦")
		word, after, _ := strings.Cut(rest, "⟧")
		if !marked {
			before, word = "", text
		}
		list = append(list, spelling{before, word, after})
	}
	rng := rand.New(rand.NewPCG(1704, 0))
	for range 600 {
		list = append(list, spelling{word: obfuscate(rng, []string{"hate", "violence"}[rng.IntN(2)])})
	}
	return list
}

// disguises has characters that look like each letter.
var disguises = map[rune][]string{
	'h': {"H", "ｈ", "Ｈ", "𝒉", "𝗛", "ⓗ", "һ", "Н", "Η", "ʜ", "ḧ", "ɦ", "Ⱨ", "ђ", "ᕼ"},
	'a': {"A", "ａ", "Ａ", "𝒂", "𝗔", "ⓐ", "а", "А", "α", "Α", "ᴀ", "á", "ⱥ", "₳", "ᗩ", "@", "4"},
	't': {"T", "ｔ", "Ｔ", "𝒕", "𝗧", "ⓣ", "т", "Т", "τ", "Τ", "ᴛ", "ţ", "ʈ", "ƭ", "₮", "7", "+"},
	'e': {"E", "ｅ", "Ｅ", "𝒆", "𝗘", "ⓔ", "е", "Е", "ε", "Ε", "ᴇ", "ê", "ɇ", "ᶒ", "乇", "3", "€"},
	'v': {"V", "ｖ", "Ｖ", "𝒗", "𝗩", "ⓥ", "ѵ", "ν", "ᴠ", "ṽ", "ʋ", "ᐯ"},
	'i': {"I", "ｉ", "Ｉ", "𝒊", "𝗜", "ⓘ", "і", "І", "ι", "Ι", "ɪ", "ï", "1", "!", "|"},
	'o': {"O", "ｏ", "Ｏ", "𝒐", "𝗢", "ⓞ", "о", "О", "ο", "Ο", "ᴏ", "ö", "ø", "ɵ", "〇", "0"},
	'l': {"L", "ｌ", "Ｌ", "𝒍", "𝗟", "ⓛ", "ӏ", "I", "ʟ", "ł", "ɬ", "ᒪ", "1", "|"},
	'n': {"N", "ｎ", "Ｎ", "𝒏", "𝗡", "ⓝ", "п", "Ν", "η", "ɴ", "ñ", "ɲ", "ᑎ"},
	'c': {"C", "ｃ", "Ｃ", "𝒄", "𝗖", "ⓒ", "с", "С", "ᴄ", "ç", "(", "¢"},
}

// obfuscate returns a random spelling of word that the policy must refuse. It replaces
// letters, but keeps at least two, and inserts characters between letters. It never
// splits a short word in two, because ordinary sentences contain the same pieces. The
// policy allows such spellings, which testdata/passes.txt lists.
func obfuscate(rng *rand.Rand, word string) string {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	style := rng.IntN(4)
	var b strings.Builder
	short := style == 1 && len(word) < longWord
	signs, piece := 0, 0
	for i, c := range word {
		letter := string(c)
		piece++
		if rng.IntN(2) == 0 && !(short && i == len(word)-1) {
			letter = pick(disguises[c]...)
			if strings.ContainsAny(letter, "@473!|10+(¢€〇") {
				if signs++; signs > len(word)-minProper {
					letter = string(c)
				}
			}
		}
		b.WriteString(letter)
		if style == 3 && rng.IntN(2) == 0 && unicode.IsLetter([]rune(letter)[0]) {
			b.WriteString(strings.Repeat(letter, 2+rng.IntN(3)))
		}
		for range rng.IntN(3) {
			b.WriteString(pick("\u0301", "\u0336", "\u0323", "\u200b", "\u200d", "\u00ad", "\u2060", "\u200f", "\u202c", "\ufe0f", "\ufeff"))
		}
		if i == len(word)-1 {
			break
		}
		switch style {
		case 1: // the word in several parts
			switch {
			case rng.IntN(3) != 0:
				continue
			case short && piece > 1:
				b.WriteString(pick("-", "_", ".", "💔", "-\n"))
			default:
				b.WriteString(pick(" ", "  ", "-", "_", ".", "\n", "\u00a0", "\u3000", "💔", "-\n"))
			}
			piece = 0
		case 2: // each letter of the word separately
			for range 1 + rng.IntN(maxGap) {
				b.WriteString(pick(" ", ".", ",", "-", "_", "*", "\n", "\t", "\u2003", "•", "·", "💔"))
			}
		}
	}
	return b.String()
}

// TestObfuscationsAreRefused submits each spelling alone and in sentences. Each text
// must be refused.
func TestObfuscationsAreRefused(t *testing.T) {
	rules := Default()
	list := obfuscated(t)
	for _, s := range list {
		for _, form := range []string{"%s", "I %s it.", "so much %s, and whatever", "(%s)", "x\n%s\n"} {
			text := fmt.Sprintf(form, s.before+s.word+s.after)
			if !rules.refuses(text) {
				t.Errorf("passes: %q", text)
			}
			if _, err := rules.Prompt(text); err != ErrPromptWord {
				t.Errorf("%q as a prompt: %v", text, err)
			}
		}
	}
	t.Logf("%d spellings, in 5 places each", len(list))
}

// TestKnownSpellingsPass reads the spellings that pass according to ADR 25. They must
// still pass. If a change of the matcher refuses a spelling, move the spelling to
// testdata/refused.txt.
func TestKnownSpellingsPass(t *testing.T) {
	rules := Default()
	for _, text := range unquoted(t, passes) {
		if rules.refuses(text) {
			t.Errorf("refused: %q", text)
		}
	}
}

func TestBenignSentencesPass(t *testing.T) {
	rules := Default()
	list := lines(benign)
	refused := 0
	var passed strings.Builder
	for _, sentence := range list {
		if rules.refuses(sentence) {
			refused++
			t.Logf("refused: %s", sentence)
			continue
		}
		passed.WriteString(sentence + " ")
	}
	t.Logf("%d of %d benign sentences are refused", refused, len(list))
	if len(list) != 2000 || refused*100 >= len(list) {
		t.Errorf("%d of %d benign sentences are refused", refused, len(list))
	}
	if rules.refuses(passed.String()) {
		t.Error("sentences that pass one by one are refused together")
	}
}
