package policy

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkHostilePrompts matches prompts for which the matcher has as many states as
// possible. One set of rules has a thousand English words. The other set has a thousand
// words that all look alike.
func BenchmarkHostilePrompts(b *testing.B) {
	var english, alike strings.Builder
	seen := map[string]bool{}
	for word := range strings.FieldsFuncSeq(strings.ToLower(strings.Join(lines(benign)[200:], " ")), func(r rune) bool { return r < 'a' || r > 'z' }) {
		if len(word) > 2 && !seen[word] && len(seen) < MaxWords {
			seen[word] = true
			fmt.Fprintf(&english, "word %s\n", word)
		}
	}
	for i := range MaxWords {
		fmt.Fprintf(&alike, "word %s\n", strings.NewReplacer("0", "i", "1", "l").Replace(fmt.Sprintf("%010b", i)))
	}
	for name, words := range map[string]string{"English": english.String(), "alike": alike.String()} {
		rules, err := Parse("name x\n" + words)
		if err != nil {
			b.Fatal(err)
		}
		for _, text := range []string{"e", "I", "l|", "I ", "I I| ", "|, ", "e a t ", "| 1 ! 3 $ @ 6 7 9 0 ( + ", "іо3$|@е7а+с(ѕ", "⒜ ⒠ ﬁ", "eeeoooee aattt "} {
			text := string([]rune(strings.Repeat(text, MaxPrompt))[:MaxPrompt])
			b.Run(name+"/"+text[:12], func(b *testing.B) {
				for b.Loop() {
					m := matcher{rules: rules}
					for i, r := range text { // the loop continues after a refusal, so that the whole text is matched
						letters(r, func(l letter) { _, _ = m.next(l, i) })
					}
				}
			})
		}
	}
}
