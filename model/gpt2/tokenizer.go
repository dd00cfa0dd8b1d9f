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
// Every text has an encoding, even if the text is not UTF-8. Decode(Encode(text))
// equals text, byte for byte. Text that spells a special token, such as
// "<|endoftext|>", is ordinary text. A nil Tokenizer has no tokens, so it encodes and
// decodes nothing.
type Tokenizer struct {
	texts  []string         // bytes of each token, by id
	bytes  [256]int32       // token id of each byte
	merges map[uint64]merge // merges by the pair of ids that they replace
}

// A merge replaces a pair of adjacent tokens by the token with the given id. Merges
// with lower ranks come first.
type merge struct{ rank, id int32 }

// pair returns the key of a pair of ids in Tokenizer.merges.
func pair(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) }

// ReadTokenizer reads vocab.json and merges.txt.
func ReadTokenizer(fsys fs.FS) (*Tokenizer, error) {
	vocab, err := readFile(fsys, "vocab.json", maxTokenizerFile)
	if err != nil {
		return nil, err
	}
	merges, err := readFile(fsys, "merges.txt", maxTokenizerFile)
	if err != nil {
		return nil, err
	}
	return parseTokenizer(vocab, merges)
}

func parseTokenizer(vocab, merges []byte) (*Tokenizer, error) {
	ids, err := parseVocab(vocab)
	if err != nil {
		return nil, fmt.Errorf("read vocab.json: %w", err)
	}
	t := &Tokenizer{texts: make([]string, len(ids))}
	toByte := make(map[rune]byte, 256)
	for b, r := range ByteAlphabet() {
		id, ok := ids[string(r)]
		if !ok {
			return nil, fmt.Errorf("read vocab.json: no token %q, which stands for the byte %#02x", string(r), b)
		}
		t.bytes[b] = id
		toByte[r] = byte(b)
	}
	for s, id := range ids {
		t.texts[id] = fromAlphabet(s, toByte)
	}
	if t.merges, err = parseMerges(merges, ids); err != nil {
		return nil, fmt.Errorf("read merges.txt: %w", err)
	}
	return t, nil
}

// parseVocab reads a JSON object from token to id. The ids must be 0 to n-1.
func parseVocab(b []byte) (map[string]int32, error) {
	ids := map[string]int32{}
	err := strictjson.Object(bytes.NewReader(b), func(s string, value []byte) error {
		var id int32
		if err := json.Unmarshal(value, &id); err != nil {
			return fmt.Errorf("token %q: %w", short(s), err)
		}
		if s == "" {
			return errors.New("a token is empty")
		}
		if len(ids) == maxVocab {
			return fmt.Errorf("more than %d tokens", maxVocab)
		}
		ids[s] = id
		return nil
	})
	if err != nil {
		return nil, jsonError("token", err)
	}
	taken := make([]string, len(ids))
	for s, id := range ids {
		if id < 0 || int(id) >= len(ids) {
			return nil, fmt.Errorf("token %q has id %d, want 0 to %d", short(s), id, len(ids)-1)
		}
		if taken[id] != "" {
			two := []string{short(taken[id]), short(s)}
			slices.Sort(two)
			return nil, fmt.Errorf("tokens %q have the same id %d", two, id)
		}
		taken[id] = s
	}
	return ids, nil
}

// parseMerges reads the merges in the order of rank. Each line has two tokens with a
// space between them. The first line may be a version.
func parseMerges(b []byte, ids map[string]int32) (map[uint64]merge, error) {
	merges := make(map[uint64]merge, len(ids))
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || number == 1 && strings.HasPrefix(line, "#version") {
			continue
		}
		left, right, ok := strings.Cut(line, " ")
		if !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return nil, fmt.Errorf("line %d: %q is not two tokens", number, short(line))
		}
		var id [3]int32
		for i, s := range []string{left, right, left + right} {
			if id[i], ok = ids[s]; !ok {
				return nil, fmt.Errorf("line %d: token %q is not in vocab.json", number, short(s))
			}
		}
		p := pair(id[0], id[1])
		if _, ok := merges[p]; ok {
			return nil, fmt.Errorf("line %d: %q is repeated", number, short(line))
		}
		merges[p] = merge{rank: int32(len(merges)), id: id[2]}
	}
	return merges, nil
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

// Encode returns the token ids of text.
func (t *Tokenizer) Encode(text string) []int {
	if t == nil {
		return nil
	}
	ids := make([]int, 0, len(text)/3+1)
	var w word
	for s := range Words(text) {
		ids = w.encode(ids, t, s)
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
