package gpt2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func fileDigest(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestReadConfig(t *testing.T) {
	c, err := ReadConfig(os.DirFS("testdata/tiny"))
	want := Config{Vocab: 256, Context: 64, Embd: 32, Layers: 2, Heads: 2, Inner: 128, Epsilon: 1e-5, EOS: 255}
	if err != nil || c != want {
		t.Errorf("%+v, %v, want %+v", c, err, want)
	}
	if c.HeadDim() != 16 {
		t.Errorf("heads are %d wide", c.HeadDim())
	}
	change := func(name string, value any) string {
		m := map[string]any{"vocab_size": 10, "n_positions": 10, "n_embd": 4, "n_layer": 1, "n_head": 2}
		m[name] = value
		if value == "absent" {
			delete(m, name)
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct{ config, want string }{
		{"", "unexpected end"},
		{"null", "vocab_size is missing"},
		{"[]", "array"},
		{`{"vocab_size":"many"}`, "vocab_size"},
		{change("model_type", "llama"), `model_type is "llama", want "gpt2"`},
		{change("vocab_size", "absent"), "vocab_size is missing"},
		{change("n_positions", nil), "n_positions is missing"},
		{change("vocab_size", 0), "vocab_size is 0, want 1 to 1048576"},
		{change("vocab_size", 1<<20+1), "vocab_size is 1048577"},
		{change("n_positions", 1<<16+1), "n_positions is 65537"},
		{change("n_embd", 1<<15), "n_embd is 32768"},
		{change("n_layer", 257), "n_layer is 257"},
		{change("n_layer", -1), "n_layer is -1"},
		{change("n_layer", 1.5), "n_layer"},
		{change("n_head", 3), "n_embd 4 is not a multiple of n_head 3"},
		{change("n_inner", 0), "n_inner is 0"},
		{change("n_inner", 1<<18), "n_inner is 262144"},
		{change("layer_norm_epsilon", 0), "layer_norm_epsilon is 0"},
		{change("layer_norm_epsilon", 1), "layer_norm_epsilon is 1"},
		{change("layer_norm_epsilon", 1e-50), "layer_norm_epsilon is 1e-50"},
		{change("activation_function", "relu"), `activation_function "relu" is not supported`},
		{change("activation_function", "gelu"), `activation_function "gelu" is not supported`},
		{change("scale_attn_weights", false), "scale_attn_weights false is not supported"},
		{change("scale_attn_by_inverse_layer_idx", true), "scale_attn_by_inverse_layer_idx true is not supported"},
		{change("add_cross_attention", true), "add_cross_attention true"},
		{change("tie_word_embeddings", false), "tie_word_embeddings false"},
		{change("quantization_config", map[string]int{}), "quantization_config is not supported"},
		{change("pruned_heads", map[string][]int{"0": {1}}), "pruned_heads is not supported"},
		{change("eos_token_id", 10), "eos_token_id 10 is not below vocab_size 10"},
		{change("eos_token_id", -1), "eos_token_id -1"},
		{change("eos_token_id", []int{1, 2}), "eos_token_id has 2 ids"},
		{change("eos_token_id", "x"), "eos_token_id is neither"},
		{strings.Repeat(" ", 1<<20+1), "larger than 1048576 bytes"},
	} {
		_, err := ReadConfig(fstest.MapFS{"config.json": {Data: []byte(c.config)}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "read config.json: ") {
			t.Errorf("%.80s: %v, want %q", c.config, err, c.want)
		}
	}
	for _, c := range []struct {
		config string
		eos    int
	}{
		{change("eos_token_id", nil), -1},
		{change("eos_token_id", []int{3}), 3},
		{change("eos_token_id", 9), 9},
		{change("activation_function", "gelu_pytorch_tanh"), -1},
		{change("reorder_and_upcast_attn", true), -1},
		{change("pruned_heads", map[string][]int{}), -1},
		{change("quantization_config", nil), -1},
	} {
		got, err := parseConfig([]byte(c.config))
		want := Config{Vocab: 10, Context: 10, Embd: 4, Layers: 1, Heads: 2, Inner: 16, Epsilon: 1e-5, EOS: c.eos}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", c.config, got, err)
		}
	}
	if _, err := ReadConfig(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("no file: %v", err)
	}
}

// edit returns smallTensors after a change.
func edit(change func(byName map[string]*fileTensor)) []byte {
	ts := smallTensors()
	byName := map[string]*fileTensor{}
	for i := range ts {
		byName[ts[i].name] = &ts[i]
	}
	order := slices.Collect(maps.Keys(byName))
	slices.Sort(order)
	change(byName)
	var out []fileTensor
	for _, name := range order {
		if t, ok := byName[name]; ok {
			out = append(out, *t)
			delete(byName, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, *byName[name])
	}
	return writeSafetensors(out)
}

func TestReadCheckpointRefuses(t *testing.T) {
	type tensors = map[string]*fileTensor
	for _, c := range []struct {
		name   string
		change func(tensors)
		want   string
	}{
		{"missing", func(m tensors) { delete(m, "h.1.ln_2.bias") }, "missing h.1.ln_2.bias"},
		{"many missing", func(m tensors) {
			for name := range m {
				if strings.HasPrefix(name, "h.0.") {
					delete(m, name)
				}
			}
		}, "missing h.0.ln_1.weight, h.0.ln_1.bias, h.0.attn.c_attn.weight, h.0.attn.c_attn.bias, h.0.attn.c_proj.weight and 7 more"},
		{"unknown", func(m tensors) { m["x"] = &fileTensor{"score.weight", "F32", []int{1}, make([]byte, 4)} }, "unknown score.weight"},
		{"both", func(m tensors) { m["wpe.weight"].name = "wpe" }, "missing wpe.weight; unknown wpe"},
		{"block too many", func(m tensors) { m["x"] = &fileTensor{"h.2.attn.bias", "F32", []int{1}, make([]byte, 4)} }, "unknown h.2.attn.bias"},
		{"other shape", func(m tensors) { m["wte.weight"].shape = []int{27, 37} }, `tensor "wte.weight" has shape [27 37], the config asks for [37 27]`},
		{"other rank", func(m tensors) { m["ln_f.bias"].shape = []int{27, 1} }, `"ln_f.bias" has shape [27 1]`},
		{"other type", func(m tensors) { m["ln_f.bias"].dtype = "I32" }, `tensor "ln_f.bias" is I32, want F32, F16 or BF16`},
		{"twice", func(m tensors) {
			other := *m["ln_f.bias"]
			other.name = "transformer.ln_f.bias"
			m["x"] = &other
		}, `"ln_f.bias" and "transformer.ln_f.bias" are the same tensor`},
		{"untied head", func(m tensors) {
			head := *m["wte.weight"]
			head.name, head.data = "lm_head.weight", slices.Clone(head.data)
			head.data[len(head.data)-1] ^= 1
			m["x"] = &head
		}, "lm_head.weight differs from wte.weight"},
		{"head of other shape", func(m tensors) {
			m["x"] = &fileTensor{"lm_head.weight", "F32", []int{1}, make([]byte, 4)}
		}, `tensor "lm_head.weight" has shape [1]`},
	} {
		_, err := ReadCheckpoint(smallFiles(edit(c.change)))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "read model.safetensors: ") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for dtype, want := range map[string]string{
		"Q40": `tensor "ln_f.bias": unknown dtype "Q40"`,
		"F16": `tensor "ln_f.bias": shape [27] of F16 needs 54 bytes`,
	} {
		whole := edit(func(tensors) {})
		declared := bytes.Replace(whole, []byte(`"ln_f.bias":{"dtype":"F32"`), []byte(`"ln_f.bias":{"dtype":"`+dtype+`"`), 1)
		if _, err := ReadCheckpoint(smallFiles(declared)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("F32 declared as %s: %v, want %q", dtype, err, want)
		}
	}
	if _, err := ReadCheckpoint(fstest.MapFS{"config.json": {Data: []byte(smallConfig)}}); err == nil || !strings.Contains(err.Error(), "model.safetensors") {
		t.Errorf("no weights: %v", err)
	}
	folder := smallFiles(nil)
	folder["model.safetensors"] = &fstest.MapFile{Mode: fs.ModeDir}
	if _, err := ReadCheckpoint(folder); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
}

// Tensors may be in any order, have the prefix, masks and a tied output matrix.
func TestReadCheckpointAccepts(t *testing.T) {
	plain, err := ReadCheckpoint(smallFiles(edit(func(map[string]*fileTensor) {})))
	if err != nil {
		t.Fatal(err)
	}
	weights := edit(func(m map[string]*fileTensor) {
		head := *m["wte.weight"]
		for _, t := range m {
			t.name = "transformer." + t.name
		}
		head.name = "lm_head.weight"
		m["head"] = &head
		m["mask"] = &fileTensor{"transformer.h.0.attn.bias", "BOOL", []int{1, 1, 4, 4}, make([]byte, 16)}
		m["masked"] = &fileTensor{"transformer.h.1.attn.masked_bias", "F32", []int{}, make([]byte, 4)}
	})
	for name, fsys := range map[string]fs.FS{"with ReadAt": smallFiles(weights), "without": streamFS{smallFiles(weights)}} {
		ck, err := ReadCheckpoint(fsys)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for tensor := range ck.Config.Tensors() {
			a, err1 := plain.Tensor(tensor)
			b, err2 := ck.Tensor(tensor)
			if err1 != nil || err2 != nil || len(a) == 0 || !bitsEqual(a, b) {
				t.Errorf("%s: %s differs: %v, %v", name, tensor, err1, err2)
			}
		}
		if _, err := ck.Tensor("h.0.attn.bias"); err == nil {
			t.Errorf("%s: a mask is there", name)
		}
		sum := sha256.Sum256(weights)
		if got, err := ck.Digest(); err != nil || got != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("%s: digest %s, %v", name, got, err)
		}
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	}
}

// streamFS has files that can only be read from start to end.
type streamFS struct{ fs.FS }

func (s streamFS) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	return struct{ fs.File }{f}, err
}

func TestDecode(t *testing.T) {
	got := make([]float32, 3)
	decode(got, "BF16", []byte{0x80, 0x3f, 0x49, 0x40, 0x00, 0x80})
	if got[0] != 1 || got[1] != 3.140625 || got[2] != 0 || !math.Signbit(float64(got[2])) {
		t.Errorf("bfloat16: %g", got)
	}
	decode(got, "F16", []byte{0x00, 0x3c, 0x01, 0x00, 0x00, 0xc0})
	if got[0] != 1 || got[1] != 1.0/(1<<24) || got[2] != -2 {
		t.Errorf("float16: %g", got)
	}
}

// file returns a safetensors file with a header as it is.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func TestReadHeaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "0 bytes are too few"},
		{"seven bytes", make([]byte, 7), "7 bytes are too few"},
		{"no header", make([]byte, 8), "header: unexpected EOF"},
		{"huge header", []byte("GGUF\x03\x00\x00\x00"), "longer than 100000000: not a safetensors file?"},
		{"header beyond the end", file(`{}`, 0)[:9], "header of 2 bytes does not fit the file of 9"},
		{"an array", file(`[]`, 0), "not a JSON object"},
		{"cut", file(`{"a":{"dtype":"F32"`, 0), "EOF"},
		{"two objects", file(`{}{}`, 0), "something follows"},
		{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), `tensor "a": shape is missing`},
		{"no offsets", file(`{"a":{"dtype":"F32","shape":[1]}}`, 4), `data_offsets has 0 numbers`},
		{"three offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}`, 4), `data_offsets has 3 numbers`},
		{"backwards", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4), "are not a range"},
		{"negative", file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), `tensor "a"`},
		{"fraction", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.5]}}`, 4), `tensor "a"`},
		{"not a tensor", file(`{"a":1}`, 4), `tensor "a"`},
		{"too short", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), "needs 8 bytes"},
		{"overflow", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), "is too large"},
		{"overflow to the size", file(`{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,0]}}`, 0), "is too large"},
		{"overflow by zero", file(`{"a":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]}}`, 0), "is too large"},
		{"offset overflow", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}}`, 1), "are not a range"},
		{"beyond the end", file(`{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}`, 8), "ends at byte 9 of 8"},
		{"hole at the start", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `1 bytes before tensor "a"`},
		{"hole between", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}`, 4), `2 bytes before tensor "b"`},
		{"hole at the end", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 3), "2 bytes at the end"},
		{"overlap", file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), `"b" overlaps "a"`},
		{"same place", file(`{"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2), `"b" overlaps "a"`},
		{"same name", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `"a" is there twice`},
		{"long entry", file(`{"a":{"dtype":"U8","shape":[1`+strings.Repeat(",1", 3000)+`],"data_offsets":[0,1]}}`, 1), "described by 60"},
		{"long name", file(`{"`+strings.Repeat("n", 5000)+`":{}}`, 1), strings.Repeat("n", 80) + "..."},
	} {
		_, err := readHeader(bytes.NewReader(c.file), int64(len(c.file)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%s: message of %d bytes", c.name, len(err.Error()))
		}
	}
	good := file(`{"__metadata__":{"a":"b"},"empty":{"dtype":"F64","shape":[0,3],"data_offsets":[1,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   `, 1)
	if ts, err := readHeader(bytes.NewReader(good), int64(len(good))); err != nil || len(ts) != 2 {
		t.Errorf("%v, %v", ts, err)
	}
}

