package gpt2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
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
	return sha256Hex(b)
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// edit returns a safetensors file with the tensors of smallTensors, after change has
// edited them.
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

func TestReadCheckpointRefusesUnfitFiles(t *testing.T) {
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
		{"unknown", func(m tensors) { m["x"] = &fileTensor{"h.0.attn.c_attn.scale", "F32", []int{1}, make([]byte, 4)} }, "unknown h.0.attn.c_attn.scale"},
		{"both", func(m tensors) { m["wpe.weight"].name = "wpe" }, "missing wpe.weight; unknown wpe"},
		{"mask of a missing block", func(m tensors) { m["x"] = &fileTensor{"h.2.attn.bias", "F32", []int{1}, make([]byte, 4)} }, "unknown h.2.attn.bias"},
		{"other shape", func(m tensors) { m["wte.weight"].shape = []int{27, 37} }, `tensor "wte.weight" has shape [27 37], config.json asks for [37 27]`},
		{"other rank", func(m tensors) { m["ln_f.bias"].shape = []int{27, 1} }, `"ln_f.bias" has shape [27 1]`},
		{"other type", func(m tensors) { m["ln_f.bias"].dtype = "I32" }, `tensor "ln_f.bias" is I32, want F64, F32, F16 or BF16`},
		{"with and without prefix", func(m tensors) {
			other := *m["ln_f.bias"]
			other.name = "transformer.ln_f.bias"
			m["x"] = &other
		}, `"ln_f.bias" and "transformer.ln_f.bias" are the same tensor`},
		{"untied head", func(m tensors) {
			head := *m["wte.weight"]
			head.name, head.data = "lm_head.weight", slices.Clone(head.data)
			head.data[len(head.data)-1] ^= 1
			m["x"] = &head
		}, "lm_head.weight differs from wte.weight, and versions of transformers disagree which of them counts: set tie_word_embeddings to false"},
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
		t.Errorf("without model.safetensors: %v", err)
	}
	directory := smallFiles(nil)
	directory["model.safetensors"] = &fstest.MapFile{Mode: fs.ModeDir}
	if _, err := ReadCheckpoint(directory); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

// ReadCheckpoint must read the same values from every variant of a file. Tensors may be
// in any order, and their names may have the prefix "transformer.". Causal masks and a
// tied output matrix may be present.
func TestReadCheckpointAcceptsEveryVariant(t *testing.T) {
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
			t.Errorf("%s: Tensor returns a mask", name)
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

// streamFS is a file system whose files have no method ReadAt.
type streamFS struct{ fs.FS }

func (s streamFS) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	return struct{ fs.File }{f}, err
}

func TestReadCheckpointRefusesTruncatedFiles(t *testing.T) {
	whole := edit(func(map[string]*fileTensor) {})
	for n := 0; n < len(whole); n += 1 + n/50 {
		if _, err := ReadCheckpoint(smallFiles(whole[:n])); err == nil {
			t.Fatalf("accepts the first %d of %d bytes", n, len(whole))
		}
	}
}

// tinyConfig is the config.json of a network that is so small that fuzzing can shorten its files.
const tinyConfig = `{"vocab_size":3,"n_positions":4,"n_embd":2,"n_layer":1,"n_head":1,"n_inner":2}`

// FuzzSafetensors reads files with any header, whose data is one byte repeated. An engine must
// refuse what ReadCheckpoint accepts because of its values alone, or run it.
//
// security: ASVS 1.4.2, LLM04:2025
func FuzzSafetensors(f *testing.F) {
	config, err := parseConfig([]byte(tinyConfig))
	if err != nil {
		f.Fatal(err)
	}
	header, at := map[string]any{}, 0
	for name, shape := range config.Tensors() {
		size := 4
		for _, n := range shape {
			size *= n
		}
		header["transformer."+name] = map[string]any{"dtype": "F32", "shape": shape, "data_offsets": []int{at, at + size}}
		at += size
	}
	b, err := json.Marshal(header)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, at, byte(0))
	f.Add(b, at, byte(0xff)) // not numbers
	f.Add([]byte(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`), 1, byte(7))
	f.Fuzz(func(t *testing.T, header []byte, size int, fill byte) {
		weights := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		weights = append(weights, header...)
		weights = append(weights, bytes.Repeat([]byte{fill}, min(max(size, 0), 1<<16))...)
		ck, err := ReadCheckpoint(fstest.MapFS{"config.json": {Data: []byte(tinyConfig)}, "model.safetensors": {Data: weights}})
		if err != nil {
			return
		}
		e, err := New(ck, nil, Options{Threads: 1, Sequences: 1})
		if err != nil {
			if !strings.Contains(err.Error(), "not finite") && !strings.Contains(err.Error(), "too large for f16") {
				t.Fatal(err)
			}
			return
		}
		defer e.Close()
		s, err := e.Open(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(t.Context(), 1, 2, 0); err != nil {
			t.Fatal(err)
		}
	})
}
