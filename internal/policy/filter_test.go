package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// whole returns the number of bytes that are emitted when a text arrives in one piece.
func whole(r *Rules, prompt, text string) (free int, refused bool) {
	f := r.Filter(prompt, "")
	_, _ = f.Add(text)
	return f.End()
}

// passed adds the pieces of a text to a filter and returns the emitted text. When resume
// returns true, passed simulates an interruption: it makes a new filter and adds all
// pieces to it again that were not emitted.
func passed(t interface{ Fatalf(string, ...any) }, r *Rules, prompt string, pieces []string, resume func() bool) (emitted string, refused bool) {
	f := r.Filter(prompt, "")
	var free int
	for i := 0; i < len(pieces) && !refused; i++ {
		if free, refused = f.Add(pieces[i]); refused {
			break
		}
		text := strings.Join(pieces[:i+1], "")
		if free < len(emitted) || free > len(text) {
			t.Fatalf("%q: %d bytes may be emitted after %d have been", pieces[:i+1], free, len(emitted))
		}
		if !onEdge(pieces, free) {
			t.Fatalf("%q: %d bytes may be emitted, which ends inside a piece", pieces, free)
		}
		emitted = text[:free]
		if r.refuses(emitted) {
			t.Fatalf("%q: %q has been emitted", pieces, emitted)
		}
		if resume() { // continues with a new filter, to which the held-back pieces are added again
			f = r.Filter(prompt, emitted)
			j := 0
			for n := 0; n < free; j++ {
				n += len(pieces[j])
			}
			for _, piece := range pieces[j : i+1] {
				if again, bad := f.Add(piece); bad || again != free {
					t.Fatalf("%q: after resuming at %d, %d bytes may be emitted, refused %v", pieces[:i+1], free, again, bad)
				}
			}
		}
	}
	if !refused {
		free, refused = f.End()
	}
	text := strings.Join(pieces, "")
	if free < len(emitted) {
		t.Fatalf("%q: the text ends at %d after %d bytes have been emitted", pieces, free, len(emitted))
	}
	return text[:free], refused
}

func onEdge(pieces []string, at int) bool {
	for _, p := range pieces {
		if at <= 0 {
			break
		}
		at -= len(p)
	}
	return at == 0
}

// cut divides a text into pieces of whole characters. Some pieces are empty.
func cut(text string, length func() int) (pieces []string) {
	for text != "" {
		n := 0
		for range length() {
			_, size := utf8.DecodeRuneInString(text[n:])
			n += size
		}
		pieces = append(pieces, text[:n])
		text = text[n:]
	}
	return pieces
}

// bits are the pieces from which tests make random texts. Many of these texts almost
// contain a refused word.
var bits = []string{
	"hate", "violence", "h", "a", "t", "e", "ha", "te", "hat", "vio", "lence", "H", "𝒉", "а", "@", "3", "!", "1", "ful", "s", "what",
	" ", "  ", ".", ", ", "-", "\n", "\u200b", "\u0301", "我", "를", "\u202e", "aa", "卂", "ß", "ﬁ", "⒣", "x", " of", " the", "7", "…",
}

// rich returns a generator of texts that are random sequences of bits.
func rich() *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOfN(rapid.SampledFrom(bits), 0, 30), func(parts []string) string { return strings.Join(parts, "") })
}

