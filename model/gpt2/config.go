package gpt2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Config has the sizes and the other settings of a GPT-2 network.
type Config struct {
	Vocab   int     // number of token ids
	Context int     // largest number of tokens in a sequence
	Embd    int     // width of the residual stream
	Layers  int     // number of blocks
	Heads   int     // number of attention heads in a block, each Embd/Heads wide
	Inner   int     // width of the feed-forward layer
	Epsilon float32 // number added to the variance in layer norms
	EOS     int     // id of the token that ends a text, or -1 if there is none

	// Conversational is set if the file has parameters for conversations, as those of
	// DialoGPT do. Such a model was trained with turns that end with the token EOS.
	Conversational bool
}

// These are the upper bounds of the sizes in a config.json. The largest published GPT-2
// (1.5 billion parameters) has 48 layers of 25 heads and a width of 1600.
const (
	maxVocab     = 1 << 20
	maxPositions = 1 << 16
	maxEmbd      = 1 << 14
	maxInner     = 1 << 17
	maxLayers    = 256
	maxHeads     = 256
)

// HeadDim returns the width of an attention head.
func (c Config) HeadDim() int { return c.Embd / c.Heads }

// ReadConfig reads config.json as Hugging Face writes it for GPT2LMHeadModel. It
// returns an error for a setting that requires arithmetic that this package does not
// implement. It ignores settings that only matter for training.
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

// configFile has the members of config.json that this package uses. A pointer is nil if
// the member is absent or null.
type configFile struct {
	ModelType *string `json:"model_type"`

	Vocab     *int     `json:"vocab_size"`
	Positions *int     `json:"n_positions"`
	Embd      *int     `json:"n_embd"`
	Layers    *int     `json:"n_layer"`
	Heads     *int     `json:"n_head"`
	Inner     *int     `json:"n_inner"`
	Epsilon   *float64 `json:"layer_norm_epsilon"`

	EOS json.RawMessage `json:"eos_token_id"`

	Tasks json.RawMessage `json:"task_specific_params"`

	Activation   *string          `json:"activation_function"`
	ScaleWeights *bool            `json:"scale_attn_weights"`
	ScaleByLayer *bool            `json:"scale_attn_by_inverse_layer_idx"`
	CrossAttn    *bool            `json:"add_cross_attention"`
	Tied         *bool            `json:"tie_word_embeddings"`
	Quantization json.RawMessage  `json:"quantization_config"`
	PrunedHeads  map[string][]any `json:"pruned_heads"`
}

func parseConfig(b []byte) (Config, error) {
	var f configFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Config{}, err
	}
	if f.ModelType != nil && *f.ModelType != "gpt2" {
		return Config{}, fmt.Errorf("model_type is %q, want \"gpt2\"", *f.ModelType)
	}
	c, err := f.shape()
	if err != nil {
		return Config{}, err
	}
	if err := f.checkSupported(); err != nil {
		return Config{}, err
	}
	if c.EOS, err = parseEOS(f.EOS, c.Vocab); err != nil {
		return Config{}, err
	}
	var tasks struct{ Conversational json.RawMessage }
	// Only a chat template depends on this member, so a form that this package does not know
	// is no reason to refuse the model.
	c.Conversational = json.Unmarshal(f.Tasks, &tasks) == nil && tasks.Conversational != nil
	return c, nil
}

// shape checks the sizes in the file and returns them. n_inner and layer_norm_epsilon
// have the defaults of Hugging Face's GPT2Config. The other sizes have no default here.
func (f *configFile) shape() (Config, error) {
	var c Config
	for _, n := range []struct {
		name  string
		from  *int
		to    *int
		limit int
	}{
		{"vocab_size", f.Vocab, &c.Vocab, maxVocab},
		{"n_positions", f.Positions, &c.Context, maxPositions},
		{"n_embd", f.Embd, &c.Embd, maxEmbd},
		{"n_layer", f.Layers, &c.Layers, maxLayers},
		{"n_head", f.Heads, &c.Heads, maxHeads},
	} {
		if n.from == nil {
			return Config{}, fmt.Errorf("%s is missing", n.name)
		}
		if err := checkSize(n.name, *n.from, n.limit); err != nil {
			return Config{}, err
		}
		*n.to = *n.from
	}
	if c.Embd%c.Heads != 0 {
		return Config{}, fmt.Errorf("n_embd %d is not a multiple of n_head %d", c.Embd, c.Heads)
	}
	c.Inner = 4 * c.Embd
	if f.Inner != nil {
		if err := checkSize("n_inner", *f.Inner, maxInner); err != nil {
			return Config{}, err
		}
		c.Inner = *f.Inner
	}
	c.Epsilon = 1e-5
	if f.Epsilon != nil {
		if c.Epsilon = float32(*f.Epsilon); !(c.Epsilon > 0 && c.Epsilon < 1) {
			return Config{}, fmt.Errorf("layer_norm_epsilon is %g, want more than 0 and less than 1", *f.Epsilon)
		}
	}
	return c, nil
}

func checkSize(name string, n, limit int) error {
	if n < 1 || n > limit {
		return fmt.Errorf("%s is %d, want 1 to %d", name, n, limit)
	}
	return nil
}

// checkSupported returns an error if the file asks for arithmetic that this
// package does not implement.
func (f *configFile) checkSupported() error {
	if a := f.Activation; a != nil && *a != "gelu_new" && *a != "gelu_pytorch_tanh" {
		return fmt.Errorf("activation_function %q is not supported, only \"gelu_new\" and \"gelu_pytorch_tanh\"", *a)
	}
	for _, s := range []struct {
		name string
		got  *bool
		want bool
	}{
		{"scale_attn_weights", f.ScaleWeights, true},
		{"scale_attn_by_inverse_layer_idx", f.ScaleByLayer, false},
		{"add_cross_attention", f.CrossAttn, false},
		{"tie_word_embeddings", f.Tied, true},
	} {
		if s.got != nil && *s.got != s.want {
			return fmt.Errorf("%s %t is not supported", s.name, *s.got)
		}
	}
	if isSet(f.Quantization) {
		return errors.New("quantization_config is not supported: convert the weights to float32, float16 or bfloat16")
	}
	if len(f.PrunedHeads) > 0 {
		return errors.New("pruned_heads is not supported")
	}
	return nil
}

// parseEOS returns the id in eos_token_id, which is a number or a list of one number.
// It returns -1 if the member is absent or null.
func parseEOS(member json.RawMessage, vocab int) (int, error) {
	if !isSet(member) {
		return -1, nil
	}
	ids := make([]int, 1)
	if json.Unmarshal(member, &ids[0]) != nil && json.Unmarshal(member, &ids) != nil {
		return 0, errors.New("eos_token_id is neither a token id nor a list of them")
	}
	if len(ids) != 1 {
		return 0, fmt.Errorf("eos_token_id has %d ids, only one is supported", len(ids))
	}
	if ids[0] < 0 || ids[0] >= vocab {
		return 0, fmt.Errorf("eos_token_id %d is not below vocab_size %d", ids[0], vocab)
	}
	return ids[0], nil
}

// isSet reports whether a JSON member is present and not null.
func isSet(member json.RawMessage) bool { return len(member) > 0 && string(member) != "null" }

// readFile reads a whole file. A file of more than limit bytes is an error.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, limit)
	}
	return b, nil
}
