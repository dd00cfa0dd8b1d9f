package gpt2

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"unicode/utf16"

	"github.com/tiktoken-go/tokenizer"
)

// The published vocab.json and merges.txt have 1.5 MB. The tests rebuild these files
// from the tables of tiktoken-go, which has the same encoding. Then they compare the
// digests of the files with the published digests.
const (
	vocabDigest  = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
	mergesDigest = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
)

type published struct {
	files     fs.FS
	tokenizer *Tokenizer
	oracle    tokenizer.Codec
}

var loadPublished = sync.OnceValues(func() (*published, error) {
	oracle, err := tokenizer.Get(tokenizer.R50kBase)
	if err != nil {
		return nil, err
	}
	const n = 50256 // number of tokens without <|endoftext|>
	letters := ByteAlphabet()
	spell := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			b.WriteRune(letters[c])
		}
		return b.String()
	}
	// The last merge of a token joins the two parts that the earlier merges make.
	known := map[string]int{}
	var vocab, merges bytes.Buffer
	merges.WriteString("#version: 0.2\n")
	for id := range n {
		s, err := oracle.Decode([]uint{uint(id)})
		if err != nil {
			return nil, err
		}
		if len(s) > 1 {
			left, right := lastMerge(s, known)
			fmt.Fprintf(&merges, "%s %s\n", spell(left), spell(right))
		}
		known[s] = id
		vocab.WriteString([]string{"{", ", "}[min(id, 1)])
		fmt.Fprintf(&vocab, "%s: %d", asciiJSON(spell(s)), id)
	}
	fmt.Fprintf(&vocab, ", \"<|endoftext|>\": %d}", n)
	for _, f := range []struct {
		name, digest string
		b            []byte
	}{{"vocab.json", vocabDigest, vocab.Bytes()}, {"merges.txt", mergesDigest, merges.Bytes()}} {
		if sum := sha256.Sum256(f.b); hex.EncodeToString(sum[:]) != f.digest {
			return nil, fmt.Errorf("rebuilt %s has digest %x, want %s", f.name, sum, f.digest)
		}
	}
	p := &published{oracle: oracle, files: fstest.MapFS{
		"vocab.json": {Data: vocab.Bytes()},
		"merges.txt": {Data: merges.Bytes()},
	}}
	p.tokenizer, err = ReadTokenizer(p.files)
	return p, err
})

// gpt2Files returns the published tokenizer, and an independent one for comparison.
func gpt2Files(t testing.TB) *published {
	t.Helper()
	p, err := loadPublished()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// lastMerge merges the bytes of s into known tokens until only two tokens are left.
func lastMerge(s string, known map[string]int) (left, right string) {
	parts := strings.Split(s, "")
	if len(parts) != len(s) {
		parts = parts[:0]
		for i := range len(s) {
			parts = append(parts, s[i:i+1])
		}
	}
	for len(parts) > 2 {
		best, at := len(known), -1
		for i := range len(parts) - 1 {
			if id, ok := known[parts[i]+parts[i+1]]; ok && id < best {
				best, at = id, i
			}
		}
		parts[at] += parts[at+1]
		parts = append(parts[:at+1], parts[at+2:]...)
	}
	return parts[0], parts[1]
}

// asciiJSON returns s as a JSON string in which all characters beyond ASCII are
// escaped.
func asciiJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x7f:
			b.WriteRune(r)
		default:
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
		}
	}
	b.WriteByte('"')
	return b.String()
}
