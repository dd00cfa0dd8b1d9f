package gomlx

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"colophon/model/gpt2"
)

var small = gpt2.Config{Vocab: 24, Context: 8, Embd: 16, Layers: 2, Heads: 2, Inner: 32, Epsilon: 1e-5, EOS: -1}

var quick = Recipe{
	Steps: 100, WarmUp: 5, CoolDown: 20, Period: 100, Rate: 1e-2, LastRate: 0.1, Beta1: 0.9, Beta2: 0.99,
	WeightDecay: 0.1, Clip: 1, Average: 0.9, Seed: 7,
}

func trainer(t *testing.T, config gpt2.Config, recipe Recipe) *Trainer {
	t.Helper()
	tr, err := NewTrainer(config, recipe)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr
}

// rows returns a batch in which each token is the previous token plus one.
func rows(config gpt2.Config, step int) (tokens, targets [][]int32) {
	rng := rand.New(rand.NewPCG(3, uint64(step)))
	for range 4 {
		start := rng.IntN(config.Vocab)
		var row []int32
		for i := range config.Context + 1 {
			row = append(row, int32((start+i)%config.Vocab))
		}
		tokens, targets = append(tokens, row[:config.Context]), append(targets, row[1:])
	}
	return tokens, targets
}

func TestTrainerLearnsToCount(t *testing.T) {
	recipe := quick
	recipe.Dropout = 0.05
	tr := trainer(t, small, recipe)
	tokens, targets := rows(small, 1<<20)
	before, err := tr.Loss(tr.Weights(), tokens, targets)
	if err != nil {
		t.Fatal(err)
	}
	if chance := math.Log(float64(small.Vocab)); math.Abs(before-chance) > 0.1 {
		t.Errorf("fresh weights have loss %.3f, chance is %.3f", before, chance)
	}
	for tr.Steps() < recipe.Steps {
		tokens, targets := rows(small, tr.Steps())
		if _, err := tr.Step(tokens, targets); err != nil {
			t.Fatal(err)
		}
	}
	after, err := tr.Loss(tr.Weights(), tokens, targets)
	if err != nil {
		t.Fatal(err)
	}
	if !(after < 0.5) {
		t.Errorf("loss is %.3f after %d steps, was %.3f", after, recipe.Steps, before)
	}
}

func TestRateWarmsUpAndCoolsDown(t *testing.T) {
	tr := &Trainer{recipe: Recipe{Steps: 80, WarmUp: 10, CoolDown: 20, Period: 100, Rate: 2, LastRate: 0.1}}
	for step, want := range map[int]float64{
		0:  0.2,                                 // the first step of the warm-up, a tenth of the rate
		50: 2 * 0.55,                            // halfway along the cosine
		60: 2 * (0.1 + 0.9*0.5*(1-0.309016994)), // the last step before the cool-down
		70: (0.1 + 0.9*0.5*(1-0.587785252)),     // halfway through the cool-down
		80: 0,
	} {
		tr.state.Step = step
		if got := tr.rate(); math.Abs(got-want) > 1e-3*want {
			t.Errorf("step %d: rate %g, want %g", step, got, want)
		}
	}
}

// All gradients must equal the slope of the loss, because some of them are defined by
// hand.
func TestGradientsAreThoseOfTheLoss(t *testing.T) {
	tr := trainer(t, small, quick)
	// Make the weights so large that every part of the network matters.
	rng := rand.New(rand.NewPCG(1, 1))
	for _, w := range tr.state.Weights {
		for i := range w {
			w[i] += 0.2 * float32(rng.NormFloat64())
		}
	}
	tokens, targets := rows(small, 0)
	_, gradients, err := tr.gradients(0, tokens, targets)
	if err != nil {
		t.Fatal(err)
	}
	loss := func() float64 {
		l, err := tr.Loss(tr.state.Weights, tokens, targets)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	i := 0
	for name := range small.Tensors() {
		// A step along the gradient of one tensor changes the loss by the
		// gradient's squared length times the step.
		w, g := tr.state.Weights[i], gradients[i]
		i++
		var square float64
		for _, x := range g {
			square += float64(x) * float64(x)
		}
		if square == 0 {
			t.Errorf("%s has no gradient", name)
			continue
		}
		h := 3e-3 / math.Sqrt(square)
		move := func(by float64) float64 {
			old := slices.Clone(w)
			for j := range w {
				w[j] += float32(by * float64(g[j]))
			}
			l := loss()
			copy(w, old)
			return l
		}
		got := (move(h) - move(-h)) / (2 * h)
		if !(math.Abs(got-square) <= 0.03*square) {
			t.Errorf("%s: the loss rises by %g along the gradient, want %g", name, got, square)
		}
	}
}

func TestAResumedRunHasTheSameLosses(t *testing.T) {
	recipe := quick
	recipe.Dropout = 0.2
	run := func(tr *Trainer, steps int) (losses []float64) {
		for range steps {
			tokens, targets := rows(small, tr.Steps())
			loss, err := tr.Step(tokens, targets)
			if err != nil {
				t.Fatal(err)
			}
			losses = append(losses, loss)
		}
		return losses
	}
	first := trainer(t, small, recipe)
	run(first, 4)
	var saved bytes.Buffer
	if err := first.Save(&saved); err != nil {
		t.Fatal(err)
	}
	want := run(first, 4)
	second := trainer(t, small, recipe)
	if err := second.Load(&saved); err != nil {
		t.Fatal(err)
	}
	if second.Steps() != 4 {
		t.Fatalf("resumed at step %d, want 4", second.Steps())
	}
	for i, loss := range run(second, 4) {
		if math.Abs(loss-want[i]) > 1e-5 {
			t.Errorf("step %d after the break: loss %.7f, want %.7f", i, loss, want[i])
		}
	}
}

func TestLoadRefusesOtherCheckpoints(t *testing.T) {
	var saved bytes.Buffer
	if err := trainer(t, small, quick).Save(&saved); err != nil {
		t.Fatal(err)
	}
	wider := small
	wider.Embd, wider.Inner = 32, 64
	deeper := small
	deeper.Layers = 3
	for name, c := range map[string]struct {
		config gpt2.Config
		file   string
	}{
		"other width": {wider, saved.String()},
		"other depth": {deeper, saved.String()},
		"truncated":   {small, saved.String()[:saved.Len()/2]},
		"empty":       {small, ""},
	} {
		err := trainer(t, c.config, quick).Load(strings.NewReader(c.file))
		if err == nil || !strings.HasPrefix(err.Error(), "read checkpoint: ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
