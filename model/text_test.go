package model

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTextReplacesMaximalSubparts(t *testing.T) {
	b, err := os.ReadFile("gpt2/testdata/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Decode []struct {
			BytesHex string `json:"bytes_hex"`
			Text     string `json:"text_errors_replace"`
		}
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"":                                   "",
		"a中😀":                                "a中😀",
		"\xf0\x9f\x98":                       "\ufffd",
		"\xf0\x9f\x98a":                      "\ufffda",
		"\xf0\x80\x80":                       "\ufffd\ufffd\ufffd", // a character encoded in too many bytes
		"\xed\xa0\x80":                       "\ufffd\ufffd\ufffd", // a UTF-16 surrogate
		"\xf4\x90\x80\x80":                   "\ufffd\ufffd\ufffd\ufffd",
		"\xc0\xaf":                           "\ufffd\ufffd",
		"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf":   "\ufffd\ufffd\ufffd\ufffd",
		"A\xe1\x80\xe2\xf0\x91\x92\xf1\xbfA": "A\ufffd\ufffd\ufffd\ufffdA", // the example in table 3-11 of Unicode
		"\x80\x80":                           "\ufffd\ufffd",
		"\xef\xbf\xbd":                       "\ufffd",
		"\xff\xfe\x00ok":                     "\ufffd\ufffd\x00ok",
	}
	for _, g := range golden.Decode {
		raw, err := hex.DecodeString(g.BytesHex)
		if err != nil {
			t.Fatal(err)
		}
		cases[string(raw)] = g.Text
	}
	if len(cases) < 30 {
		t.Fatalf("%d cases", len(cases))
	}
	for in, want := range cases {
		if got := Text([]byte(in)); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestOffsetsCountCharacters(t *testing.T) {
	for _, c := range []struct {
		pieces string // separated by |
		want   []int
	}{
		{"", []int{0}},
		{"a|bc|d", []int{0, 1, 3}},
		{"中|😀|é|x", []int{0, 1, 2, 3}},
		{"a\xe4|\xb8|\xad|b", []int{0, 1, 1, 2}}, // a character in three pieces
		{"\xf0\x9f|\x98\x80b|c", []int{0, 0, 2}}, // the second piece ends the character of the first
		{"\xf0\x9f|a|\xff|b", []int{0, 1, 2, 3}}, // a character that never ends
		{"a|\xf0\x9f\x98", []int{0, 1}},
		{"|a||b|", []int{0, 0, 1, 1, 2}}, // pieces without bytes
	} {
		var pieces [][]byte
		for piece := range strings.SplitSeq(c.pieces, "|") {
			pieces = append(pieces, []byte(piece))
		}
		if got := Offsets(pieces); !slices.Equal(got, c.want) {
			t.Errorf("%q: %v, want %v", c.pieces, got, c.want)
		}
	}
}

// FuzzOffsets cuts bytes into pieces. The last character of the text up to the first byte of a
// piece is the character that this byte belongs to.
func FuzzOffsets(f *testing.F) {
	f.Add([]byte("a中\xf0\x9f\x98é\xff"), uint64(0x5a))
	f.Add([]byte("\xf0\x9f\x98\x80\xed\xa0\x80"), uint64(0xff))
	f.Fuzz(func(t *testing.T, b []byte, cuts uint64) {
		pieces, want := [][]byte{nil}, []int{0}
		for i, c := range b {
			if cuts>>(i%64)&1 == 1 {
				pieces, want = append(pieces, nil), append(want, utf8.RuneCountInString(Text(b[:i+1]))-1)
			}
			last := len(pieces) - 1
			pieces[last] = append(pieces[last], c)
		}
		if got := Offsets(pieces); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", pieces, got, want)
		}
	})
}

// Text must give the same result for a whole text and for its pieces together, if the
// text is cut where complete allows it.
func FuzzTextInPieces(f *testing.F) {
	f.Add([]byte("a中\xf0\x9f\x98é\xff"), uint64(0x5a))
	f.Add([]byte("\xf0\x9f\x98\x80\xed\xa0\x80"), uint64(0xff))
	f.Fuzz(func(t *testing.T, b []byte, cuts uint64) {
		var got string
		var rest []byte
		for i, c := range b {
			rest = append(rest, c)
			if cuts>>(i%64)&1 == 1 {
				n := complete(rest)
				got += Text(rest[:n])
				rest = rest[n:]
			}
		}
		got += Text(rest)
		if want := Text(b); got != want || !utf8.ValidString(got) {
			t.Errorf("%q in pieces is %q, want %q", b, got, want)
		}
	})
}
