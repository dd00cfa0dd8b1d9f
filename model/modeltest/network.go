package modeltest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing/fstest"
)

// A Network is a small GPT-2 with random weights, in the files of Hugging Face. Tests
// change its fields and compare what an engine makes of [Network.Files] with
// [Network.Logits], which shares no code with an engine. All weights are exact in every
// type of tensor.
type Network struct {
	Config  map[string]any // members of config.json
	Tensors []*Tensor      // in the order of the file
}

// A Tensor is a tensor of a Network.
type Tensor struct {
	Name   string // name in the file
	DType  string // F64, F32, F16 or BF16; any other type has zeros
	Shape  []int
	Values []float64

	plain string // name that the reference knows, if the name in the file may change
}

// NewNetwork returns a network with a small config.json, into which changes are merged. A
// change to nil removes the member.
func NewNetwork(changes map[string]any) *Network {
	n := &Network{Config: map[string]any{
		"model_type": "gpt2", "architectures": []string{"GPT2LMHeadModel"}, "vocab_size": 300, "n_positions": 40,
		"n_embd": 24, "n_layer": 3, "n_head": 4, "eos_token_id": 299,
	}}
	maps.Copy(n.Config, changes)
	maps.DeleteFunc(n.Config, func(_ string, value any) bool { return value == nil })
	vocab, context, d, inner := n.size("vocab_size", 0), n.size("n_positions", 0), n.size("n_embd", 0), n.inner()
	rnd := rand.New(rand.NewPCG(2, 19))
	add := func(name string, mean, step float64, shape ...int) {
		t := &Tensor{Name: "transformer." + name, DType: "F32", Shape: shape, plain: name}
		size := 1
		for _, s := range shape {
			size *= s
		}
		for range size {
			t.Values = append(t.Values, mean+step*float64(rnd.IntN(255)-127))
		}
		n.Tensors = append(n.Tensors, t)
	}
	add("wte.weight", 0, 1.0/256, vocab, d)
	add("wpe.weight", 0, 1.0/256, context, d)
	for i := range n.size("n_layer", 0) {
		block := fmt.Sprintf("h.%d.", i)
		add(block+"ln_1.weight", 1, 1.0/512, d)
		add(block+"ln_1.bias", 0, 1.0/512, d)
		add(block+"attn.c_attn.weight", 0, 1.0/256, d, 3*d)
		add(block+"attn.c_attn.bias", 0, 1.0/256, 3*d)
		add(block+"attn.c_proj.weight", 0, 1.0/512, d, d)
		add(block+"attn.c_proj.bias", 0, 1.0/512, d)
		add(block+"ln_2.weight", 1, 1.0/512, d)
		add(block+"ln_2.bias", 0, 1.0/512, d)
		add(block+"mlp.c_fc.weight", 0, 1.0/256, d, inner)
		add(block+"mlp.c_fc.bias", 0, 1.0/256, inner)
		add(block+"mlp.c_proj.weight", 0, 1.0/512, inner, d)
		add(block+"mlp.c_proj.bias", 0, 1.0/512, d)
	}
	add("ln_f.weight", 1, 1.0/512, d)
	add("ln_f.bias", 0, 1.0/512, d)
	if n.Config["tie_word_embeddings"] == false {
		add("lm_head.weight", 0, 1.0/512, vocab, d)
		n.Tensor("lm_head.weight").Name = "lm_head.weight"
	}
	for _, t := range n.Tensors {
		if strings.Contains(t.plain, "ln_") && strings.HasSuffix(t.plain, "weight") {
			for i, v := range t.Values { // 8 bits suffice for half of the numbers around 1 only
				t.Values[i] = math.Round(v*128) / 128
			}
		}
	}
	return n
}

// size returns a number in config.json.
func (n *Network) size(name string, otherwise int) int {
	if v, ok := n.Config[name].(int); ok {
		return v
	}
	return otherwise
}

func (n *Network) inner() int { return n.size("n_inner", 4*n.size("n_embd", 0)) }

// Tensor returns the tensor with a name, which is without the prefix "transformer.".
func (n *Network) Tensor(name string) *Tensor {
	for _, t := range n.Tensors {
		if t.plain == name {
			return t
		}
	}
	panic("no tensor " + name)
}

// AddZeros adds a tensor that the network does not use.
func (n *Network) AddZeros(name, dtype string, shape ...int) {
	n.Tensors = append(n.Tensors, &Tensor{Name: name, DType: dtype, Shape: shape})
}

