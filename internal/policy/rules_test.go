package policy

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseErrorsNameTheLine(t *testing.T) {
	words := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "word w%c%c%c\n", 'a'+i/676, 'a'+i/26%26, 'a'+i%26)
		}
		return b.String()
	}
	for _, c := range []struct{ name, file, err string }{
		{"nothing but a name", "name x", ""},
		{"all there is", "\ufeff# rules\r\n\r\n  name house-rules_2.0\r\n\tremove <> {}\r\nremove \\ #\r\nword Straße\nword mp3\nword 暴力\n", ""},
		{"the most words", "name x\n" + words(MaxWords), ""},
		{"the longest word", "name x\nword " + strings.Repeat("a", MaxWord), ""},
		{"empty", "", "the name is missing: add a line such as: name house-rules"},
		{"without a name", "word sunset", "the name is missing"},
		{"two names", "name x\nname y", "line 2: the rules already have a name"},
		{"an empty name", "name", "line 1: a name has 1 to 32 of"},
		{"a name in capitals", "name House", "line 1: a name has"},
		{"a long name", "name " + strings.Repeat("x", 33), "line 1: a name has"},
		{"another line", "name x\n\nwords sunset", "line 3: a line must begin with name, word, remove or #"},
		{"a space before", "name x\n nothing", "line 2: a line must begin with"},
		{"no word", "name x\nword", "line 2: a word has 2 to 64 letters"},
		{"a short word", "name x\nword a", "line 2: a word has 2 to 64 letters"},
		{"a long word", "name x\nword " + strings.Repeat("a", MaxWord+1), "line 2: a word has 2 to 64 letters"},
		{"a word that is none", "name x\nword \u200b\u0301", "line 2: a word has 2 to 64 letters"},
		{"two words", "name x\nword sun set", "line 2: a word may only have letters and digits"},
		{"a hyphen", "name x\nword sun-set", "line 2: a word may only have letters and digits"},
		{"a number", "name x\nword 455", "line 2: a word needs 2 letters that are not digits"},
		{"one letter and digits", "name x\nword a55", "line 2: a word needs 2 letters that are not digits"},
		{"the same word", "name x\nword sunset\nword SÜNSET", "line 3: the word repeats line 2"},
		{"a word too many", "name x\n" + words(MaxWords+1), "line 1002: more than 1000 words"},
		{"nothing to remove", "name x\nremove", "line 2: remove needs at least one character"},
		{"a letter to remove", "name x\nremove <a", "line 2: letters, marks and digits cannot be removed"},
		{"not UTF-8", "name x\n# \xff", "line 2: not valid UTF-8"},
		{"too long", strings.Repeat("\n", MaxRulesSize+1), "the rules have 65537 bytes, more than the limit of 65536"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Parse(c.file)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)) {
				t.Errorf("%v, want %q", err, c.err)
			}
			if (r == nil) != (err != nil) {
				t.Errorf("%v and %v", r, err)
			}
		})
	}
}

// TestVersionNamesTheEffect compares the versions of different rules files. The version
// must depend on the effect of the rules and not on the wording of the file.
func TestVersionNamesTheEffect(t *testing.T) {
	version := func(file string) string {
		t.Helper()
		r, err := Parse(file)
		if err != nil {
			t.Fatal(err)
		}
		return r.Version()
	}
	is := version("name x\nword sunset\nword moonrise\nremove <>")
	for _, same := range []string{"name x\nremove ><>\nword MOONRISE\n# hm\nword sùnset\n", "remove < >\n\nname x\nword sunset\nword moonrise"} {
		if got := version(same); got != is {
			t.Errorf("%q is %s, want %s", same, got, is)
		}
	}
	seen := map[string]bool{is: true}
	for _, other := range []string{"name y\nword sunset\nword moonrise\nremove <>", "name x\nword sunset\nremove <>", "name x\nword sunset\nword moonrise\nremove <", "name x\nword sunsetmoonrise\nremove <>"} {
		if got := version(other); seen[got] {
			t.Errorf("%q is %s, like other rules", other, got)
		}
		seen[version(other)] = true
	}
	if v := Default().Version(); !strings.HasPrefix(v, "seed/") || len(v) != len("seed/")+16 {
		t.Errorf("the rules of this build are %s", v)
	}
}

