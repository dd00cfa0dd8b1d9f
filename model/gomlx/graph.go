package gomlx

import (
	"fmt"
	"math"

	"colophon/model/gpt2"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// A network builds the GPT-2 graph for training and for inference. Training sets the
// hook dropout, and inference sets the hook storeKV.
type network struct {
	gpt2.Config
	weights map[string]*graph.Node
	// dropout, if not nil, is applied to the embeddings and to the output of each half
	// of a block (attention and feed-forward layer).
	dropout func(*graph.Node) *graph.Node
	// storeKV, if not nil, takes a layer's new keys and values, each [batch, head,
	// position, head width]. It returns all keys and values that the attention uses.
	storeKV func(layer int, keys, values *graph.Node) (*graph.Node, *graph.Node)
}

// newNetwork returns a network with weights in the order of config.Tensors.
func newNetwork(config gpt2.Config, weights []*graph.Node) *network {
	n := &network{Config: config, weights: map[string]*graph.Node{}}
	for name := range config.Tensors() {
		n.weights[name], weights = weights[0], weights[1:]
	}
	return n
}

// hidden returns the output of the final layer norm, [batch*length, width], for tokens
// [batch, length] at positions [length].
func (n *network) hidden(tokens, positions *graph.Node) *graph.Node {
	batch, length := tokens.Shape().Dimensions[0], tokens.Shape().Dimensions[1]
	x := graph.Gather(n.weights["wte.weight"], graph.InsertAxes(tokens, -1))
	x = graph.Add(x, graph.InsertAxes(graph.Gather(n.weights["wpe.weight"], graph.InsertAxes(positions, -1)), 0))
	x = n.drop(graph.Reshape(x, batch*length, n.Embd))
	for layer := range n.Layers {
		block := fmt.Sprintf("h.%d.", layer)
		x = graph.Add(x, n.drop(n.attention(layer, n.layerNorm(block+"ln_1", x), positions, batch)))
		inner := n.activate(n.linear(block+"mlp.c_fc", n.layerNorm(block+"ln_2", x)))
		x = graph.Add(x, n.drop(n.linear(block+"mlp.c_proj", inner)))
	}
	return n.layerNorm("ln_f", x)
}

// logits returns the logits [rows, vocab] for rows of the result of hidden.
func (n *network) logits(hidden *graph.Node) *graph.Node {
	name := "wte.weight"
	if n.Untied {
		name = "lm_head.weight"
	}
	return matMul(hidden, n.weights[name], 1)
}

// attention returns the attention output of a block for x [batch*length, width].
func (n *network) attention(layer int, x, positions *graph.Node, batch int) *graph.Node {
	block := fmt.Sprintf("h.%d.attn.", layer)
	length, headDim := x.Shape().Dimensions[0]/batch, n.HeadDim()
	qkv := n.linear(block+"c_attn", x)
	heads := func(part int) *graph.Node {
		y := graph.Slice(qkv, graph.AxisRange(), graph.AxisRange(part*n.Embd, (part+1)*n.Embd))
		return graph.TransposeAllAxes(graph.Reshape(y, batch, length, n.Heads, headDim), 0, 2, 1, 3)
	}
	queries, keys, values := heads(0), heads(1), heads(2)
	if n.storeKV != nil {
		keys, values = n.storeKV(layer, keys, values)
	}
	scale := 1.0
	if !n.Unscaled {
		scale /= math.Sqrt(float64(headDim))
	}
	if n.ScaleByLayer {
		scale /= float64(layer + 1)
	}
	queries = graph.MulScalar(queries, scale)
	scores := graph.DotGeneral(queries, []int{3}, []int{0, 1}, keys, []int{3}, []int{0, 1})
	scores = graph.Where(causal(positions, scores.Shape()), scores, graph.Scalar(x.Graph(), dtypes.Float32, -1e9))
	y := graph.DotGeneral(graph.Softmax(scores, -1), []int{3}, []int{0, 1}, values, []int{2}, []int{0, 1})
	return n.linear(block+"c_proj", graph.Reshape(graph.TransposeAllAxes(y, 0, 2, 1, 3), batch*length, n.Embd))
}

// causal returns the causal mask in the shape of the scores. The mask is true where the
// index of a key is at most the position of the query.
func causal(positions *graph.Node, scores shapes.Shape) *graph.Node {
	queries, keys := scores.Dimensions[2], scores.Dimensions[3]
	index := graph.Iota(positions.Graph(), shapes.Make(positions.DType(), queries, keys), 1)
	mask := graph.LessOrEqual(index, graph.BroadcastToDims(graph.InsertAxes(positions, -1), queries, keys))
	return graph.BroadcastToDims(graph.InsertAxes(mask, 0, 0), scores.Dimensions...)
}

// linear returns x·weight + bias, with the weight and the bias of the given name.
func (n *network) linear(name string, x *graph.Node) *graph.Node {
	return graph.Add(matMul(x, n.weights[name+".weight"], 0), graph.InsertAxes(n.weights[name+".bias"], 0))
}

// matMul multiplies x [rows, in] by w. The shape of w is [in, out] if axis is 0, and
// [out, in] if axis is 1. matMul defines the gradient of w by hand. GoMLX would
// transpose both x and the gradient of the product, but transposing the narrower of the
// two is enough.
func matMul(x, w *graph.Node, axis int) *graph.Node {
	var gradient *graph.Node
	w = graph.IdentityWithCustomGradient(w, func(_, _ *graph.Node) *graph.Node {
		left, right, inputs := x, gradient, 0
		if x.Shape().Dimensions[1] > gradient.Shape().Dimensions[1] {
			left, right, inputs = gradient, x, 1
		}
		product := graph.DotGeneral(graph.TransposeAllAxes(left, 1, 0), []int{1}, nil, right, []int{0}, nil)
		if inputs != axis {
			product = graph.TransposeAllAxes(product, 1, 0)
		}
		return product
	})
	// GoMLX computes the gradient of the product before the gradient of w.
	return graph.IdentityWithCustomGradient(graph.DotGeneral(x, []int{1}, nil, w, []int{axis}, nil), func(_, v *graph.Node) *graph.Node {
		gradient = v
		return v
	})
}

// activate applies the activation function of the network.
func (n *network) activate(x *graph.Node) *graph.Node {
	switch n.Activation {
	case gpt2.GELU:
		return graph.Mul(x, graph.MulScalar(graph.AddScalar(graph.Erf(graph.MulScalar(x, 1/math.Sqrt2)), 1), 0.5))
	case gpt2.ReLU:
		return graph.Max(x, graph.ZerosLike(x))
	case gpt2.SiLU:
		return graph.Mul(x, graph.Logistic(x))
	case gpt2.Tanh:
		return graph.Tanh(x)
	}
	return gelu(x)
}

// gelu is the tanh approximation of GELU, with which GPT-2 was trained. GoMLX's own
// function computes the cube as a power, which is slow.
func gelu(x *graph.Node) *graph.Node {
	cube := graph.Mul(x, graph.Mul(x, x))
	t := graph.Tanh(graph.MulScalar(graph.Add(x, graph.MulScalar(cube, 0.044715)), math.Sqrt(2/math.Pi)))
	return graph.Mul(x, graph.MulScalar(graph.AddScalar(t, 1), 0.5))
}

// layerNorm normalises x with the parameters of the layer norm that has the given name.
func (n *network) layerNorm(name string, x *graph.Node) *graph.Node {
	centred := graph.Sub(x, graph.ReduceAndKeep(x, graph.ReduceMean, -1))
	variance := graph.ReduceAndKeep(graph.Mul(centred, centred), graph.ReduceMean, -1)
	// The reciprocal of Sqrt replaces Rsqrt, which has no gradient in GoMLX 0.28.
	scale := graph.Reciprocal(graph.Sqrt(graph.AddScalar(variance, float64(n.Epsilon))))
	return graph.Add(graph.Mul(graph.Mul(centred, scale), graph.InsertAxes(n.weights[name+".weight"], 0)), graph.InsertAxes(n.weights[name+".bias"], 0))
}

// drop applies dropout if n.dropout is set.
func (n *network) drop(x *graph.Node) *graph.Node {
	if n.dropout == nil {
		return x
	}
	return n.dropout(x)
}
