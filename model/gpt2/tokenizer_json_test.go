package gpt2

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"colophon/model"
	"colophon/model/modeltest"
)

// tokenizerJSON returns a tokenizer.json of 300 tokens with changed members.
func tokenizerJSON(changes map[string]any) fstest.MapFS {
	return fstest.MapFS{tokenizerName: {Data: modeltest.TokenizerJSON(300, changes)}}
}

// bpe returns the member model of a tokenizer.json with one changed member.
func bpe(name string, value any) map[string]any {
	var file struct{ Model map[string]any }
	if err := json.Unmarshal(modeltest.TokenizerJSON(300, nil), &file); err != nil {
		panic(err)
	}
	file.Model[name] = value
	return map[string]any{"model": file.Model}
}

func TestTokenizerJSONAloneEncodesLikeVocabAndMerges(t *testing.T) {
	want, err := ReadTokenizer(modeltest.NewNetwork(nil).Files())
	if err != nil {
		t.Fatal(err)
	}
	var pairs [][2]string
	_, merges := modeltest.Vocabulary(300)
	for _, m := range merges {
		left, right, _ := strings.Cut(m, " ")
		pairs = append(pairs, [2]string{left, right})
	}
	sequence := func(name string, parts ...any) map[string]any { return map[string]any{"type": "Sequence", name: parts} }
	byteLevel := map[string]any{"type": "ByteLevel"}
	for name, changes := range map[string]map[string]any{
		"as saved":             nil,
		"merges as arrays":     bpe("merges", pairs),
		"no type":              bpe("type", nil),
		"unknown token":        bpe("unk_token", "<|endoftext|>"),
		"sequences":            {"normalizer": sequence("normalizers"), "pre_tokenizer": sequence("pretokenizers", byteLevel), "post_processor": sequence("processors", byteLevel)},
		"no post-processor":    {"post_processor": nil, "decoder": nil},
		"template without any": {"post_processor": map[string]any{"type": "TemplateProcessing", "single": []any{map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}}}},
		"truncation":           {"truncation": map[string]any{"max_length": 3}},
	} {
		tok, err := ReadTokenizer(tokenizerJSON(changes))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tok.Size() != want.Size() {
			t.Errorf("%s: %d tokens, want %d", name, tok.Size(), want.Size())
		}
		rnd := rand.New(rand.NewPCG(8, 9))
		for range 500 {
			text := randomText(rnd) + " the then<|endoftext|>"
			ids := tok.Encode(text)
			if !slices.Equal(ids, want.Encode(text)) || string(tok.Decode(ids)) != text {
				t.Fatalf("%s: Encode(%q) = %v, want %v", name, text, ids, want.Encode(text))
			}
		}
		if got := string(tok.Decode([]int{299, 258})); got != "<|endoftext|> the" {
			t.Errorf("%s: decoded %q", name, got)
		}
	}
}

func TestAddedTokensAreFoundBeforeWords(t *testing.T) {
	added := func(id int, content string, special, normalized bool) map[string]any {
		return map[string]any{"id": id, "content": content, "special": special, "normalized": normalized, "single_word": false, "lstrip": false, "rstrip": false}
	}
	tok, err := ReadTokenizer(tokenizerJSON(map[string]any{"added_tokens": []any{
		added(299, "<|endoftext|>", true, true), added(300, "<user>", false, false), added(301, "<user>x", false, false),
		added(302, "er>", false, true), added(303, "he", false, true), added(305, "中", true, false),
	}}))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]int{
		"<user>":            {300},
		"a<user>xb":         {'a', 301, 'b'},
		"<user><user>":      {300, 300},
		"<us er>":           {'<', 'u', 's', ' ', 302},
		"there the":         {'t', 303, 'r', 'e', ' ', 't', 303},
		"":                  {},
		"the<user":          {'t', 303, '<', 'u', 's', 'e', 'r'},
		"<|endoftext|>\xff": {'<', '|', 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', 't', '|', '>', 0xff},
	} {
		if got := tok.Encode(text); !slices.Equal(got, want) || string(tok.Decode(got)) != text {
			t.Errorf("Encode(%q) = %v, want %v", text, got, want)
		}
	}
	if got := string(tok.Decode([]int{304, 305, 306})); tok.Size() != 306 || got != "中" {
		t.Errorf("%d tokens, decoded %q", tok.Size(), got)
	}
}

