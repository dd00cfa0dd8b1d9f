package gpt2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
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
	MoreEOS []int   // ids of the other tokens that end a text; nil if there are none

	Activation   Activation // activation function of the feed-forward layer
	Unscaled     bool       // set if attention scores are not divided by the square root of HeadDim
	ScaleByLayer bool       // set if the attention scores of block i, from 0, are divided by i+1
	Untied       bool       // set if the output layer has weights of its own, lm_head.weight

	// Conversational is set if the file has parameters for conversations, as those of
	// DialoGPT do. Such a model was trained with turns that end with the token EOS.
	Conversational bool
}

// An Activation is the activation function of the feed-forward layer.
type Activation int

// These are the activation functions. The zero value is that of the published GPT-2.
const (
	GELUTanh Activation = iota // x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))
	GELU                       // x Φ(x), where Φ is the distribution function of the normal distribution
	ReLU                       // the larger of x and 0
	SiLU                       // x / (1 + exp(-x))
	Tanh                       // tanh(x)
)

var activationNames = [...]string{"gelu_new", "gelu", "relu", "silu", "tanh"}

// String returns the name in config.json.
func (a Activation) String() string { return activationNames[a] }

// activations has the values of activation_function that this package knows.
var activations = map[string]Activation{
	"gelu_new": GELUTanh, "gelu_fast": GELUTanh, "gelu_pytorch_tanh": GELUTanh,
	"gelu": GELU, "relu": ReLU, "silu": SiLU, "swish": SiLU, "tanh": Tanh,
}

// Variant names the arithmetic that differs from that of the published GPT-2, such as
// "+relu+unscaled". It is "" for the same arithmetic. model.Info has it after the format
// of the weights, because the digest of the weights does not cover config.json.
func (c Config) Variant() string {
	var v string
	if c.Activation != GELUTanh {
		v += "+" + c.Activation.String()
	}
	if c.Unscaled {
		v += "+unscaled"
	}
	if c.ScaleByLayer {
		v += "+scaled-by-layer"
	}
	return v
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

// ReadConfig reads config.json as Hugging Face writes it for GPT2LMHeadModel, and
// eos_token_id from generation_config.json if that file has it. It returns an error for a
// setting that requires arithmetic that this package does not implement. It ignores
// settings that only matter for training, and n_ctx, which n_positions has replaced.
func ReadConfig(fsys fs.FS) (Config, error) {
	b, err := readFile(fsys, "config.json", maxConfig)
	if err != nil {
		return Config{}, err
	}
	c, err := parseConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("read config.json: %w", err)
	}
	b, err = readFile(fsys, "generation_config.json", maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return Config{}, err
	}
	if err := c.generation(b); err != nil {
		return Config{}, fmt.Errorf("read generation_config.json: %w", err)
	}
	return c, nil
}

// maxConfig is the largest size in bytes of config.json and generation_config.json.
const maxConfig = 1 << 20

// members has the members of a JSON object. The methods treat a member that is null as
// absent.
type members map[string]json.RawMessage

func parseMembers(b []byte) (members, error) {
	var m members
	err := json.Unmarshal(b, &m)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok || err == nil && m == nil {
		return nil, errors.New("not a JSON object")
	}
	return m, err
}

// read stores a member in *to, unless the member is absent. want says what the member
// must be.
func (m members) read(name string, to any, want string) error {
	if !isSet(m[name]) {
		return nil
	}
	if json.Unmarshal(m[name], to) != nil {
		return fmt.Errorf("%s is %s, want %s", name, short(string(m[name])), want)
	}
	return nil
}

func parseConfig(b []byte) (Config, error) {
	m, err := parseMembers(b)
	if err != nil {
		return Config{}, err
	}
	kind := "gpt2"
	if err := m.read("model_type", &kind, "a name"); err != nil {
		return Config{}, err
	}
	if kind != "gpt2" {
		return Config{}, fmt.Errorf("model_type is %q, want \"gpt2\"", short(kind))
	}
	c, err := m.shape()
	if err != nil {
		return Config{}, err
	}
	if err := m.arithmetic(&c); err != nil {
		return Config{}, err
	}
	c.setEOS(new(defaultEOS))
	if err := m.readEOS(&c); err != nil {
		return Config{}, err
	}
	var tasks struct{ Conversational json.RawMessage }
	// Only a chat template depends on this member, so a form that this package does not know
	// is no reason to refuse the model.
	c.Conversational = json.Unmarshal(m["task_specific_params"], &tasks) == nil && tasks.Conversational != nil
	return c, nil
}

