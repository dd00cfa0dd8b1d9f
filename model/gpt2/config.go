package gpt2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
)

// Upper bounds of what a config.json may ask for. The largest published GPT-2
// (1.5 billion parameters) has 48 layers of 25 heads, 1600 wide.
const (
	maxVocab     = 1 << 20
	maxPositions = 1 << 16
	maxEmbd      = 1 << 14
	maxInner     = 1 << 17
	maxLayers    = 256
	maxHeads     = 256
)

// Config is the shape of a GPT-2 network.
type Config struct {
	Vocab   int     // number of token ids
	Context int     // most tokens in a sequence
	Embd    int     // width of the residual stream
	Layers  int     // number of blocks
	Heads   int     // attention heads per block, each Embd/Heads wide
	Inner   int     // width of the feed-forward layer
	Epsilon float32 // added to the variance in layer norm
	EOS     int     // id of the token that ends a text, or -1
}

// HeadDim returns the width of one attention head.
func (c Config) HeadDim() int { return c.Embd / c.Heads }

// ReadConfig reads config.json as Hugging Face writes it for GPT2LMHeadModel.
// Settings that would change the arithmetic in a way this package does not
// compute are errors; those that only matter for training are ignored.
func ReadConfig(fsys fs.FS) (Config, error) {
	b, err := readFile(fsys, "config.json", 1<<20)
	if err != nil {
		return Config{}, err
	}
	c, err := parseConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("read config.json: %w", err)
	}
	return c, nil
}

func parseConfig(b []byte) (Config, error) {
	var f struct {
		ModelType    *string          `json:"model_type"`
		Vocab        *int             `json:"vocab_size"`
		Positions    *int             `json:"n_positions"`
		Embd         *int             `json:"n_embd"`
		Layers       *int             `json:"n_layer"`
		Heads        *int             `json:"n_head"`
		Inner        *int             `json:"n_inner"`
		Epsilon      *float64         `json:"layer_norm_epsilon"`
		Activation   *string          `json:"activation_function"`
		EOS          json.RawMessage  `json:"eos_token_id"`
		ScaleWeights *bool            `json:"scale_attn_weights"`
		ScaleByLayer *bool            `json:"scale_attn_by_inverse_layer_idx"`
		CrossAttn    *bool            `json:"add_cross_attention"`
		Tied         *bool            `json:"tie_word_embeddings"`
		Quantization json.RawMessage  `json:"quantization_config"`
		PrunedHeads  map[string][]any `json:"pruned_heads"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return Config{}, err
	}
	if f.ModelType != nil && *f.ModelType != "gpt2" {
		return Config{}, fmt.Errorf("model_type is %q, want \"gpt2\"", *f.ModelType)
	}
	c := Config{Epsilon: 1e-5, EOS: -1}
	for _, n := range []struct {
		name string
		from *int
		to   *int
		most int
	}{
		{"vocab_size", f.Vocab, &c.Vocab, maxVocab},
		{"n_positions", f.Positions, &c.Context, maxPositions},
		{"n_embd", f.Embd, &c.Embd, maxEmbd},
		{"n_layer", f.Layers, &c.Layers, maxLayers},
		{"n_head", f.Heads, &c.Heads, maxHeads},
	} {
		switch {
		case n.from == nil:
			return Config{}, fmt.Errorf("%s is missing", n.name)
		case *n.from < 1 || *n.from > n.most:
			return Config{}, fmt.Errorf("%s is %d, want 1 to %d", n.name, *n.from, n.most)
		}
		*n.to = *n.from
	}
	if c.Embd%c.Heads != 0 {
		return Config{}, fmt.Errorf("n_embd %d is not a multiple of n_head %d", c.Embd, c.Heads)
	}
	c.Inner = 4 * c.Embd
	if f.Inner != nil {
		if *f.Inner < 1 || *f.Inner > maxInner {
			return Config{}, fmt.Errorf("n_inner is %d, want 1 to %d", *f.Inner, maxInner)
		}
		c.Inner = *f.Inner
	}
	if f.Epsilon != nil {
		if e := float32(*f.Epsilon); !(e > 0 && e < 1) {
			return Config{}, fmt.Errorf("layer_norm_epsilon is %g, want more than 0 and less than 1", *f.Epsilon)
		}
		c.Epsilon = float32(*f.Epsilon)
	}
	if f.Activation != nil && *f.Activation != "gelu_new" && *f.Activation != "gelu_pytorch_tanh" {
		return Config{}, fmt.Errorf("activation_function %q is not supported, only \"gelu_new\" and \"gelu_pytorch_tanh\"", *f.Activation)
	}
	for _, s := range []struct {
		name string
		set  *bool
		want bool
	}{
		{"scale_attn_weights", f.ScaleWeights, true},
		{"scale_attn_by_inverse_layer_idx", f.ScaleByLayer, false},
		{"add_cross_attention", f.CrossAttn, false},
		{"tie_word_embeddings", f.Tied, true},
	} {
		if s.set != nil && *s.set != s.want {
			return Config{}, fmt.Errorf("%s %t is not supported", s.name, *s.set)
		}
	}
	if set(f.Quantization) {
		return Config{}, errors.New("quantization_config is not supported: convert the weights to float32, float16 or bfloat16")
	}
	if len(f.PrunedHeads) > 0 {
		return Config{}, errors.New("pruned_heads is not supported")
	}
	if set(f.EOS) {
		ids := make([]int, 1)
		if err := json.Unmarshal(f.EOS, &ids[0]); err != nil {
			if err := json.Unmarshal(f.EOS, &ids); err != nil {
				return Config{}, errors.New("eos_token_id is neither a token id nor a list of them")
			}
		}
		if len(ids) != 1 {
			return Config{}, fmt.Errorf("eos_token_id has %d ids, only one is supported", len(ids))
		}
		if ids[0] < 0 || ids[0] >= c.Vocab {
			return Config{}, fmt.Errorf("eos_token_id %d is not below vocab_size %d", ids[0], c.Vocab)
		}
		c.EOS = ids[0]
	}
	return c, nil
}

// set reports whether a JSON member is there and not null.
func set(m json.RawMessage) bool { return len(m) > 0 && string(m) != "null" }

// readFile reads a whole file of at most limit bytes.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, min(limit, math.MaxInt64-1)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, limit)
	}
	return b, nil
}
