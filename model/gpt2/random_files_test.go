package gpt2

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
)

func TestWrittenRandomWeightsAreReadBack(t *testing.T) {
	var file bytes.Buffer
	ck := Random(smallShape(), 5)
	if err := ck.write(&file); err != nil {
		t.Fatal(err)
	}
	read, err := ReadCheckpoint(smallFiles(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for name := range ck.Config.Tensors() {
		want, _ := ck.Tensor(name)
		if got, err := read.Tensor(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s differs: %v", name, err)
		}
	}
}

func TestSyntheticVocabularyIsReadableText(t *testing.T) {
	const n = 50257
	ids, merges := syntheticVocabulary(n)
	vocab, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := parseTokenizer(vocab, []byte(merges))
	if err != nil || tok.Size() != n {
		t.Fatalf("%d tokens, %v", tok.Size(), err)
	}
	for id := 256; id < n-1; id++ {
		text := tok.Decode([]int{id})
		if len(text) < 2 || len(text) > 3 || slices.ContainsFunc(text, func(b byte) bool { return b < ' ' || b > '~' }) {
			t.Fatalf("token %d is %q", id, text)
		}
	}
	if got := tok.Encode(" qwe rty"); len(got) > 4 {
		t.Errorf("%d tokens for eight letters", len(got))
	}
}
