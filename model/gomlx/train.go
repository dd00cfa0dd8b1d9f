package gomlx

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"colophon/model/gpt2"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Recipe holds the hyper-parameters of a training run.
type Recipe struct {
	Steps       int     // steps of the whole run
	WarmUp      int     // steps at the beginning over which the learning rate rises
	CoolDown    int     // steps at the end over which it falls to zero
	Period      int     // steps over which it falls along a cosine to LastRate
	Rate        float64 // highest learning rate
	LastRate    float64 // the share of Rate that the cosine falls to
	Beta1       float64 // AdamW's decay of the mean gradient
	Beta2       float64 // AdamW's decay of the mean squared gradient
	WeightDecay float64 // AdamW's, on matrices and embeddings only
	Clip        float64 // largest norm of the gradient
	Dropout     float64 // see network
	Average     float64 // decay of the moving average of the weights
	Seed        uint64  // selects initial weights and dropout
}

// A Trainer trains a GPT-2 from scratch. It is for one goroutine.
type Trainer struct {
	config gpt2.Config
	recipe Recipe
	state  state
	parts  [2]part
	loss   *graph.Exec
}

// state is what a checkpoint holds.
type state struct {
	Step    int         // steps done
	Weights [][]float32 // in the order of gpt2.Config.Tensors
	Average [][]float32 // moving average of Weights
	Mean    [][]float32 // AdamW's mean gradient
	Square  [][]float32 // AdamW's mean squared gradient
}

// A part computes the gradients of one half of a batch, on its own backend:
// GoMLX runs most operations on one core, so two halves at once are faster than
// the whole in one piece. (One backend for both would lock up: in compute 0.1.2
// two matrix products that run out of workers wait for each other.)
type part struct {
	backend compute.Backend
	step    *graph.Exec
}