func TestTokenizerJSONOfAnotherKindIsRefusedByName(t *testing.T) {
	of := func(kind string) map[string]any { return map[string]any{"type": kind} }
	token := func(name string, value any) []any {
		return []any{map[string]any{"id": 300, "content": "<user>", name: value}}
	}
	for name, c := range map[string]struct {
		changes map[string]any
		want    string
	}{
		"normalizer":         {map[string]any{"normalizer": of("NFC")}, `normalizer: type "NFC" is not supported, only none`},
		"normalizers":        {map[string]any{"normalizer": map[string]any{"type": "Sequence", "normalizers": []any{of("NFC"), of("Strip")}}}, "normalizer: a Sequence of 2 is not supported"},
		"no pre-tokenizer":   {map[string]any{"pre_tokenizer": nil}, `pre_tokenizer: type "" is not supported, only ByteLevel`},
		"pre-tokenizer":      {map[string]any{"pre_tokenizer": of("Metaspace")}, `pre_tokenizer: type "Metaspace"`},
		"prefix space":       {map[string]any{"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": true}}, "pre_tokenizer: add_prefix_space is not supported"},
		"no regex":           {map[string]any{"pre_tokenizer": map[string]any{"type": "ByteLevel", "use_regex": false}}, "pre_tokenizer: ByteLevel without use_regex"},
		"post-processor":     {map[string]any{"post_processor": of("BertProcessing")}, `post_processor: type "BertProcessing"`},
		"template":           {map[string]any{"post_processor": map[string]any{"type": "TemplateProcessing", "single": []any{map[string]any{"SpecialToken": 1}, map[string]any{"Sequence": 1}}}}, "post_processor: TemplateProcessing that adds special tokens"},
		"decoder":            {map[string]any{"decoder": of("WordPiece")}, `decoder: type "WordPiece" is not supported, only ByteLevel`},
		"decoder of a list":  {map[string]any{"decoder": []any{}}, "decoder: not an object with a type"},
		"model":              {map[string]any{"model": of("Unigram")}, `model: type "Unigram" is not supported, only BPE`},
		"no model":           {map[string]any{"model": nil}, "model: missing"},
		"dropout":            {bpe("dropout", 0.1), "model: dropout is not supported"},
		"prefix":             {bpe("continuing_subword_prefix", "##"), "model: continuing_subword_prefix is not supported"},
		"suffix":             {bpe("end_of_word_suffix", "</w>"), "model: end_of_word_suffix is not supported"},
		"byte fallback":      {bpe("byte_fallback", true), "model: byte_fallback is not supported"},
		"ignored merges":     {bpe("ignore_merges", true), "model: ignore_merges is not supported"},
		"no vocabulary":      {bpe("vocab", nil), "model: vocab or merges is missing"},
		"other vocabulary":   {bpe("vocab", map[string]int{"ab": 0}), "model: vocab: no token stands for a byte"},
		"merges of a text":   {bpe("merges", "a b"), "model: merges: not an array"},
		"merge of three":     {bpe("merges", []any{"t h", []string{"a", "b", "c"}}), `model: merges: merge 2: ["a","b","c"] is not two tokens`},
		"merge of a number":  {bpe("merges", []any{7}), "model: merges: merge 1: 7 is not two tokens"},
		"merge without":      {bpe("merges", []any{"a b"}), `model: merges: merge 1: token "ab" is not in the vocabulary`},
		"added list":         {map[string]any{"added_tokens": map[string]any{}}, "added_tokens: not an array"},
		"added token":        {map[string]any{"added_tokens": token("lstrip", true)}, `added_tokens: token "<user>" has single_word, lstrip or rstrip`},
		"added id":           {map[string]any{"added_tokens": token("id", 1<<20)}, `added_tokens: token "<user>" has id 1048576`},
		"added empty":        {map[string]any{"added_tokens": token("content", "")}, "added_tokens: a token is empty"},
		"added with two ids": {map[string]any{"added_tokens": token("content", "th")}, `added_tokens: token "th" has the ids 256 and 300`},
		"added on another":   {map[string]any{"added_tokens": token("id", 256)}, `added_tokens: tokens ["th" "<user>"] have the same id 256`},
	} {
		_, err := ReadTokenizer(tokenizerJSON(c.changes))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "read tokenizer.json: ") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for content, want := range map[string]string{
		"":                             "the text ends early",
		"\xef\xbb\xbf{}":               "begins with a byte-order mark",
		"version https://git-lfs.gith": "a pointer of Git LFS",
		`{"model":{},"model":{}}`:      `member "model" is repeated`,
	} {
		_, err := ReadTokenizer(fstest.MapFS{tokenizerName: {Data: []byte(content)}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	if _, err := ReadTokenizer(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no tokenizer.json") {
		t.Errorf("no files: %v", err)
	}
}

// Bytes that valid UTF-8 cannot have need no token. A byte without a token is an error when
// a text has it.
func TestMissingByteIsAnErrorWhenItIsMet(t *testing.T) {
	n := modeltest.NewNetwork(nil)
	files := n.Files()
	vocab, _ := modeltest.Vocabulary(300)
	letters := ByteAlphabet()
	for _, b := range []int{0, 1, 2, 127, 192, 193, 245, 255} {
		delete(vocab, string(letters[b]))
	}
	b, err := json.Marshal(vocab)
	if err != nil {
		t.Fatal(err)
	}
	files[vocabName] = &fstest.MapFile{Data: b}
	e, err := Load(files, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for text, missing := range map[string]bool{"the dog": false, "naïve é": false, "a\x7f": true, "\xff": true, "\x00": true} {
		ids := e.Encode(text)
		if slices.Contains(ids, NoToken) != missing {
			t.Errorf("%q: %v", text, ids)
		}
		s := modeltest.Open(t, e)
		if _, err := s.Next(t.Context(), ids...); errors.Is(err, model.ErrToken) != missing {
			t.Errorf("%q: %v", text, err)
		}
		s.Close()
	}
}

// A tokenizer may have more tokens than the network, and fewer. Those that the network
// lacks are an error when a text has them.
func TestVocabularyMayDifferFromTheNetwork(t *testing.T) {
	for vocab, text := range map[int]string{257: "the", 400: ""} {
		n := modeltest.NewNetwork(map[string]any{"vocab_size": vocab})
		files := n.Files()
		more, merges := modeltest.Vocabulary(300)
		b, err := json.Marshal(more)
		if err != nil {
			t.Fatal(err)
		}
		files[vocabName].Data, files[mergesName].Data = b, []byte(strings.Join(merges, "\n"))
		e, err := Load(files, Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		for _, s := range []string{"dog", "the"} {
			sequence := modeltest.Open(t, e)
			if _, err := sequence.Next(t.Context(), e.Encode(s)...); errors.Is(err, model.ErrToken) != (s == text) {
				t.Errorf("%d tokens, %q is %v: %v", vocab, s, e.Encode(s), err)
			}
			sequence.Close()
		}
		if got := e.Decode([]int{399}); len(got) != 0 {
			t.Errorf("%d tokens: 399 is %q", vocab, got)
		}
	}
}

// FuzzTokenizerJSON reads any bytes as tokenizer.json. A tokenizer that is accepted must
// give back every text that it can encode.
func FuzzTokenizerJSON(f *testing.F) {
	// Short seeds, because fuzzing tries to leave out each part of an input.
	f.Add([]byte(`{"pre_tokenizer":{"type":"ByteLevel"},"post_processor":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]},`+
		`"added_tokens":[{"id":3,"content":"<b>"},{"id":4,"content":"<b>a","normalized":true},{"id":5,"content":"<s>","special":true}]}`), "a<b>ab<b>a<s>")
	f.Add([]byte(`{"pre_tokenizer":{"type":"ByteLevel"},"model":{"vocab":{"a":0,"aa":5},"merges":["a a"]}}`), "aaa")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		tok, err := parseTokenizerJSON(b)
		if err != nil {
			return
		}
		ids := tok.Encode(text)
		for _, id := range ids {
			if id < NoToken || id >= tok.Size() {
				t.Fatalf("%q has id %d", text, id)
			}
		}
		if !slices.Contains(ids, NoToken) && string(tok.Decode(ids)) != text {
			t.Fatalf("%q came back as %q", text, tok.Decode(ids))
		}
	})
}
