package gpt2

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

func TestTokenizerAgreesWithReferenceVectors(t *testing.T) {
	tok := gpt2Files(t).tokenizer
	b, err := os.ReadFile("testdata/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Encode []struct {
			Text    string
			UTF8Hex string `json:"utf8_hex"`
			IDs     []int
		}
		Decode []struct {
			IDs      []int
			BytesHex string `json:"bytes_hex"`
		}
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Encode) < 100 || len(golden.Decode) < 20 {
		t.Fatalf("%d and %d rows", len(golden.Encode), len(golden.Decode))
	}
	for _, g := range golden.Encode {
		raw, err := hex.DecodeString(g.UTF8Hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode(string(raw)); !slices.Equal(got, g.IDs) {
			t.Errorf("Encode(%q) = %v, want %v", g.Text, got, g.IDs)
		}
		if got := tok.Decode(g.IDs); !bytes.Equal(got, raw) {
			t.Errorf("Decode(%v) = %q, want %q", g.IDs, got, raw)
		}
	}
	for _, g := range golden.Decode {
		if got := hex.EncodeToString(tok.Decode(g.IDs)); got != g.BytesHex {
			t.Errorf("Decode(%v) = %s, want %s", g.IDs, got, g.BytesHex)
		}
	}
}

func TestTokenizerAgreesWithOracle(t *testing.T) {
	p := gpt2Files(t)
	rnd := rand.New(rand.NewPCG(20, 7))
	for range 20_000 {
		text := randomText(rnd)
		want, _, err := p.oracle.Encode(text)
		if err != nil {
			t.Fatal(err)
		}
		got := p.tokenizer.Encode(text)
		if !slices.EqualFunc(got, want, func(a int, b uint) bool { return a == int(b) }) {
			t.Fatalf("Encode(%q) = %v, want %v", text, got, want)
		}
		if back := p.tokenizer.Decode(got); string(back) != text {
			t.Fatalf("Decode(Encode(%q)) = %q", text, back)
		}
	}
}

