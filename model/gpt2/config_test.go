package gpt2

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
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
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, %v, want %+v", c, err, want)
	}
	if c.HeadDim() != 16 {
		t.Errorf("HeadDim() = %d, want 16", c.HeadDim())
	}
}

func TestReadConfigRefusesUnsupportedNetworks(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{"", "unexpected end"},
		{"{", "unexpected end"},
		{"null", "not a JSON object"},
		{"[]", "not a JSON object"},
		{"\xef\xbb\xbf{}", "begins with a byte-order mark: save it as UTF-8 without one"},
		{"\xff\xfe{\x00}\x00", "begins with a byte-order mark"},
		{"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "a pointer of Git LFS, not the file: run git lfs pull"},
		{`{"vocab_size":"many"}`, `vocab_size is "many", want 1 to 1048576`},
		{changedConfig("model_type", "llama"), `model_type is "llama", want "gpt2"`},
		{changedConfig("n_positions", nil), "n_positions is null, want 1 to 65536"},
		{changedConfig("hidden_size", 8), "n_embd is 4 and hidden_size is 8: they name the same size, so remove one"},
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
		{changedConfig("activation_function", "quick_gelu"), `activation_function "quick_gelu" is not supported, only gelu, `},
		{changedConfig("activation_function", 1), "activation_function is 1, want a name"},
		{changedConfig("scale_attn_weights", "no"), `scale_attn_weights is "no", want true or false`},
		{changedConfig("add_cross_attention", true), "add_cross_attention is not supported"},
		{changedConfig("quantization_config", map[string]int{}), "quantization_config is not supported"},
		{changedConfig("pruned_heads", map[string][]int{"0": {1}}), "pruned_heads is not supported"},
		{changedConfig("eos_token_id", make([]int, 65)), "eos_token_id has 65 ids, want at most 64"},
		{changedConfig("eos_token_id", "x"), `eos_token_id is "x", want a token id, a list of them, or null`},
		{changedConfig("eos_token_id", []any{nil}), "eos_token_id is [null]"},
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
		change func(*Config)
	}{
		{changedConfig("eos_token_id", nil), nil},
		{changedConfig("eos_token_id", "absent"), nil}, // 50256, which no text of this network has
		{changedConfig("eos_token_id", []int{3}), func(c *Config) { c.EOS = 3 }},
		{changedConfig("eos_token_id", 9), func(c *Config) { c.EOS = 9 }},
		{changedConfig("eos_token_id", 10), nil},
		{changedConfig("eos_token_id", -1), nil},
		{changedConfig("eos_token_id", []int{12, 4, -1, 0, 4, 7}), func(c *Config) { c.EOS, c.MoreEOS = 4, []int{0, 7} }},
		{changedConfig("eos_token_id", []int{}), nil},
		{changedConfig("activation_function", "gelu_pytorch_tanh"), nil},
		{changedConfig("activation_function", "gelu_fast"), nil},
		{changedConfig("activation_function", "gelu"), func(c *Config) { c.Activation = GELU }},
		{changedConfig("activation_function", "relu"), func(c *Config) { c.Activation = ReLU }},
		{changedConfig("activation_function", "silu"), func(c *Config) { c.Activation = SiLU }},
		{changedConfig("activation_function", "swish"), func(c *Config) { c.Activation = SiLU }},
		{changedConfig("activation_function", "tanh"), func(c *Config) { c.Activation = Tanh }},
		{changedConfig("scale_attn_weights", false), func(c *Config) { c.Unscaled = true }},
		{changedConfig("scale_attn_by_inverse_layer_idx", true), func(c *Config) { c.ScaleByLayer = true }},
		{changedConfig("tie_word_embeddings", false), func(c *Config) { c.Untied = true }},
		{changedConfig("n_inner", 7), func(c *Config) { c.Inner = 7 }},
		{changedConfig("n_inner", nil), nil},
		{changedConfig("n_ctx", 3), nil},
		{changedConfig("hidden_size", 4), nil},
		{changedConfig("vocab_size", "absent"), func(c *Config) { c.Vocab, c.EOS = 50257, 50256 }},
		{changedConfig("n_positions", "absent"), func(c *Config) { c.Context = 1024 }},
		{changedConfig("n_layer", "absent"), func(c *Config) { c.Layers = 12 }},
		{changedConfig("reorder_and_upcast_attn", true), nil},
		{changedConfig("pruned_heads", map[string][]int{}), nil},
		{changedConfig("quantization_config", nil), nil},
		{changedConfig("task_specific_params", map[string]any{"conversational": 1}), func(c *Config) { c.Conversational = true }},
	} {
		got, err := parseConfig([]byte(c.config))
		want := Config{Vocab: 10, Context: 10, Embd: 4, Layers: 1, Heads: 2, Inner: 16, Epsilon: 1e-5, EOS: -1}
		if c.change != nil {
			c.change(&want)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", c.config, got, err)
		}
	}
	if c, err := parseConfig([]byte("{}")); err != nil || !reflect.DeepEqual(c, Published()) {
		t.Errorf("an empty object: %+v, %v", c, err)
	}
}

func TestGenerationConfigWins(t *testing.T) {
	for _, c := range []struct {
		generation string
		eos        int
		more       []int
		err        string
	}{
		{`{"eos_token_id":[7,8]}`, 7, []int{8}, ""},
		{`{"eos_token_id":3}`, 3, nil, ""},
		{`{"eos_token_id":null}`, -1, nil, ""},
		{`{"max_length":50}`, 9, nil, ""},
		{`{"eos_token_id":"x"}`, 0, nil, "read generation_config.json: eos_token_id is"},
		{`[]`, 0, nil, "read generation_config.json: not a JSON object"},
		{"\xef\xbb\xbf{}", 0, nil, "read generation_config.json: the file begins with a byte-order mark"},
	} {
		got, err := ReadConfig(fstest.MapFS{
			"config.json":            {Data: []byte(changedConfig("eos_token_id", 9))},
			"generation_config.json": {Data: []byte(c.generation)},
		})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %q", c.generation, err, c.err)
			}
			continue
		}
		if err != nil || got.EOS != c.eos || !slices.Equal(got.MoreEOS, c.more) {
			t.Errorf("%q: %d and %v, %v", c.generation, got.EOS, got.MoreEOS, err)
		}
	}
}

func TestVariantNamesWhatDiffersFromGPT2(t *testing.T) {
	for want, c := range map[string]Config{
		"":                               {Untied: true},
		"+relu":                          {Activation: ReLU},
		"+gelu+unscaled+scaled-by-layer": {Activation: GELU, Unscaled: true, ScaleByLayer: true},
	} {
		if got := c.Variant(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzGenerationConfig(f *testing.F) {
	f.Add([]byte(`{"eos_token_id":[1,2,200]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Config{Vocab: 10, EOS: 9}
		err := c.generation(b)
		if err == nil && (c.EOS < -1 || c.EOS >= 10 || slices.Contains(c.MoreEOS, c.EOS) || c.EOS < 0 && c.MoreEOS != nil) {
			t.Fatalf("accepted %+v", c)
		}
	})
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