// NewTrainer returns a trainer with fresh weights: normal with deviation 0.02
// (0.01 for positions; divided by sqrt(2*layers) where a block adds to the
// residual stream), as in GPT-2.
func NewTrainer(config gpt2.Config, recipe Recipe) (*Trainer, error) {
	t := &Trainer{config: config, recipe: recipe}
	rng := rand.New(rand.NewPCG(recipe.Seed, 0))
	for name, shape := range config.Tensors() {
		w := make([]float32, elements(shape))
		mean, deviation := initial(name, len(shape), config.Layers)
		for i := range w {
			w[i] = float32(mean + deviation*rng.NormFloat64())
		}
		t.state.Weights = append(t.state.Weights, w)
		t.state.Average = append(t.state.Average, slices.Clone(w))
		t.state.Mean = append(t.state.Mean, make([]float32, len(w)))
		t.state.Square = append(t.state.Square, make([]float32, len(w)))
	}
	for i := range t.parts {
		backend, err := gobackend.New("ops_sequential")
		if err != nil {
			return nil, fmt.Errorf("open GoMLX's Go backend: %w", err)
		}
		t.parts[i].backend = backend
		if t.parts[i].step, err = graph.NewExec(backend, t.stepGraph); err != nil {
			return nil, fmt.Errorf("build the training step: %w", err)
		}
	}
	var err error
	if t.loss, err = graph.NewExec(t.parts[0].backend, t.lossGraph); err != nil {
		return nil, fmt.Errorf("build the loss: %w", err)
	}
	return t, nil
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

func initial(name string, rank, layers int) (mean, deviation float64) {
	switch {
	case rank == 1 && strings.HasSuffix(name, ".weight"):
		return 1, 0
	case rank == 1:
		return 0, 0
	case name == "wpe.weight":
		return 0, 0.01
	case strings.HasSuffix(name, ".c_proj.weight"):
		return 0, 0.02 / math.Sqrt(2*float64(layers))
	default:
		return 0, 0.02
	}
}

// stepGraph takes tokens, targets, a random state and the weights; it returns
// the loss and its gradients.
func (t *Trainer) stepGraph(in []*graph.Node) []*graph.Node {
	random := in[2]
	n := newNetwork(t.config, in[3:])
	if t.recipe.Dropout > 0 {
		n.dropout = func(x *graph.Node) *graph.Node {
			var u *graph.Node
			random, u = graph.RandomUniform(random, x.Shape())
			keep := graph.ConvertDType(graph.GreaterOrEqual(u, graph.Scalar(x.Graph(), dtypes.Float32, t.recipe.Dropout)), dtypes.Float32)
			return graph.Mul(x, graph.StopGradient(graph.MulScalar(keep, 1/(1-t.recipe.Dropout))))
		}
	}
	loss, seed := n.crossEntropy(in[0], in[1])
	return append([]*graph.Node{loss}, graph.Gradient(seed, in[3:]...)...)
}

func (t *Trainer) lossGraph(in []*graph.Node) []*graph.Node {
	loss, _ := newNetwork(t.config, in[2:]).crossEntropy(in[0], in[1])
	return []*graph.Node{loss}
}

// crossEntropy returns the mean loss in nats and a node that has the loss's
// gradient, though not its value. Going by the closed form, softmax minus
// target, saves two thirds of the passes over the logits that differentiating
// the loss step by step would make.
func (n *network) crossEntropy(tokens, targets *graph.Node) (loss, seed *graph.Node) {
	g := tokens.Graph()
	logits := n.logits(n.hidden(tokens, graph.Iota(g, shapes.Make(dtypes.Int32, tokens.Shape().Dimensions[1]), 0)))
	rows := logits.Shape().Dimensions[0]
	p := graph.Softmax(graph.StopGradient(logits), -1)
	ids := graph.Iota(g, shapes.Make(dtypes.Int32, rows, n.Vocab), 1)
	hit := graph.Equal(ids, graph.BroadcastToDims(graph.Reshape(targets, rows, 1), rows, n.Vocab))
	target := graph.ConvertDType(hit, dtypes.Float32)
	loss = graph.Neg(graph.ReduceAllMean(graph.Log(graph.ReduceSum(graph.Mul(p, target), -1))))
	seed = graph.ReduceAllSum(graph.IdentityWithCustomGradient(logits, func(_, _ *graph.Node) *graph.Node {
		return graph.MulScalar(graph.Sub(p, target), 1/float64(rows))
	}))
	return loss, seed
}

// Step does one step of AdamW (Loshchilov and Hutter, 2019) on an even number
// of rows of equal length, tokens and what follows each, and returns their loss
// in nats per token before the step.
func (t *Trainer) Step(tokens, targets [][]int32) (float64, error) {
	var (
		losses    [2]float64
		gradients [2][][]float32
		errs      [2]error
		group     sync.WaitGroup
	)
	half := len(tokens) / 2
	if half == 0 || len(tokens)%2 != 0 || len(targets) != len(tokens) {
		return 0, fmt.Errorf("training step %d: %d rows with %d rows of targets, want the same even number", t.state.Step, len(tokens), len(targets))
	}
	for i, rows := range [2][2]int{{0, half}, {half, len(tokens)}} {
		group.Go(func() {
			losses[i], gradients[i], errs[i] = t.gradients(i, tokens[rows[0]:rows[1]], targets[rows[0]:rows[1]])
		})
	}
	group.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return 0, fmt.Errorf("training step %d: %w", t.state.Step, err)
	}
	loss := (losses[0] + losses[1]) / 2
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, fmt.Errorf("training step %d: the loss is %v", t.state.Step, loss)
	}
	for i, g := range gradients[0] {
		for j := range g {
			g[j] = (g[j] + gradients[1][i][j]) / 2
		}
	}
	t.update(gradients[0])
	return loss, nil
}

// gradients returns the loss of some rows and its gradients.
func (t *Trainer) gradients(part int, tokens, targets [][]int32) (float64, [][]float32, error) {
	random, err := graph.RNGStateFromSeed(int64(t.recipe.Seed<<32) + int64(2*t.state.Step+part))
	if err != nil {
		return 0, nil, fmt.Errorf("seed dropout: %w", err)
	}
	out, err := t.run(t.parts[part].step, t.state.Weights, tokens, targets, random)
	if err != nil {
		return 0, nil, err
	}
	var list [][]float32
	for _, tensor := range out {
		flat, err := tensors.CopyFlatData[float32](tensor)
		if err := errors.Join(err, tensor.FinalizeAll()); err != nil {
			return 0, nil, fmt.Errorf("read gradients: %w", err)
		}
		list = append(list, flat)
	}
	return float64(list[0][0]), list[1:], nil
}