// TestFilterEmitsTheSameForEverySplit cuts texts into random pieces and interrupts the
// filter. The emitted bytes must not depend on the pieces or the interruptions, and
// must never contain a refused word.
func TestFilterEmitsTheSameForEverySplit(t *testing.T) {
	own, err := Parse("name x\nword hate\nword hatewhat\nword violence\nword 我我\nword te\nword hs")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.SampledFrom([]*Rules{Default(), own}).Draw(t, "rules")
		prompt, text := rich().Draw(t, "prompt"), rich().Draw(t, "text")
		if r.refuses(prompt) {
			prompt = ""
		}
		free, refused := whole(r, prompt, text)
		if r.refuses(text) && !refused {
			t.Fatalf("%q passes after %q", text, prompt)
		}
		if r.refuses(text[:free]) || prompt != "" && r.refuses(prompt+text[:free]) {
			t.Fatalf("%q is emitted after %q", text[:free], prompt)
		}
		if !refused && free != len(text) || prompt == "" && refused != r.refuses(text) {
			t.Fatalf("%q: %d bytes, refused %v", text, free, refused)
		}
		pieces := cut(text, func() int { return rapid.IntRange(0, 5).Draw(t, "length") })
		emitted, again := passed(t, r, prompt, pieces, func() bool { return rapid.IntRange(0, 3).Draw(t, "resume") == 0 })
		if emitted != text[:free] || again != refused {
			t.Fatalf("%q after %q in pieces %q: %q is emitted, refused %v; in one piece %q, %v", text, prompt, pieces, emitted, again, text[:free], refused)
		}
	})
}

// TestNoObfuscationIsEmitted filters texts with each spelling of obfuscated, in random
// pieces. No part of a spelling may be emitted.
//
// security: LLM05:2025
func TestNoObfuscationIsEmitted(t *testing.T) {
	rules := Default()
	rng := rand.New(rand.NewPCG(1704, 1))
	list := obfuscated(t)
	leaked := 0
	for _, s := range list {
		for _, around := range [][2]string{{"", ""}, {"They say that ", ""}, {"so much ", ", and whatever"}, {"(", ")"}, {"a chateau\n", "\nof his"}} {
			before := around[0] + s.before
			for most := 1; most <= 8; most++ {
				pieces := cut(before+s.word+s.after+around[1], func() int { return 1 + rng.IntN(most) })
				emitted, refused := passed(t, rules, "The prompt", pieces, func() bool { return rng.IntN(4) == 0 })
				leaked += max(0, len(emitted)-len(before))
				if emitted != before || !refused {
					t.Errorf("%q of %q is emitted, refused %v", emitted, pieces, refused)
				}
			}
		}
	}
	t.Logf("%d spellings, in 5 places, in pieces of up to 8 characters: %d bytes leaked", len(list), leaked)
}

// TestFilterFindsWordsThatBeginInThePrompt generates text after a prompt. A word that
// begins in the prompt and ends in the text must be refused.
func TestFilterFindsWordsThatBeginInThePrompt(t *testing.T) {
	for _, c := range []struct {
		prompt, text, emitted string
		refused               bool
	}{
		{"I h", "ate you", "", true},
		{"I ha", "ppily agree", "ppily agree", false},
		{"I h", "ave a hat", "ave a hat", false},
		{"I h ", "a t e", "", true},
		{"w", "hatever", "hatever", false},
		{"w", "hate", "", true}, // refused, because the text alone is the word
		{"non", "violence", "", true},
		{"nonviol", "ence", "ence", false},
		{"hate", " is a prompt of other rules", " is a prompt of other rules", false},
		{"", "", "", false},
		{"", "hateful hate", "hateful ", true},
		{"", "hate", "", true},
		{"", "a hat", "a hat", false},
		{"", "to the left \u202eetah", "to the left ", true},
		{"", "\u202d", "", true},
		{"", "a hat\u202ee", "a hat", true},
		{"", "so hate\u202ee", "so ", true},
		{"so h", "ate\u202e", "", true},
	} {
		free, refused := whole(Default(), c.prompt, c.text)
		if c.text[:free] != c.emitted || refused != c.refused {
			t.Errorf("%q, %q: %q is emitted, refused %v", c.prompt, c.text, c.text[:free], refused)
		}
	}
}

