package gpt2

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"colophon/model"
	"colophon/model/kernel"
	"colophon/model/modeltest"
)

// The reference computes in float64 and reads no file, so it shares no mistake with the
// engine.
func TestEveryFormOfACheckpointHasTheLogitsOfTheReference(t *testing.T) {
	for _, v := range modeltest.Variants() {
		t.Run(v.Name, func(t *testing.T) {
			modeltest.TestVariant(t, openEngine(t, v.Files, nil, Options{Weights: kernel.F32, Threads: 1}), v, tolerance)
		})
	}
}

// Other formats of weights may differ as much as they do from the golden vectors.
func TestEveryFormOfACheckpointRunsInEveryFormat(t *testing.T) {
	for _, v := range modeltest.Variants() {
		for weights, tolerance := range map[kernel.Format]float64{kernel.F16: 0.01, kernel.Int8: 0.3} {
			t.Run(v.Name+"/"+weights.String(), func(t *testing.T) {
				modeltest.TestVariant(t, openEngine(t, v.Files, nil, Options{Weights: weights, Threads: 1}), v, tolerance)
			})
		}
	}
}

func TestWeightsNameTheVariant(t *testing.T) {
	for _, v := range modeltest.Variants() {
		e := openEngine(t, v.Files, nil, Options{Weights: kernel.F32, Threads: 1})
		digest, err := WeightsDigest(v.Files)
		if err != nil {
			t.Fatal(err)
		}
		suffix := map[string]string{
			"gelu": "+gelu", "relu": "+relu", "silu": "+silu", "swish": "+silu", "tanh": "+tanh", "unscaled": "+unscaled",
			"scaled by layer": "+scaled-by-layer", "unscaled and scaled by layer": "+unscaled+scaled-by-layer",
			"relu, scaled by layer": "+relu+scaled-by-layer", "shards": "+gelu", "one shard": "+gelu",
		}[v.Name]
		if got := e.Info(); got.Weights != digest+"/f32"+suffix || got.Digest() != digest {
			t.Errorf("%s: weights are %s, want %s/f32%s", v.Name, got.Weights, digest, suffix)
		}
	}
}

