package modeltest

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/fstest"

	"colophon/model"
)

// A Variant is a network in one of the forms in which GPT-2 checkpoints are published.
type Variant struct {
	Name    string
	Network *Network
	Files   fstest.MapFS
}

// Variants returns networks in every form that an engine must load.
func Variants() []Variant {
	var all []Variant
	for name, changes := range map[string]map[string]any{
		"plain":                        nil,
		"gelu":                         {"activation_function": "gelu"},
		"gelu_new":                     {"activation_function": "gelu_new"},
		"gelu_fast":                    {"activation_function": "gelu_fast"},
		"gelu_pytorch_tanh":            {"activation_function": "gelu_pytorch_tanh"},
		"relu":                         {"activation_function": "relu"},
		"silu":                         {"activation_function": "silu"},
		"swish":                        {"activation_function": "swish"},
		"tanh":                         {"activation_function": "tanh"},
		"narrow inner":                 {"n_inner": 17},
		"wide inner":                   {"n_inner": 130},
		"inner of null":                {"n_inner": (*int)(nil)},
		"unscaled":                     {"scale_attn_weights": false},
		"scaled by layer":              {"scale_attn_by_inverse_layer_idx": true},
		"unscaled and scaled by layer": {"scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": true, "reorder_and_upcast_attn": true},
		"relu, scaled by layer":        {"activation_function": "relu", "scale_attn_by_inverse_layer_idx": true, "n_inner": 33},
		"one head":                     {"n_head": 1},
		"epsilon":                      {"layer_norm_epsilon": 0.01},
		"untied":                       {"tie_word_embeddings": false},
		"shorter n_ctx":                {"n_ctx": 8},
		"leftover eos":                 {"eos_token_id": 50256},
		"no model_type":                {"model_type": nil, "architectures": []string{"GPT2DoubleHeadsModel"}},
	} {
		n := NewNetwork(changes)
		all = append(all, Variant{name, n, n.Files()})
	}
	for _, dtype := range []string{"F64", "F16", "BF16"} {
		n := NewNetwork(nil)
		for _, t := range n.Tensors {
			t.DType = dtype
		}
		all = append(all, Variant{dtype, n, n.Files()})
	}
	for name, change := range map[string]func(n *Network){
		"mixed types": func(n *Network) {
			for i, t := range n.Tensors {
				t.DType = []string{"F64", "F32", "F16", "BF16"}[i%4]
			}
		},
		"no prefix": func(n *Network) {
			for _, t := range n.Tensors {
				t.Name = t.plain
			}
		},
		"another order":        func(n *Network) { slices.Reverse(n.Tensors) },
		"head alone":           func(n *Network) { n.Tensor("wte.weight").Name = "lm_head.weight" },
		"head and embedding":   func(n *Network) { n.addHead("F32") },
		"head of another type": func(n *Network) { n.addHead("BF16") },
		"other heads and buffers": func(n *Network) {
			n.AddZeros("transformer.h.0.attn.bias", "BOOL", 1, 1, 40, 40)
			n.AddZeros("h.1.attn.bias", "U8", 1, 1, 40, 40)
			n.AddZeros("h.2.attn.masked_bias", "F32")
			n.AddZeros("v_head.summary.weight", "F32", 1, 24)
			n.AddZeros("score.weight", "F32", 2, 24)
			n.AddZeros("multiple_choice_head.summary.bias", "F32", 1)
			n.AddZeros("lm_head.bias", "F32", 300)
			n.AddZeros("position_ids", "I64", 1, 40)
		},
	} {
		n := NewNetwork(nil)
		change(n)
		all = append(all, Variant{name, n, n.Files()})
	}
	n := NewNetwork(map[string]any{"tie_word_embeddings": false, "activation_function": "gelu"})
	all = append(all, Variant{"shards", n, n.Shards(5)}, Variant{"one shard", n, n.Shards(1)})
	slices.SortFunc(all, func(a, b Variant) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// addHead adds a copy of the embeddings as weights of the output layer.
func (n *Network) addHead(dtype string) {
	head := *n.Tensor("wte.weight")
	head.Name, head.plain, head.DType = "lm_head.weight", "lm_head.weight", dtype
	n.Tensors = append(n.Tensors, &head)
}

// TestVariant compares the logits of an engine in float32 with those of the network. They
// must differ by no more than tolerance. A context of all positions is computed.
func TestVariant(t *testing.T, e model.Engine, v Variant, tolerance float64) {
	t.Helper()
	info := e.Info()
	rnd := rand.New(rand.NewPCG(1, 40))
	ids := make([]int, info.Context)
	for i := range ids {
		ids[i] = rnd.IntN(info.Vocab)
	}
	TestGolden(t, e, []Case{{Name: v.Name, IDs: ids, Logits: Rows(v.Network.Logits(ids))}}, tolerance, false)
}