// TestFilterStopsTextEmittedUnderEarlierRules continues a text that has a refused word,
// as if earlier rules had emitted the word. The emitted text cannot be taken back, but
// no more text may be emitted.
func TestFilterStopsTextEmittedUnderEarlierRules(t *testing.T) {
	f := Default().Filter("", "I hate it")
	if free, refused := f.Add(" so"); free != len("I hate it") || !refused {
		t.Errorf("%d bytes, refused %v", free, refused)
	}
	f = Default().Filter("", "I hate")
	if free, refused := f.Add("ful"); free != len("I hateful") || refused {
		t.Errorf("another word: %d bytes, refused %v", free, refused)
	}
	f = Default().Filter("", "I hate")
	if free, refused := f.End(); free != len("I hate") || !refused {
		t.Errorf("at the end: %d bytes, refused %v", free, refused)
	}
}

// TestFilterHoldsBackLittle counts the words of ordinary text that are held back. At
// most one word in 200 may be held back, and at most two words in a row.
func TestFilterHoldsBackLittle(t *testing.T) {
	f := Default().Filter("", "")
	pieces, held, longest, length, since := 0, 0, 0, 0, 0
	for _, sentence := range lines(benign)[200:] {
		for word := range strings.SplitAfterSeq(sentence+"\n", " ") {
			free, refused := f.Add(word)
			if refused {
				t.Fatalf("%q is refused", sentence)
			}
			length += len(word)
			pieces++
			if since++; free == length {
				since = 0
			} else {
				held++
			}
			longest = max(longest, since)
		}
	}
	t.Logf("%d of %d words are held back, %d in a row at most", held, pieces, longest)
	if held*200 > pieces || longest > 2 {
		t.Errorf("%d of %d words are held back, %d in a row", held, pieces, longest)
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"I h a t e it", "vio\u200blence", "hateful hate", "ha\xffte", "whatever", "ｈ4т3!"} {
		f.Add(s, "the prompt h", uint64(1))
	}
	rules := Default()
	f.Fuzz(func(t *testing.T, text, prompt string, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		free, refused := whole(rules, prompt, text)
		if free > len(text) || !refused && free != len(text) || rules.refuses(text) && !refused {
			t.Fatalf("%q after %q: %d bytes, refused %v", text, prompt, free, refused)
		}
		if rules.refuses(text[:free]) {
			t.Fatalf("%q is emitted", text[:free])
		}
		emitted, again := passed(t, rules, prompt, cut(text, func() int { return rng.IntN(6) }), func() bool { return rng.IntN(4) == 0 })
		if emitted != text[:free] || again != refused {
			t.Fatalf("%q after %q: %q is emitted in pieces, refused %v; in one piece %q, %v", text, prompt, emitted, again, text[:free], refused)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	thousand := strings.Builder{}
	thousand.WriteString("name x\n")
	for i := range MaxWords {
		fmt.Fprintf(&thousand, "word %c%c%cword\n", 'a'+i%26, 'a'+i/26%26, 'a'+i/676)
	}
	many, err := Parse(thousand.String())
	if err != nil {
		b.Fatal(err)
	}
	texts := map[string]string{
		"English": strings.Join(lines(benign)[200:], "\n"),
		"Russian": strings.Repeat("Свет есть тело, и цвета его суть лучи разной преломляемости. ", 500),
		"Chinese": strings.Repeat("光の性質について、我爱这座城市的光。", 500),
	}
	for _, rules := range []*Rules{Default(), many} {
		for name, text := range texts {
			b.Run(fmt.Sprintf("%s/%d letters", name, len(rules.nodes)), func(b *testing.B) {
				var tokens []string // tokens of four characters, which is the average length of a model's tokens
				for rest := []rune(text); len(rest) > 4; rest = rest[4:] {
					tokens = append(tokens, string(rest[:4]))
				}
				f := rules.Filter("", "")
				i := 0
				b.ReportAllocs()
				for b.Loop() { // each iteration adds one token
					if _, refused := f.Add(tokens[i]); refused {
						f = rules.Filter("", "")
					}
					i = (i + 1) % len(tokens)
				}
			})
		}
	}
}
