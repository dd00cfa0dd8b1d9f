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

// Recipe has the hyper-parameters of a training run.
type Recipe struct {
	Steps       int     // number of steps of the run
	WarmUp      int     // number of steps at the beginning in which the learning rate rises linearly
	CoolDown    int     // number of steps at the end in which the learning rate falls linearly to zero
	Period      int     // number of steps in which the learning rate falls along a cosine to LastRate
	Rate        float64 // highest learning rate
	LastRate    float64 // learning rate at the end of the cosine, as a fraction of Rate
	Beta1       float64 // AdamW: decay of the mean gradient
	Beta2       float64 // AdamW: decay of the mean squared gradient
	WeightDecay float64 // AdamW: weight decay, only on matrices and embeddings
	Clip        float64 // largest norm of the gradient; a larger gradient is scaled down
	Dropout     float64 // dropout probability on embeddings and on the output of each half of a block
	Average     float64 // decay of the moving average of the weights, per step
	Seed        uint64  // seed of the initial weights and of dropout
}

// A Trainer trains a GPT-2 from scratch. Only one goroutine at a time may use it.
type Trainer struct {
	config   gpt2.Config
	recipe   Recipe
	state    state
	replicas [2]replica
	loss     *graph.Exec
}

// A state is what a checkpoint file stores of a training run.
type state struct {
	Step    int         // number of steps done
	Weights [][]float32 // weights in the order of gpt2.Config.Tensors
	Average [][]float32 // moving average of Weights
	Mean    [][]float32 // AdamW's mean gradient
	Square  [][]float32 // AdamW's mean squared gradient
}

// A replica computes the gradients of one half of a batch. GoMLX runs most operations
// on one core, so two halves in parallel are faster than the whole. Each replica has
// its own backend. In version 0.1.2 of the module compute, two matrix products deadlock
// if they run out of the workers of one backend.
type replica struct {
	backend compute.Backend
	step    *graph.Exec
}

// NewTrainer returns a trainer with the initial weights of GPT-2. The weights are
// normal with standard deviation 0.02, or 0.01 for positions. The weights of layers
// that add to the residual stream are divided by sqrt(2*layers). Close frees the
// backends.
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
	for i := range t.replicas {
		backend, err := gobackend.New("ops_sequential")
		if err != nil {
			return nil, fmt.Errorf("open GoMLX's Go backend: %w", err)
		}
		t.replicas[i].backend = backend
		if t.replicas[i].step, err = graph.NewExec(backend, t.stepGraph); err != nil {
			return nil, fmt.Errorf("build the training step: %w", err)
		}
	}
	var err error
	if t.loss, err = graph.NewExec(t.replicas[0].backend, t.lossGraph); err != nil {
		return nil, fmt.Errorf("build the loss: %w", err)
	}
	return t, nil
}

// elements returns the number of elements of a shape.
func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// initial returns the mean and the standard deviation of the initial weights of a
// tensor.
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

// stepGraph builds the computation of the loss and its gradients. Its inputs are
// tokens, targets, a random state and the weights.
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

// lossGraph builds the computation of the loss. Its inputs are tokens, targets and the
// weights.
func (t *Trainer) lossGraph(in []*graph.Node) []*graph.Node {
	loss, _ := newNetwork(t.config, in[2:]).crossEntropy(in[0], in[1])
	return []*graph.Node{loss}
}

// crossEntropy returns the mean loss in nats, and the node seed. The gradient of seed
// equals the gradient of the loss, but the value of seed is not the loss. The gradient
// has the closed form softmax minus target, which saves two thirds of the passes over
// the logits.
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

// Step makes one step of AdamW (Loshchilov and Hutter, 2019). It returns the loss
// before the step, in nats per token. tokens has an even number of rows of equal
// length. targets has the token that follows each token.
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

// gradients computes the loss of some rows and the gradients of this loss on one of the
// replicas.
func (t *Trainer) gradients(replica int, tokens, targets [][]int32) (float64, [][]float32, error) {
	random, err := graph.RNGStateFromSeed(int64(t.recipe.Seed<<32) + int64(2*t.state.Step+replica))
	if err != nil {
		return 0, nil, fmt.Errorf("seed dropout: %w", err)
	}
	out, err := t.run(t.replicas[replica].step, t.state.Weights, tokens, targets, random)
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

// rate returns the learning rate of the next step. Before the cool-down, the rate does
// not depend on Steps. So the length of a run can be decided while the run is in
// progress.
func (t *Trainer) rate() float64 {
	r, step := t.recipe, float64(t.state.Step)
	warm := min(1, (step+1)/float64(r.WarmUp))
	cool := min(1, (float64(r.Steps)-step)/float64(r.CoolDown))
	cosine := 0.5 * (1 + math.Cos(math.Pi*min(1, step/float64(r.Period))))
	return r.Rate * warm * cool * (r.LastRate + (1-r.LastRate)*cosine)
}

// update applies AdamW to the weights and updates the moving average of the weights.
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
	// The decay of the average rises from 0, so early weights are soon forgotten.
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

// Loss returns the mean loss in nats per token on rows of equal length, without
// dropout, for weights in the order of gpt2.Config.Tensors.
func (t *Trainer) Loss(weights [][]float32, tokens, targets [][]int32) (float64, error) {
	out, err := t.run(t.loss, weights, tokens, targets)
	if err != nil {
		return 0, fmt.Errorf("loss: %w", err)
	}
	return float64(tensors.ToScalar[float32](out[0])), out[0].FinalizeAll()
}

// run calls a graph. Its arguments are tokens, targets, the values in more, and the
// weights, in this order.
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
	for _, p := range t.replicas {
		p.backend.Finalize()
	}
}

// Steps returns the number of steps done.
func (t *Trainer) Steps() int { return t.state.Step }

// Weights returns the averaged weights in the order of gpt2.Config.Tensors. The
// next step changes them.
func (t *Trainer) Weights() [][]float32 { return t.state.Average }

// Save writes a checkpoint, from which Load continues the run.
func (t *Trainer) Save(w io.Writer) error {
	if err := gob.NewEncoder(w).Encode(&t.state); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// Load restores a checkpoint that Save wrote for a model of the same shape.
// After an error, the trainer is unchanged.
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