func TestWordsOfAFileAreRefused(t *testing.T) {
	r, err := Parse("name x\nword Straße\nword mp3\nword 暴力\nword ненависть\nword fail\nword sun\nword sunset\nword ass\nremove #")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"strasse": true, "STRAẞE": true, "Straßen": false,
		"an mp3 file": true, "mp-3": true, "m p 3": true, "the mp 3 times": false, "mpe": false, "mp33": false,
		"这是暴力的": true, "暴 力": true, "暴徒力量": false,
		"Ненависть!": true, "н е н а в и с т ь": true, "ненависти": false,
		"FAIL": true, "fa1l": true, "fall": false, "falling": false,
		"sun": true, "sunset": true, "suns": false, "sunsets": false, "s u n s e t": true, "sunflower": false,
		"suun": false, "suuun": true, "sunn": false, "sunnn": true, "sunsett": true, "suunsett": true, "sunnset": false,
		"ass of": true, "as": false, "failll": true, "f4ilure": false,
		"나는mp3를": true, "暴力이": true,
		"a55": false, "455": false, "as5": true, "@ss": true, "b@ss": false, "a$$": false, "a$$et": false, "as$": true, "assess": false,
		"a # b": false, "": false,
	} {
		if got := r.refuses(text); got != want {
			t.Errorf("%q: refused %v, want %v", text, got, want)
		}
	}
	if clean, err := r.Prompt("# 1 <b>"); clean != " 1 <b>" || err != nil {
		t.Errorf("%q, %v", clean, err)
	}
}

// TestShortWordsInPiecesMustMeetMoreConditions checks sentences with the letters of
// refused words. A sentence that contains the letters of a short word by chance must be
// accepted.
func TestShortWordsInPiecesMustMeetMoreConditions(t *testing.T) {
	r, err := Parse("name x\nword sunset\nword moonrise\nword later")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"The sun set at six.": false, "sun-set": true, "sun-\nset": true, "sun\nset": false, "s unset": true, "s un set": false, "sun–set": true,
		"suns et": false, "suns-et": true, "sunse-7": false, "sunse7": true, "5un-5et": true, "s u n s e 7": true,
		"moon rise": true, "moon, rise": true, "moon.\nRise": true, "moo n r 1 5 3": true, "moon    rise": false,
		"the latter": false, "laterr": true, "lattter": true, "laatter": true, "llater": true, "mooonrise": true, "moonnrise": true,
	} {
		if got := r.refuses(text); got != want {
			t.Errorf("%q: refused %v, want %v", text, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{seed, "name x\nword ﬁsh\nremove <", "name x\r\nword \u200b", "word", "\ufeff", "name x\nword \xff", "name x\nword 暴力\nword ⓗⓘ"} {
		f.Add(file, "some text with fish")
	}
	f.Fuzz(func(t *testing.T, file, text string) {
		r, err := Parse(file)
		if err != nil {
			if r != nil || !utf8.ValidString(err.Error()) {
				t.Fatalf("%v, %q", r, err)
			}
			return
		}
		again, err := Parse(file)
		if err != nil || again.Version() != r.Version() {
			t.Fatalf("%v, %v", again, err)
		}
		refused := r.refuses(text)
		if refused != again.refuses(text) {
			t.Fatalf("%q gets two different results", text)
		}
		// A refused text must also be refused with spaces around it.
		if refused && !r.refuses(" "+text+" ") {
			t.Fatalf("%q is refused, and not between spaces", text)
		}
		for line := range strings.Lines(file) {
			if word, ok := strings.CutPrefix(strings.TrimSpace(line), "word "); ok && !r.refuses(word) {
				t.Fatalf("%q is a rule and passes", word)
			}
		}
	})
}