// The command sha256sum model-*.safetensors | sha256sum prints the digest of several files.
func TestDigestOfShardsIsThatOfTheirDigests(t *testing.T) {
	files := modeltest.NewNetwork(nil).Shards(3)
	var lines strings.Builder
	for i := range 3 {
		name := fmt.Sprintf("model-%05d-of-00003.safetensors", i+1)
		fmt.Fprintf(&lines, "%s  %s\n", sha256Hex(files[name].Data), name)
	}
	if got, err := WeightsDigest(files); err != nil || got != "sha256:"+sha256Hex([]byte(lines.String())) {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := WeightsDigest(modeltest.NewNetwork(nil).Files()); err != nil || got != "sha256:"+sha256Hex(modeltest.Safetensors(modeltest.NewNetwork(nil).Tensors)) {
		t.Errorf("one file: %s, %v", got, err)
	}
	if _, err := WeightsDigest(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// Each of these must be refused with a reason that says what to do, and must not be loaded.
func TestCheckpointsThatCannotBeRunAreRefused(t *testing.T) {
	text := func(files fstest.MapFS, name, content string) { files[name] = &fstest.MapFile{Data: []byte(content)} }
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:248dfc39\nsize 548105171\n"
	index := func(files fstest.MapFS, old, new string) {
		b := files[indexName].Data
		files[indexName] = &fstest.MapFile{Data: bytes.Replace(b, []byte(old), []byte(new), 1)}
	}
	for name, c := range map[string]struct {
		shards int
		change func(n *modeltest.Network, files fstest.MapFS)
		want   string
	}{
		"weights are a pointer": {0, func(_ *modeltest.Network, f fstest.MapFS) { text(f, weightsName, pointer) }, "read model.safetensors: this is a pointer of Git LFS, not the file: run git lfs pull"},
		"shard is a pointer":    {2, func(_ *modeltest.Network, f fstest.MapFS) { text(f, "model-00002-of-00002.safetensors", pointer) }, "read model-00002-of-00002.safetensors: this is a pointer of Git LFS"},
		"index is a pointer":    {2, func(_ *modeltest.Network, f fstest.MapFS) { text(f, indexName, pointer) }, "read model.safetensors.index.json: this is a pointer"},
		"missing shard":         {3, func(_ *modeltest.Network, f fstest.MapFS) { delete(f, "model-00002-of-00003.safetensors") }, "read model-00002-of-00003.safetensors: "},
		"cut shard": {2, func(_ *modeltest.Network, f fstest.MapFS) {
			b := f["model-00002-of-00002.safetensors"]
			b.Data = b.Data[:len(b.Data)-1]
		}, "read model-00002-of-00002.safetensors: tensor \"transformer.ln_f.bias\" ends at byte"},
		"shard of another place": {2, func(_ *modeltest.Network, f fstest.MapFS) { index(f, "model-00001", "../model-00001") }, `is in "../model-00001-of-00002.safetensors", want the name of a safetensors file`},
		"shard of a number":      {2, func(_ *modeltest.Network, f fstest.MapFS) { index(f, `"model-00001-of-00002.safetensors"`, "1") }, `is in 1, want the name`},
		"index without tensors":  {2, func(_ *modeltest.Network, f fstest.MapFS) { text(f, indexName, `{"weight_map":{}}`) }, "weight_map names 0 files, want 1 to 1000"},
		"index without map":      {2, func(_ *modeltest.Network, f fstest.MapFS) { text(f, indexName, `{}`) }, "weight_map names 0 files"},
		"index that is cut":      {2, func(_ *modeltest.Network, f fstest.MapFS) { text(f, indexName, `{"weight_map":{`) }, "the text ends early"},
		"index of another place": {2, func(_ *modeltest.Network, f fstest.MapFS) {
			index(f, `"transformer.wte.weight":"model-00001`, `"transformer.wte.weight":"model-00002`)
		}, `tensor "transformer.wte.weight" is here, and model.safetensors.index.json says that it is in model-00002`},
		"tensor in two shards": {2, func(n *modeltest.Network, f fstest.MapFS) {
			text(f, "model-00002-of-00002.safetensors", string(modeltest.Safetensors(n.Tensors)))
		}, "read model-00002-of-00002.safetensors: "},
		"pickle": {0, func(_ *modeltest.Network, f fstest.MapFS) {
			f["pytorch_model.bin"] = f[weightsName]
			delete(f, weightsName)
		}, "pytorch_model.bin is a pickle, which can run code when it is read, so convert it with transformers"},
		"pickle of several files": {0, func(_ *modeltest.Network, f fstest.MapFS) {
			f["pytorch_model.bin.index.json"] = f[weightsName]
			delete(f, weightsName)
		}, "pytorch_model.bin.index.json is a pickle"},
		"no weights": {0, func(_ *modeltest.Network, f fstest.MapFS) { delete(f, weightsName) }, "read model.safetensors: "},
		"untied without a head": {0, func(_ *modeltest.Network, f fstest.MapFS) {
			text(f, "config.json", `{"vocab_size":300,"n_positions":40,"n_embd":24,"n_layer":3,"n_head":4,"tie_word_embeddings":false}`)
		}, "tensors do not fit config.json: missing lm_head.weight"},
		"other sizes": {0, func(_ *modeltest.Network, f fstest.MapFS) { text(f, "config.json", `{}`) }, `tensor "transformer.wte.weight" has shape [300 24], config.json asks for [50257 768]`},
		"head alone, of other shape": {0, func(n *modeltest.Network, f fstest.MapFS) {
			h := n.Tensor("wte.weight")
			h.Name, h.Shape = "lm_head.weight", []int{24, 300}
			text(f, weightsName, string(modeltest.Safetensors(n.Tensors)))
		}, `tensor "lm_head.weight" has shape [24 300]`},
		"other names": {0, func(n *modeltest.Network, f fstest.MapFS) {
			for _, t := range n.Tensors {
				t.Name = "model." + t.Name
			}
			text(f, weightsName, string(modeltest.Safetensors(n.Tensors)))
		}, "missing wte.weight, wpe.weight, h.0.ln_1.weight, h.0.ln_1.bias, h.0.attn.c_attn.weight and 35 more; unknown model.transformer.h.0."},
		"too large for float32": {0, func(n *modeltest.Network, f fstest.MapFS) {
			t := n.Tensor("wte.weight")
			t.DType, t.Values[7] = "F64", 1e300
			text(f, weightsName, string(modeltest.Safetensors(n.Tensors)))
		}, "is not finite"},
		"position that is no number": {0, func(n *modeltest.Network, f fstest.MapFS) {
			n.Tensor("wpe.weight").Values[7] = math.NaN()
			text(f, weightsName, string(modeltest.Safetensors(n.Tensors)))
		}, `tensor "wpe.weight": value NaN is not finite`},
		"infinite gain": {0, func(n *modeltest.Network, f fstest.MapFS) {
			n.Tensor("ln_f.weight").Values[7] = math.Inf(-1)
			text(f, weightsName, string(modeltest.Safetensors(n.Tensors)))
		}, `tensor "ln_f.weight": value -Inf is not finite`},
		"infinite bias": {0, func(n *modeltest.Network, f fstest.MapFS) {
			n.Tensor("h.1.mlp.c_fc.bias").Values[7] = math.Inf(1)
			text(f, weightsName, string(modeltest.Safetensors(n.Tensors)))
		}, `tensor "h.1.mlp.c_fc.bias": value +Inf is not finite`},
	} {
		n := modeltest.NewNetwork(nil)
		files := n.Files()
		if c.shards > 0 {
			files = n.Shards(c.shards)
		}
		c.change(n, files)
		ck, err := ReadCheckpoint(files)
		if err == nil {
			_, err = New(ck, nil, Options{Weights: kernel.F32, Threads: 1})
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Two weights that differ are no mistake if config.json says that the output layer has
// weights of its own.
func TestUntiedHeadMayDiffer(t *testing.T) {
	n := modeltest.NewNetwork(map[string]any{"tie_word_embeddings": false})
	n.Config["tie_word_embeddings"] = true
	if _, err := ReadCheckpoint(n.Files()); err == nil || !strings.Contains(err.Error(), "set tie_word_embeddings to false") {
		t.Errorf("tied: %v", err)
	}
}

// TestAnyTokenOfTheListEndsTheText generates the likeliest tokens. The first of them ends a
// text if it is anywhere in the list, and no text has it.
func TestAnyTokenOfTheListEndsTheText(t *testing.T) {
	n := modeltest.NewNetwork(nil)
	files := n.Files()
	prompt := []int{11, 30}
	logits := n.Logits(prompt)[1]
	best := slices.Index(logits, slices.Max(logits))
	generate := func(minTokens int) (model.Result, []int) {
		e := openEngine(t, files, nil, Options{Threads: 1})
		var tokens []int
		result, err := model.Generate(t.Context(), e, prompt, nil, model.Params{MaxTokens: 4, TopP: 1, MinTokens: minTokens}, func(d model.Delta) error {
			tokens = append(tokens, d.Tokens...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return result, tokens
	}
	if result, tokens := generate(0); result.FinishReason != model.FinishLength || len(tokens) != 4 || tokens[0] != best {
		t.Fatalf("without a list: %+v, %v, want %d first", result, tokens, best)
	}
	files["generation_config.json"] = &fstest.MapFile{Data: fmt.Appendf(nil, `{"eos_token_id":[299,%d]}`, best)}
	if result, tokens := generate(0); result.FinishReason != model.FinishStop || len(tokens) != 0 {
		t.Errorf("with the list: %+v, %v", result, tokens)
	}
	if _, tokens := generate(2); len(tokens) < 2 || tokens[0] == best {
		t.Errorf("with min_tokens: %v", tokens)
	}
}

// TestDialoGPTEndsAtTheDefaultToken reads a config.json as that family has it.
func TestDialoGPTEndsAtTheDefaultToken(t *testing.T) {
	c, err := parseConfig([]byte(`{"layer_norm_epsilon":1e-05,"n_ctx":64,"n_embd":8,"n_head":2,"n_layer":1,"n_positions":64,"vocab_size":50257}`))
	if err != nil || c.EOS != 50256 || c.MoreEOS != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

// FuzzIndex reads any bytes as an index. Names that it accepts are those of files in the
// same directory.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":8},"weight_map":{"a":"b-1-of-2.safetensors","c":"b-2-of-2.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"b.safetensors","c":"../d.safetensors"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		index, err := ParseIndex(b)
		if err != nil {
			return
		}
		for _, name := range slices.Collect(maps.Values(index)) {
			if strings.ContainsAny(name, `/\`) || !strings.HasSuffix(name, ".safetensors") {
				t.Fatalf("accepted %q", name)
			}
		}
	})
}
