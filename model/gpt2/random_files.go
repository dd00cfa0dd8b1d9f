package gpt2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// WriteRandom writes a model of the published shape into a directory. The four files
// have 500 MB. The model has the weights of [Random]. The tokens of its vocabulary have
// up to three ASCII characters, so generated texts are meaningless but readable.
func WriteRandom(dir string, seed uint64) error {
	ck := Random(Published(), seed)
	vocab, merges := syntheticVocabulary(ck.Config.Vocab)
	config, err := json.Marshal(map[string]any{
		"model_type": "gpt2", "vocab_size": ck.Config.Vocab, "n_positions": ck.Config.Context, "n_embd": ck.Config.Embd,
		"n_layer": ck.Config.Layers, "n_head": ck.Config.Heads, "layer_norm_epsilon": ck.Config.Epsilon, "eos_token_id": ck.Config.EOS,
	})
	if err != nil {
		return err
	}
	ids, err := json.Marshal(vocab)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"config.json": config, "vocab.json": ids, "merges.txt": []byte(merges)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	if err := errors.Join(ck.write(f), f.Close()); err != nil {
		return fmt.Errorf("write model.safetensors: %w", err)
	}
	return nil
}

// write writes the tensors as a safetensors file to w.
func (c *Checkpoint) write(w io.Writer) error {
	var tensors []Tensor
	for name, shape := range c.Config.Tensors() {
		t := c.tensors[name]
		tensors = append(tensors, Tensor{name, t.dtype, shape, io.NewSectionReader(t.file.data, t.begin, t.end-t.begin)})
	}
	return WriteSafetensors(w, tensors)
}

// syntheticVocabulary returns a vocabulary of n tokens and its merges. The tokens are
// the bytes, pairs and triples of printable characters, and the end-of-text token.
func syntheticVocabulary(n int) (ids map[string]int, merges string) {
	letters := ByteAlphabet()
	ids = make(map[string]int, n)
	for _, r := range letters {
		ids[string(r)] = len(ids)
	}
	var b strings.Builder
	var pairs []string
	add := func(left, right string) {
		if len(ids) < n-1 {
			ids[left+right] = len(ids)
			fmt.Fprintf(&b, "%s %s\n", left, right)
		}
	}
	printable := letters[' ' : '~'+1]
	for _, l := range printable {
		for _, r := range printable[1:] { // a space can only be the first character of a token
			add(string(l), string(r))
			pairs = append(pairs, string(l)+string(r))
		}
	}
	for _, pair := range pairs {
		for _, r := range printable[1:] {
			add(pair, string(r))
		}
	}
	ids["<|endoftext|>"] = len(ids)
	return ids, b.String()
}