// Files returns the files of the network: config.json, model.safetensors, vocab.json and
// merges.txt. The vocabulary has the bytes, the tokens "th", "the" and " the", and
// "<|endoftext|>" as its last token.
func (n *Network) Files() fstest.MapFS {
	vocab, merges := Vocabulary(n.size("vocab_size", 0))
	return fstest.MapFS{
		"config.json":       {Data: marshal(n.Config)},
		"model.safetensors": {Data: Safetensors(n.Tensors)},
		"vocab.json":        {Data: marshal(vocab)},
		"merges.txt":        {Data: []byte("#version: 0.2\n" + strings.Join(merges, "\n") + "\n")},
	}
}

// Shards returns the files of the network with the weights in several files and an index.
func (n *Network) Shards(shards int) fstest.MapFS {
	files := n.Files()
	delete(files, "model.safetensors")
	index := map[string]string{}
	per := (len(n.Tensors) + shards - 1) / shards
	i := 0
	for part := range slices.Chunk(n.Tensors, per) {
		i++
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i, shards)
		files[name] = &fstest.MapFile{Data: Safetensors(part)}
		for _, t := range part {
			index[t.Name] = name
		}
	}
	files["model.safetensors.index.json"] = &fstest.MapFile{Data: marshal(map[string]any{
		"metadata": map[string]any{"total_size": 1}, "weight_map": index,
	})}
	return files
}

// Vocabulary returns a vocabulary of n tokens, and its merges.
func Vocabulary(n int) (ids map[string]int, merges []string) {
	ids = map[string]int{}
	add := func(token string) { ids[token] = len(ids) }
	next := 256
	for b := range 256 {
		r := rune(b)
		if b <= ' ' || b >= 0x7f && b <= 0xa0 || b == 0xad {
			r, next = rune(next), next+1
		}
		add(string(r))
	}
	merges = []string{"t h", "th e", "Ġ the"}
	for _, m := range merges {
		add(strings.ReplaceAll(m, " ", ""))
	}
	for len(ids) < n-1 {
		add(fmt.Sprintf("<|unused %d|>", len(ids)))
	}
	add("<|endoftext|>")
	return ids, merges
}

// TokenizerJSON returns the vocabulary of n tokens as tokenizer.json, into which changes
// are merged.
func TokenizerJSON(n int, changes map[string]any) []byte {
	vocab, merges := Vocabulary(n)
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	file := map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "normalizer": nil,
		"added_tokens": []any{map[string]any{
			"id": n - 1, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": true,
		}},
		"pre_tokenizer": byteLevel, "post_processor": byteLevel, "decoder": byteLevel,
		"model": map[string]any{
			"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": "", "end_of_word_suffix": "",
			"fuse_unk": false, "vocab": vocab, "merges": merges,
		},
	}
	maps.Copy(file, changes)
	return marshal(file)
}

// Safetensors returns a safetensors file with the tensors in the order given.
func Safetensors(tensors []*Tensor) []byte {
	header, data := map[string]any{"__metadata__": map[string]string{"format": "pt"}}, []byte{}
	for _, t := range tensors {
		begin := len(data)
		data = t.append(data)
		header[t.Name] = map[string]any{"dtype": t.DType, "shape": append([]int{}, t.Shape...), "data_offsets": []int{begin, len(data)}}
	}
	text := marshal(header)
	return slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text, data)
}

// append appends the elements of a tensor to b.
func (t *Tensor) append(b []byte) []byte {
	if t.Values == nil {
		size := map[string]int{"BOOL": 1, "U8": 1, "I64": 8, "F32": 4}[t.DType]
		for _, s := range t.Shape {
			size *= s
		}
		return append(b, make([]byte, size)...)
	}
	for _, v := range t.Values {
		bits := math.Float32bits(float32(v))
		switch t.DType {
		case "F64":
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		case "F32":
			b = binary.LittleEndian.AppendUint32(b, bits)
		case "BF16":
			b = binary.LittleEndian.AppendUint16(b, uint16(bits>>16))
		case "F16":
			half := uint16(0)
			if v != 0 {
				half = uint16(bits>>16&0x8000) | uint16(int(bits>>23&0xff)-127+15)<<10 | uint16(bits>>13&0x3ff)
			}
			b = binary.LittleEndian.AppendUint16(b, half)
		default:
			panic("no values in type " + t.DType)
		}
	}
	return b
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
