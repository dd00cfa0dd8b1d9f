package model

import (
	"encoding/hex"
	"encoding/json"
	"os"
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