// shape checks the sizes in the file and returns them. A size that is absent has the
// default of Hugging Face's GPT2Config. A size may have either of two names.
func (m members) shape() (Config, error) {
	c := Published()
	for _, n := range []struct {
		name, alias string
		to          *int
		limit       int
	}{
		{"vocab_size", "", &c.Vocab, maxVocab},
		{"n_positions", "max_position_embeddings", &c.Context, maxPositions},
		{"n_embd", "hidden_size", &c.Embd, maxEmbd},
		{"n_layer", "num_hidden_layers", &c.Layers, maxLayers},
		{"n_head", "num_attention_heads", &c.Heads, maxHeads},
	} {
		given := 0
		for _, name := range []string{n.alias, n.name} {
			if _, ok := m[name]; !ok {
				continue
			}
			if err := m.size(name, n.to, n.limit); err != nil {
				return Config{}, err
			}
			if given != 0 && given != *n.to {
				return Config{}, fmt.Errorf("%s is %d and %s is %d: they name the same size, so remove one", n.name, *n.to, n.alias, given)
			}
			given = *n.to
		}
	}
	if c.Embd%c.Heads != 0 {
		return Config{}, fmt.Errorf("n_embd %d is not a multiple of n_head %d", c.Embd, c.Heads)
	}
	c.Inner = 4 * c.Embd
	if isSet(m["n_inner"]) {
		if err := m.size("n_inner", &c.Inner, maxInner); err != nil {
			return Config{}, err
		}
	}
	epsilon := 1e-5
	if err := m.read("layer_norm_epsilon", &epsilon, "a number"); err != nil {
		return Config{}, err
	}
	if c.Epsilon = float32(epsilon); !(c.Epsilon > 0 && c.Epsilon < 1) {
		return Config{}, fmt.Errorf("layer_norm_epsilon is %g, want more than 0 and less than 1", epsilon)
	}
	return c, nil
}

// size stores a member from 1 to limit in *to.
func (m members) size(name string, to *int, limit int) error {
	*to = 0 // for a member that is null
	if err := m.read(name, to, fmt.Sprintf("1 to %d", limit)); err != nil {
		return err
	}
	if *to < 1 || *to > limit {
		return fmt.Errorf("%s is %s, want 1 to %d", name, short(string(m[name])), limit)
	}
	return nil
}

// arithmetic reads the settings of the arithmetic. It returns an error if the file asks
// for arithmetic that this package does not implement.
func (m members) arithmetic(c *Config) error {
	activation, scaled, crossing, tied := "gelu_new", true, false, true
	var pruned map[string]json.RawMessage
	for _, s := range []struct {
		name string
		to   any
		want string
	}{
		{"activation_function", &activation, "a name"},
		{"scale_attn_weights", &scaled, "true or false"},
		{"scale_attn_by_inverse_layer_idx", &c.ScaleByLayer, "true or false"},
		{"add_cross_attention", &crossing, "true or false"},
		{"tie_word_embeddings", &tied, "true or false"},
		{"pruned_heads", &pruned, "an object"},
	} {
		if err := m.read(s.name, s.to, s.want); err != nil {
			return err
		}
	}
	var known bool
	if c.Activation, known = activations[activation]; !known {
		return fmt.Errorf("activation_function %q is not supported, only gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, swish and tanh", short(activation))
	}
	c.Unscaled, c.Untied = !scaled, !tied
	switch {
	case crossing:
		return errors.New("add_cross_attention is not supported")
	case isSet(m["quantization_config"]):
		return errors.New("quantization_config is not supported: convert the weights to float32, float16 or bfloat16")
	case len(pruned) > 0:
		return errors.New("pruned_heads is not supported")
	}
	return nil
}

const (
	defaultEOS = 50256 // default of Hugging Face's GPT2Config
	maxEOS     = 64    // largest number of ids that may end a text
)

// generation reads eos_token_id from the contents of generation_config.json. It leaves
// the ids of config.json if the file has none.
func (c *Config) generation(b []byte) error {
	m, err := parseMembers(b)
	if err != nil {
		return err
	}
	return m.readEOS(c)
}

// readEOS reads eos_token_id, which is a number, a list of numbers, or null for none. It
// leaves the ids that c has if the member is absent.
func (m members) readEOS(c *Config) error {
	const name = "eos_token_id"
	member, ok := m[name]
	if !ok {
		return nil
	}
	ids := make([]*int, 1)
	switch {
	case !isSet(member):
		ids = nil
	case json.Unmarshal(member, &ids[0]) != nil && json.Unmarshal(member, &ids) != nil, slices.Contains(ids, nil):
		return fmt.Errorf("%s is %s, want a token id, a list of them, or null", name, short(string(member)))
	case len(ids) > maxEOS:
		return fmt.Errorf("%s has %d ids, want at most %d", name, len(ids), maxEOS)
	}
	c.setEOS(ids...)
	return nil
}

// setEOS sets the ids that end a text. An id that is not in the vocabulary is left out,
// because no text has it.
func (c *Config) setEOS(ids ...*int) {
	c.EOS, c.MoreEOS = -1, nil
	for _, p := range ids {
		switch id := *p; {
		case id < 0 || id >= c.Vocab || id == c.EOS || slices.Contains(c.MoreEOS, id):
		case c.EOS < 0:
			c.EOS = id
		default:
			c.MoreEOS = append(c.MoreEOS, id)
		}
	}
}

// isSet reports whether a JSON member is present and not null.
func isSet(member json.RawMessage) bool { return len(member) > 0 && string(member) != "null" }