// rate is the learning rate of the next step. Where the cool-down begins does
// not change what comes before it, so how long a run shall be can be decided
// while it runs.
func (t *Trainer) rate() float64 {
	r, step := t.recipe, float64(t.state.Step)
	warm := min(1, (step+1)/float64(r.WarmUp))
	cool := min(1, (float64(r.Steps)-step)/float64(r.CoolDown))
	cosine := 0.5 * (1 + math.Cos(math.Pi*min(1, step/float64(r.Period))))
	return r.Rate * warm * cool * (r.LastRate + (1-r.LastRate)*cosine)
}

func (t *Trainer) update(gradients [][]float32) {
	r, s := t.recipe, &t.state
	var norm float64
	for _, g := range gradients {
		for _, x := range g {
			norm += float64(x) * float64(x)
		}
	}
	clip := float32(math.Min(1, r.Clip/(math.Sqrt(norm)+1e-6)))
	rate := t.rate()
	b1, b2 := float32(r.Beta1), float32(r.Beta2)
	unbias1 := float32(rate / (1 - math.Pow(r.Beta1, float64(s.Step+1))))
	unbias2 := float32(1 / (1 - math.Pow(r.Beta2, float64(s.Step+1))))
	// The average starts as the weights themselves and grows older with the run.
	average := float32(math.Min(r.Average, float64(s.Step)/float64(s.Step+10)))
	i := 0
	for _, shape := range t.config.Tensors() {
		keep := float32(1)
		if len(shape) > 1 {
			keep = float32(1 - rate*r.WeightDecay)
		}
		w, a, m, v := s.Weights[i], s.Average[i], s.Mean[i], s.Square[i]
		for j, g := range gradients[i] {
			g *= clip
			m[j] = b1*m[j] + (1-b1)*g
			v[j] = b2*v[j] + (1-b2)*g*g
			w[j] = w[j]*keep - unbias1*m[j]/(float32(math.Sqrt(float64(v[j]*unbias2)))+1e-8)
			a[j] = average*a[j] + (1-average)*w[j]
		}
		i++
	}
	s.Step++
}

// Loss returns the mean loss in nats per token of weights, in the order of
// gpt2.Config.Tensors, on rows of equal length, without dropout.
func (t *Trainer) Loss(weights [][]float32, tokens, targets [][]int32) (float64, error) {
	out, err := t.run(t.loss, weights, tokens, targets)
	if err != nil {
		return 0, fmt.Errorf("loss: %w", err)
	}
	return float64(tensors.ToScalar[float32](out[0])), out[0].FinalizeAll()
}

func (t *Trainer) run(exec *graph.Exec, weights [][]float32, tokens, targets [][]int32, more ...any) ([]*tensors.Tensor, error) {
	args := append([]any{tokens, targets}, more...)
	for _, shape := range t.config.Tensors() {
		args = append(args, tensors.FromFlatDataAndDimensions(weights[0], shape...))
		weights = weights[1:]
	}
	return exec.Call(args...)
}

// Close frees the backends.
func (t *Trainer) Close() {
	for _, p := range t.parts {
		p.backend.Finalize()
	}
}

// Steps returns the number of steps done.
func (t *Trainer) Steps() int { return t.state.Step }

// Weights returns the averaged weights in the order of gpt2.Config.Tensors. They
// change with the next step.
func (t *Trainer) Weights() [][]float32 { return t.state.Average }

// Save writes all that Load needs to go on as if there had been no break.
func (t *Trainer) Save(w io.Writer) error {
	if err := gob.NewEncoder(w).Encode(&t.state); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// Load goes back to what Save wrote, which must be of a model of the same size.
func (t *Trainer) Load(r io.Reader) error {
	var s state
	if err := gob.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	for _, list := range [][][]float32{s.Weights, s.Average, s.Mean, s.Square} {
		if len(list) != len(t.state.Weights) {
			return fmt.Errorf("read checkpoint: %d tensors where the model has %d", len(list), len(t.state.Weights))
		}
		for i, w := range list {
			if len(w) != len(t.state.Weights[i]) {
				return fmt.Errorf("read checkpoint: tensor %d has %d numbers where the model has %d", i, len(w), len(t.state.Weights[i]))
			}
		}
	}
	t.state = s
	return nil
}
