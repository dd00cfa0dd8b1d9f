package gpt2

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// changedConfig returns a small config.json with one member changed. The value "absent"
// removes the member.
func changedConfig(name string, value any) string {
	m := map[string]any{"vocab_size": 10, "n_positions": 10, "n_embd": 4, "n_layer": 1, "n_head": 2}
	m[name] = value
	if value == "absent" {
		delete(m, name)
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestReadConfigReadsTheShape(t *testing.T) {
	c, err := ReadConfig(os.DirFS("testdata/tiny"))
	want := Config{Vocab: 256, Context: 64, Embd: 32, Layers: 2, Heads: 2, Inner: 128, Epsilon: 1e-5, EOS: 255}
	if err != nil || c != want {
		t.Errorf("%+v, %v, want %+v", c, err, want)
	}
	if c.HeadDim() != 16 {
		t.Errorf("HeadDim() = %d, want 16", c.HeadDim())
	}
}

func TestReadConfigRefusesUnsupportedNetworks(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{"", "unexpected end"},
		{"null", "vocab_size is missing"},
		{"[]", "array"},
		{`{"vocab_size":"many"}`, "vocab_size"},
		{changedConfig("model_type", "llama"), `model_type is "llama", want "gpt2"`},
		{changedConfig("vocab_size", "absent"), "vocab_size is missing"},
		{changedConfig("n_positions", nil), "n_positions is missing"},
		{changedConfig("vocab_size", 0), "vocab_size is 0, want 1 to 1048576"},
		{changedConfig("vocab_size", 1<<20+1), "vocab_size is 1048577"},
		{changedConfig("n_positions", 1<<16+1), "n_positions is 65537"},
		{changedConfig("n_embd", 1<<15), "n_embd is 32768"},
		{changedConfig("n_layer", 257), "n_layer is 257"},
		{changedConfig("n_layer", -1), "n_layer is -1"},
		{changedConfig("n_layer", 1.5), "n_layer"},
		{changedConfig("n_head", 3), "n_embd 4 is not a multiple of n_head 3"},
		{changedConfig("n_inner", 0), "n_inner is 0"},
		{changedConfig("n_inner", 1<<18), "n_inner is 262144"},
		{changedConfig("layer_norm_epsilon", 0), "layer_norm_epsilon is 0"},
		{changedConfig("layer_norm_epsilon", 1), "layer_norm_epsilon is 1"},
		{changedConfig("layer_norm_epsilon", 1e-50), "layer_norm_epsilon is 1e-50"},
		{changedConfig("activation_function", "relu"), `activation_function "relu" is not supported`},
		{changedConfig("activation_function", "gelu"), `activation_function "gelu" is not supported`},
		{changedConfig("scale_attn_weights", false), "scale_attn_weights false is not supported"},
		{changedConfig("scale_attn_by_inverse_layer_idx", true), "scale_attn_by_inverse_layer_idx true is not supported"},
		{changedConfig("add_cross_attention", true), "add_cross_attention true"},
		{changedConfig("tie_word_embeddings", false), "tie_word_embeddings false"},
		{changedConfig("quantization_config", map[string]int{}), "quantization_config is not supported"},
		{changedConfig("pruned_heads", map[string][]int{"0": {1}}), "pruned_heads is not supported"},
		{changedConfig("eos_token_id", 10), "eos_token_id 10 is not below vocab_size 10"},
		{changedConfig("eos_token_id", -1), "eos_token_id -1"},
		{changedConfig("eos_token_id", []int{1, 2}), "eos_token_id has 2 ids"},
		{changedConfig("eos_token_id", "x"), "eos_token_id is neither"},
		{strings.Repeat(" ", 1<<20+1), "larger than 1048576 bytes"},
	} {
		_, err := ReadConfig(fstest.MapFS{"config.json": {Data: []byte(c.config)}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "read config.json: ") {
			t.Errorf("%.80s: %v, want %q", c.config, err, c.want)
		}
	}
	if _, err := ReadConfig(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("without config.json: %v", err)
	}
}

func TestReadConfigAcceptsEveryVariant(t *testing.T) {
	for _, c := range []struct {
		config string
		eos    int
	}{
		{changedConfig("eos_token_id", nil), -1},
		{changedConfig("eos_token_id", []int{3}), 3},
		{changedConfig("eos_token_id", 9), 9},
		{changedConfig("activation_function", "gelu_pytorch_tanh"), -1},
		{changedConfig("reorder_and_upcast_attn", true), -1},
		{changedConfig("pruned_heads", map[string][]int{}), -1},
		{changedConfig("quantization_config", nil), -1},
	} {
		got, err := parseConfig([]byte(c.config))
		want := Config{Vocab: 10, Context: 10, Embd: 4, Layers: 1, Heads: 2, Inner: 16, Epsilon: 1e-5, EOS: c.eos}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", c.config, got, err)
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