// A file that ends anywhere before its end is refused.
func TestReadCheckpointCutAnywhere(t *testing.T) {
	whole := edit(func(map[string]*fileTensor) {})
	for n := 0; n < len(whole); n += 1 + n/50 {
		if _, err := ReadCheckpoint(smallFiles(whole[:n])); err == nil {
			t.Fatalf("%d of %d bytes are accepted", n, len(whole))
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(smallConfig))
	b, err := os.ReadFile("testdata/tiny/config.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err == nil && (c.HeadDim() < 1 || c.EOS >= c.Vocab || c.EOS < -1 || c.Inner < 1 || !(c.Epsilon > 0)) {
			t.Fatalf("accepted %+v", c)
		}
	})
}

// Whatever is accepted can be run.
//
// security: ASVS 1.4.2, LLM04:2025
func FuzzSafetensors(f *testing.F) {
	f.Add(edit(func(map[string]*fileTensor) {}))
	f.Add(edit(func(m map[string]*fileTensor) { m["wte.weight"].name = "transformer.wte.weight" }))
	f.Add(file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		ck, err := ReadCheckpoint(smallFiles(b))
		if err != nil {
			return
		}
		e, err := New(ck, nil, Options{Threads: 1, Sequences: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		s, err := e.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(t.Context(), 1, 2, 3); err != nil {
			t.Fatal(err)
		}
	})
}