// randomText returns a text of up to 40 pieces. The pieces are from the classes of
// characters that the pattern distinguishes.
func randomText(rnd *rand.Rand) string {
	spaces := []string{" ", " ", " ", "\n", "\t", "\r\n", "\v", "\f", "\u0085", "\u00a0", "\u1680", "\u2003", "\u2028", "\u2029", "\u205f", "\u3000"}
	words := []string{"the", "The", "dog", "quick", "antidisestablishment", "NASA", "camelCase", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", "''", "don't", "I'll"}
	runes := [][2]rune{
		{'!', '/'}, {'0', '9'}, {'a', 'z'}, {'A', 'Z'}, {0xa1, 0xff}, {0x100, 0x24f}, {0x2b0, 0x36f},
		{0x391, 0x3c9}, {0x400, 0x4ff}, {0x5d0, 0x5ea}, {0x660, 0x669}, {0x904, 0x963}, {0x2000, 0x206f}, {0x2070, 0x218b},
		{0x2190, 0x2bff}, {0x3040, 0x30ff}, {0x4e00, 0x9fff}, {0xac00, 0xd7a3}, {0xfe00, 0xfe0f}, {0x1d400, 0x1d7ff},
		{0x1f300, 0x1faff}, {0x1f1e6, 0x1f1ff}, {0x1, 0x1f}, {0x10000, 0x10ffff}, {0x1, 0xffff},
	}
	var b strings.Builder
	for range rnd.IntN(40) {
		switch rnd.IntN(6) {
		case 0:
			for range 1 + rnd.IntN(4) {
				b.WriteString(spaces[rnd.IntN(len(spaces))])
			}
		case 1:
			b.WriteByte(' ')
			fallthrough
		case 2:
			b.WriteString(words[rnd.IntN(len(words))])
		case 3:
			fmt.Fprintf(&b, "%d", rnd.IntN(1_000_000))
		default:
			span := runes[rnd.IntN(len(runes))]
			for range 1 + rnd.IntN(6) {
				r := span[0] + rnd.Int32N(span[1]-span[0]+1)
				// The independent tokenizer drops U+007F, so random texts do not contain
				// it. The reference vectors test it.
				if utf8.ValidRune(r) && r != 0x7f {
					b.WriteRune(r)
				}
			}
		}
	}
	return b.String()
}

// Encoding must take O(n log n) time for a word of n bytes. If it took O(n²), this test
// would take minutes.
func TestTokenizerEncodesLongWordsFast(t *testing.T) {
	tok := gpt2Files(t).tokenizer
	for _, unit := range []string{"a", "ab", "the", "中", "=", "\n", " "} {
		text := strings.Repeat(unit, 50_000/len(unit))
		ids := tok.Encode(text)
		if string(tok.Decode(ids)) != text {
			t.Errorf("%q repeated does not come back", unit)
		}
	}
}

// The heap must give the same merges as the definition, which compares all pairs before
// each merge.
func TestTokenizerMergesByDefinition(t *testing.T) {
	tok := gpt2Files(t).tokenizer
	rnd := rand.New(rand.NewPCG(3, 1))
	for range 3000 {
		s := make([]byte, rnd.IntN(60))
		for i := range s {
			s[i] = "aeinorst ht"[rnd.IntN(11)]
			if rnd.IntN(10) == 0 {
				s[i] = byte(rnd.IntN(256))
			}
		}
		var want []int
		for _, c := range s {
			want = append(want, int(tok.bytes[c]))
		}
		for {
			best, at := merge{rank: 1 << 30}, -1
			for i := range len(want) - 1 {
				if m, ok := tok.merges[pair(int32(want[i]), int32(want[i+1]))]; ok && m.rank < best.rank {
					best, at = m, i
				}
			}
			if at < 0 {
				break
			}
			want[at] = int(best.id)
			want = slices.Delete(want, at+1, at+2)
		}
		var w word
		if got := w.encode(nil, tok, string(s)); !slices.Equal(got, want) {
			t.Fatalf("%q: %v, want %v", s, got, want)
		}
	}
}

// byteVocab returns a vocab.json of the 256 bytes and the given tokens.
func byteVocab(more ...string) string {
	var b strings.Builder
	for i, r := range ByteAlphabet() {
		fmt.Fprintf(&b, "%s%s:%d", []string{"{", ","}[min(i, 1)], asciiJSON(string(r)), i)
	}
	for i, s := range more {
		fmt.Fprintf(&b, ",%s:%d", asciiJSON(s), 256+i)
	}
	return b.String() + "}"
}

func TestReadTokenizerRefusesInvalidFiles(t *testing.T) {
	good := byteVocab("ab", "abc", "<|endoftext|>", "中")
	for _, c := range []struct{ name, vocab, merges, want string }{
		{"empty vocab", "", "", "vocab.json: the text ends early"},
		{"not an object", "[]", "", "not a JSON object"},
		{"truncated", good[:len(good)-1], "", "vocab.json: the text ends early"},
		{"more follows", good + "{}", "", "something follows"},
		{"no bytes", `{"ab":0}`, "", "no token stands for a byte"},
		{"repeated token", strings.Replace(good, `"ab":256`, `"a":256`, 1), "", `token "a" is repeated`},
		{"same id", strings.Replace(good, `"ab":256`, `"ab":255`, 1), "", "have the same id 255"},
		{"too large", strings.Replace(good, `"ab":256`, `"ab":1048576`, 1), "", `token "ab" has id 1048576, want 0 to 1048575`},
		{"negative", strings.Replace(good, `"ab":256`, `"ab":-1`, 1), "", `has id -1`},
		{"fraction", strings.Replace(good, `"ab":256`, `"ab":2.5`, 1), "", `token "ab"`},
		{"huge", strings.Replace(good, `"ab":256`, `"ab":99999999999`, 1), "", `token "ab"`},
		{"text for id", strings.Replace(good, `"ab":256`, `"ab":"x"`, 1), "", `token "ab"`},
		{"empty token", strings.Replace(good, `"ab":256`, `"":256`, 1), "", "a token is empty"},
		{"one token", good, "#version: 0.2\nab\n", `line 2: "ab" is not two tokens`},
		{"three tokens", good, "a b c\n", `line 1: "a b c" is not two tokens`},
		{"no left", good, " b\n", "not two tokens"},
		{"unknown part", good, "a bc\n", `line 1: token "bc" is not in the vocabulary`},
		{"unknown result", good, "a c\n", `token "ac" is not in the vocabulary`},
		{"merge twice", good, "a b\na b\n", `line 2: "a b" is repeated`},
		{"later version line", good, "a b\n#version: 0.2\n", `line 2: token "#version:" is not in the vocabulary`},
	} {
		_, err := ReadTokenizer(fstest.MapFS{"vocab.json": {Data: []byte(c.vocab)}, "merges.txt": {Data: []byte(c.merges)}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := ReadTokenizer(fstest.MapFS{"vocab.json": {Data: []byte(good)}}); err == nil || !strings.Contains(err.Error(), "merges.txt") {
		t.Errorf("no merges.txt: %v", err)
	}
	tok, err := ReadTokenizer(fstest.MapFS{"vocab.json": {Data: []byte(good)}, "merges.txt": {Data: []byte("#version: 0.2\r\na b\r\nab c\r\n")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("abcab"); !slices.Equal(got, []int{257, 256}) {
		t.Errorf("with CRLF: %v", got)
	}
	if got := string(tok.Decode([]int{258, 259, 257, -1, 260})); got != "<|endoftext|>中abc" {
		t.Errorf("special tokens decode to %q", got)
	}
}

func FuzzTokenizerRoundTrip(f *testing.F) {
	tok := gpt2Files(f).tokenizer
	for _, s := range []string{"", "Hello world", "\xff\xfe", "a\u0085\u00a0b", "don't  stop\n\n", "\xf0\x9f\x98", "<|endoftext|>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ids := tok.Encode(s)
		if got := string(tok.Decode(ids)); got != s {
			t.Fatalf("%q came back as %q", s, got)
		}
		for _, id := range ids {
			if id < 0 || id >= tok.Size()-1 {
				t.Fatalf("%q has id %d", s, id)
			}
		}
	})
}

func FuzzVocab(f *testing.F) {
	f.Add([]byte(byteVocab("ab", "abc")))
	f.Add([]byte(`{"a":0,"a":1}`))
	f.Add([]byte(`{"a":1e3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := parseTokenizer(b, []byte("a b\n"))
		if err != nil {
			return
		}
		if ids := tok.Encode("\x00ab\xff"); !slices.Contains(ids, NoToken) && string(tok.Decode(ids)) != "\x00ab\xff" {
			t.Fatal("accepted, but does not round-trip")
		}
	})
}

func FuzzMerges(f *testing.F) {
	vocab := []byte(byteVocab("ab", "abc", "bc", "aa", "aaaa"))
	f.Add([]byte("#version: 0.2\na b\nab c\n"), "abcabaaaa")
	f.Add([]byte("b c\na bc\na a\naa aa"), "aaaaabc")
	f.Fuzz(func(t *testing.T, b []byte, s string) {
		tok, err := parseTokenizer(vocab, b)
		if err == nil && string(tok.Decode(tok.Encode(s))) != s {
			t.Fatal("accepted, but does not round-trip")
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	tok := gpt2Files(b).tokenizer
	text := strings.Repeat("The quick brown fox doesn't jump over 1234 lazy dogs, naïvely; ", 8)[:500]
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Encode(text)
	}
}
