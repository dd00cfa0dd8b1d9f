package gpt2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"colophon/internal/strictjson"
)

// maxTokenizerFile is the largest size in bytes of vocab.json and merges.txt.
const maxTokenizerFile = 64 << 20

// A Tokenizer is the byte-level byte-pair encoding of GPT-2 (github.com/openai/gpt-2,
// encoder.py). It cuts text into [Words] and merges the bytes of a word, pair by pair,
// in the order of a list of merges. A Tokenizer is immutable and safe for concurrent
// use.
//
// If every byte has a token, every text has an encoding, even if the text is not UTF-8.
// Decode(Encode(text)) equals text, byte for byte. Text that spells a special token, such
// as "<|endoftext|>", is ordinary text. A nil Tokenizer has no tokens, so it encodes and
// decodes nothing.
type Tokenizer struct {
	texts  []string         // bytes of each token, by id; "" for an id without a token
	bytes  [256]int32       // token id of each byte, or NoToken
	merges map[uint64]merge // merges by the pair of ids that they replace
	added  [2]addedTokens   // tokens that are found in a text before it is cut into words: those of added[0] first
}

// NoToken stands in an encoding for a byte that has no token. No engine accepts it.
const NoToken = -1

// A merge replaces a pair of adjacent tokens by the token with the given id. Merges
// with lower ranks come first.
type merge struct{ rank, id int32 }

// pair returns the key of a pair of ids in Tokenizer.merges.
func pair(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) }

// ReadTokenizer reads vocab.json and merges.txt. If one of them is missing, it reads
// tokenizer.json.
func ReadTokenizer(fsys fs.FS) (*Tokenizer, error) {
	vocab, err := readFile(fsys, vocabName, maxTokenizerFile)
	var merges []byte
	if err == nil {
		merges, err = readFile(fsys, mergesName, maxTokenizerFile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		b, jsonErr := readFile(fsys, tokenizerName, maxTokenizerFile)
		switch {
		case jsonErr == nil:
			t, err := parseTokenizerJSON(b)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", tokenizerName, err)
			}
			return t, nil
		case !errors.Is(jsonErr, fs.ErrNotExist):
			return nil, jsonErr
		}
		return nil, fmt.Errorf("%w, and there is no %s", err, tokenizerName)
	}
	if err != nil {
		return nil, err
	}
	return parseTokenizer(vocab, merges)
}

const (
	vocabName     = "vocab.json"
	mergesName    = "merges.txt"
	tokenizerName = "tokenizer.json"
)

// TokenizerFiles returns the names of the files that ReadTokenizer reads. If files are
// missing, it returns the names of vocab.json and merges.txt.
func TokenizerFiles(fsys fs.FS) []string {
	for _, name := range []string{vocabName, mergesName} {
		if _, err := fs.Stat(fsys, name); err != nil {
			if _, err := fs.Stat(fsys, tokenizerName); err == nil {
				return []string{tokenizerName}
			}
		}
	}
	return []string{vocabName, mergesName}
}

func parseTokenizer(vocab, merges []byte) (*Tokenizer, error) {
	ids, err := parseVocab(vocab)
	if err != nil {
		return nil, fmt.Errorf("read vocab.json: %w", err)
	}
	t, err := newTokenizer(ids)
	if err != nil {
		return nil, fmt.Errorf("read vocab.json: %w", err)
	}
	if t.merges, err = parseMerges(merges, ids); err != nil {
		return nil, fmt.Errorf("read merges.txt: %w", err)
	}
	return t, nil
}

// newTokenizer returns a tokenizer without merges. A byte whose token is not among the
// ids has none.
func newTokenizer(ids map[string]int32) (*Tokenizer, error) {
	t := &Tokenizer{}
	toByte := make(map[rune]byte, 256)
	known := false
	for b, r := range ByteAlphabet() {
		id, ok := ids[string(r)]
		if !ok {
			id = NoToken
		}
		known = known || ok
		t.bytes[b] = id
		toByte[r] = byte(b)
	}
	if !known {
		return nil, errors.New("no token stands for a byte: this is not the vocabulary of a byte-level BPE")
	}
	for s, id := range ids {
		t.set(id, fromAlphabet(s, toByte))
	}
	return t, nil
}

// set sets the text of a token.
func (t *Tokenizer) set(id int32, text string) {
	if n := int(id) + 1 - len(t.texts); n > 0 {
		t.texts = append(t.texts, make([]string, n)...)
	}
	t.texts[id] = text
}

