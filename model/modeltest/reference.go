package modeltest

import (
	"fmt"
	"math"
)

// Logits returns the logits after each token, which Hugging Face's GPT2LMHeadModel
// defines. It computes in float64, token by token, in the plainest way.
func (n *Network) Logits(ids []int) [][]float64 {
	d, layers := n.size("n_embd", 0), n.size("n_layer", 0)
	keys, values := make([][][]float64, layers), make([][][]float64, layers)
	var all [][]float64
	for position, id := range ids {
		x := sum(n.row("wte.weight", id), n.row("wpe.weight", position))
		for l := range layers {
			block := fmt.Sprintf("h.%d.", l)
			qkv := n.linear(block+"attn.c_attn", n.norm(block+"ln_1", x))
			keys[l] = append(keys[l], qkv[d:2*d])
			values[l] = append(values[l], qkv[2*d:])
			x = sum(x, n.linear(block+"attn.c_proj", n.attend(l, qkv[:d], keys[l], values[l])))
			inner := n.linear(block+"mlp.c_fc", n.norm(block+"ln_2", x))
			for i := range inner {
				inner[i] = n.activate(inner[i])
			}
			x = sum(x, n.linear(block+"mlp.c_proj", inner))
		}
		x = n.norm("ln_f", x)
		head := "wte.weight"
		if n.Config["tie_word_embeddings"] == false {
			head = "lm_head.weight"
		}
		logits := make([]float64, n.size("vocab_size", 0))
		for token := range logits {
			logits[token] = dot(x, n.row(head, token))
		}
		all = append(all, logits)
	}
	return all
}

// attend returns the output of attention, before its projection, for one query.
func (n *Network) attend(layer int, query []float64, keys, values [][]float64) []float64 {
	heads := n.size("n_head", 0)
	width := len(query) / heads
	out := make([]float64, len(query))
	for h := range heads {
		from, to := h*width, (h+1)*width
		weights, total := make([]float64, len(keys)), 0.0
		for t, key := range keys {
			score := dot(query[from:to], key[from:to])
			if n.Config["scale_attn_weights"] != false {
				score /= math.Sqrt(float64(width))
			}
			if n.Config["scale_attn_by_inverse_layer_idx"] == true {
				score /= float64(layer + 1)
			}
			weights[t] = math.Exp(score)
			total += weights[t]
		}
		for t, value := range values {
			for i := from; i < to; i++ {
				out[i] += weights[t] / total * value[i]
			}
		}
	}
	return out
}

// activate is the activation function, as transformers/activations.py defines it.
func (n *Network) activate(x float64) float64 {
	switch name := n.Config["activation_function"]; name {
	case nil, "gelu_new", "gelu_pytorch_tanh":
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case "gelu_fast":
		return 0.5 * x * (1 + math.Tanh(x*0.7978845608*(1+0.044715*x*x)))
	case "gelu":
		return x * 0.5 * (1 + math.Erf(x/math.Sqrt2))
	case "relu":
		return math.Max(x, 0)
	case "silu", "swish":
		return x / (1 + math.Exp(-x))
	case "tanh":
		return math.Tanh(x)
	default:
		panic(fmt.Sprintf("no activation %v", name))
	}
}

// norm is a layer norm.
func (n *Network) norm(name string, x []float64) []float64 {
	epsilon, ok := n.Config["layer_norm_epsilon"].(float64)
	if !ok {
		epsilon = 1e-5
	}
	mean, variance := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	gain, bias := n.Tensor(name+".weight").Values, n.Tensor(name+".bias").Values
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = (v-mean)/math.Sqrt(variance+epsilon)*gain[i] + bias[i]
	}
	return y
}

// linear multiplies x by a matrix [inputs, outputs] and adds a bias.
func (n *Network) linear(name string, x []float64) []float64 {
	weights, bias := n.Tensor(name+".weight"), n.Tensor(name+".bias").Values
	y := append([]float64{}, bias...)
	for k, v := range x {
		for o := range y {
			y[o] += v * weights.Values[k*len(y)+o]
		}
	}
	return y
}

// row returns a row of a matrix.
func (n *Network) row(name string, i int) []float64 {
	t := n.Tensor(name)
	return t.Values[i*t.Shape[1]:][:t.Shape[1]]
}

func sum(x, y []float64) []float64 {
	z := make([]float64, len(x))
	for i := range x {
		z[i] = x[i] + y[i]
	}
	return z
}

func dot(x, y []float64) float64 {
	z := 0.0
	for i := range x {
		z += x[i] * y[i]
	}
	return z
}

// Rows returns logits as the golden vectors have them.
func Rows(logits [][]float64) [][]float32 {
	var rows [][]float32
	for _, l := range logits {
		row := make([]float32, len(l))
		for i, v := range l {
			row[i] = float32(v)
		}
		rows = append(rows, row)
	}
	return rows
}
