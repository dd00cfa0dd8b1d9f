package policy

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

//go:embed testdata/benign.txt
var benign string

//go:embed testdata/refused.txt
var written string

// lines returns the lines of a corpus that are no comments.
func lines(corpus string) []string {
	var list []string
	for line := range strings.SplitSeq(strings.TrimSuffix(corpus, "\n"), "\n") {
		if !strings.HasPrefix(line, "# ") {
			list = append(list, line)
		}
	}
	return list
}

// spelling is a word that is to be refused, and what stands next to it.
type spelling struct{ before, word, after string }

// obfuscated returns spellings of the seed's words: those that are written down,
// and more that a seeded generator makes.
func obfuscated(t testing.TB) []spelling {
	t.Helper()
	var list []spelling
	for _, line := range lines(written) {
		text, err := strconv.Unquote(`"` + line + `"`)
		if err != nil {
			t.Fatalf("testdata/refused.txt: %s: %v", line, err)
		}
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

// disguises are what each letter may be replaced with.
var disguises = map[rune][]string{
	'h': {"H", "ｈ", "Ｈ", "𝒉", "𝗛", "ⓗ", "һ", "Н", "Η", "ʜ", "ḧ"},
	'a': {"A", "ａ", "Ａ", "𝒂", "𝗔", "ⓐ", "а", "А", "α", "Α", "ᴀ", "á", "@", "4"},
	't': {"T", "ｔ", "Ｔ", "𝒕", "𝗧", "ⓣ", "т", "Т", "τ", "Τ", "ᴛ", "ţ", "7", "+"},
	'e': {"E", "ｅ", "Ｅ", "𝒆", "𝗘", "ⓔ", "е", "Е", "ε", "Ε", "ᴇ", "ê", "3", "€"},
	'v': {"V", "ｖ", "Ｖ", "𝒗", "𝗩", "ⓥ", "ѵ", "ν", "ᴠ", "ṽ"},
	'i': {"I", "ｉ", "Ｉ", "𝒊", "𝗜", "ⓘ", "і", "І", "ι", "Ι", "ɪ", "ï", "1", "!", "|"},
	'o': {"O", "ｏ", "Ｏ", "𝒐", "𝗢", "ⓞ", "о", "О", "ο", "Ο", "ᴏ", "ö", "ø", "0"},
	'l': {"L", "ｌ", "Ｌ", "𝒍", "𝗟", "ⓛ", "ӏ", "I", "ʟ", "ł", "1", "|"},
	'n': {"N", "ｎ", "Ｎ", "𝒏", "𝗡", "ⓝ", "п", "Ν", "η", "ɴ", "ñ"},
	'c': {"C", "ｃ", "Ｃ", "𝒄", "𝗖", "ⓒ", "с", "С", "ᴄ", "ç", "(", "¢"},
}

// obfuscate returns another spelling of a word: letters replaced, of which two
// stay letters, and characters put between them.
func obfuscate(rng *rand.Rand, word string) string {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	style := rng.IntN(4)
	var b strings.Builder
	signs := 0
	for i, c := range word {
		letter := string(c)
		if rng.IntN(2) == 0 {
			letter = pick(disguises[c]...)
			if strings.ContainsAny(letter, "@473!|10+(¢€") {
				if signs++; signs > len(word)-minProper {
					letter = string(c)
				}
			}
		}
		b.WriteString(letter)
		for range rng.IntN(3) {
			b.WriteString(pick("\u0301", "\u0336", "\u0323", "\u200b", "\u200d", "\u00ad", "\u2060", "\u200f", "\u202c", "\ufe0f", "\ufeff"))
		}
		if i == len(word)-1 {
			break
		}
		switch style {
		case 1: // in pieces
			if rng.IntN(3) == 0 {
				b.WriteString(pick(" ", "  ", "-", "_", ".", "\n", "\u00a0", "\u3000", "💔", "-\n"))
			}
		case 2: // letter by letter
			for range 1 + rng.IntN(maxGap) {
				b.WriteString(pick(" ", ".", ",", "-", "_", "*", "\n", "\t", "\u2003", "•", "·", "💔"))
			}
		}
	}
	return b.String()
}

// TestObfuscationsAreRefused has each spelling alone and in sentences, as a prompt.
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
		t.Error("sentences that pass one by one are refused in a row")
	}
}