// parseVocab reads a JSON object from token to id.
func parseVocab(b []byte) (map[string]int32, error) {
	ids := map[string]int32{}
	byID := map[int32]string{}
	err := strictjson.Object(bytes.NewReader(b), func(s string, value []byte) error {
		var id int32
		if json.Unmarshal(value, &id) != nil || id < 0 || id >= maxVocab {
			return fmt.Errorf("token %q has id %s, want 0 to %d", short(s), short(string(value)), maxVocab-1)
		}
		if s == "" {
			return errors.New("a token is empty")
		}
		if other, ok := byID[id]; ok {
			two := []string{short(other), short(s)}
			slices.Sort(two)
			return fmt.Errorf("tokens %q have the same id %d", two, id)
		}
		ids[s], byID[id] = id, s
		return nil
	})
	if err != nil {
		return nil, jsonError("token", err)
	}
	return ids, nil
}

// parseMerges reads the merges in the order of rank. Each line has two tokens with a
// space between them. The first line may be a version.
func parseMerges(b []byte, ids map[string]int32) (map[uint64]merge, error) {
	merges := mergeList{ids, make(map[uint64]merge, len(ids))}
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || number == 1 && strings.HasPrefix(line, "#version") {
			continue
		}
		if err := merges.addLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return merges.merges, nil
}

// A mergeList collects merges in the order of rank.
type mergeList struct {
	ids    map[string]int32
	merges map[uint64]merge
}

// addLine adds a merge that is written as two tokens with a space between them.
func (l *mergeList) addLine(line string) error {
	left, right, _ := strings.Cut(line, " ")
	if left == "" || right == "" || strings.Contains(right, " ") {
		return fmt.Errorf("%q is not two tokens", short(line))
	}
	return l.add(left, right)
}

func (l *mergeList) add(left, right string) error {
	var id [3]int32
	for i, s := range []string{left, right, left + right} {
		var ok bool
		if id[i], ok = l.ids[s]; !ok {
			return fmt.Errorf("token %q is not in the vocabulary", short(s))
		}
	}
	p := pair(id[0], id[1])
	if _, ok := l.merges[p]; ok {
		return fmt.Errorf("%q is repeated", short(left+" "+right))
	}
	l.merges[p] = merge{rank: int32(len(l.merges)), id: id[2]}
	return nil
}

// ByteAlphabet returns the character that stands for each byte in vocab.json and
// merges.txt (github.com/openai/gpt-2, encoder.py, bytes_to_unicode). A byte that is a
// printable character of Latin-1 stands for itself. The other bytes have the characters
// from U+0100 up, in order.
func ByteAlphabet() [256]rune {
	var a [256]rune
	next := rune(256)
	for b := range a {
		r := rune(b)
		if r <= ' ' || r >= 0x7f && r <= 0xa0 || r == 0xad {
			r, next = next, next+1
		}
		a[b] = r
	}
	return a
}

// fromAlphabet returns the bytes of a token that is written in ByteAlphabet. It
// returns the text of a special token, which is not in ByteAlphabet, unchanged.
func fromAlphabet(s string, toByte map[rune]byte) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		c, ok := toByte[r]
		if !ok {
			return s
		}
		b = append(b, c)
	}
	return string(b)
}

// Size returns the number of token ids.
func (t *Tokenizer) Size() int {
	if t == nil {
		return 0
	}
	return len(t.texts)
}

// Encode returns the token ids of text. A byte without a token has the id [NoToken].
func (t *Tokenizer) Encode(text string) []int {
	if t == nil {
		return nil
	}
	ids := make([]int, 0, len(text)/3+1)
	var w word
	for part, id := range t.added[0].split(text) {
		if id != NoToken {
			ids = append(ids, int(id))
			continue
		}
		for part, id := range t.added[1].split(part) {
			if id != NoToken {
				ids = append(ids, int(id))
				continue
			}
			for s := range Words(part) {
				ids = w.encode(ids, t, s)
			}
		}
	}
	return ids
}

// Decode returns the bytes of all ids, one id after the other. The bytes may end in the
// middle of a character. An id that is not in the vocabulary has no bytes.
func (t *Tokenizer) Decode(ids []int) []byte {
	var b []byte
	for _, id := range ids {
		if id >= 0 && id < t.Size() {
			b = append(b, t.texts[id]...)
		}
	}
	return b
}
