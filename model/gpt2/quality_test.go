package gpt2

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// A reference is a plain GPT-2 in float64. If it is quantised, both factors of every
// product are rounded to 8 bits in groups of 32 inputs. This is much like the format
// Q8_0 of llama.cpp.
type reference struct {
	Config
	quantised bool
	tensors   map[string][]float64
}

func newReference(t testing.TB, ck *Checkpoint, quantised bool) *reference {
	r := &reference{Config: ck.Config, quantised: quantised, tensors: map[string][]float64{}}
	for name, shape := range ck.Config.Tensors() {
		v, err := ck.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		wide := make([]float64, len(v))
		for i, x := range v {
			wide[i] = float64(x)
		}
		if len(shape) == 2 && name != "wte.weight" && name != "wpe.weight" { // a matrix of shape [inputs, outputs]
			byOutput := make([]float64, len(wide))
			for k := range shape[0] {
				for o := range shape[1] {
					byOutput[o*shape[0]+k] = wide[k*shape[1]+o]
				}
			}
			wide = byOutput
		}
		if quantised && len(shape) == 2 && name != "wpe.weight" {
			inputs := shape[0]
			if name == "wte.weight" {
				inputs = shape[1]
			}
			for o := range len(wide) / inputs {
				roundGroups(wide[o*inputs:][:inputs])
			}
		}
		r.tensors[name] = wide
	}
	return r
}

// roundGroups rounds the numbers of each group of 32 to multiples of 1/127 of the
// largest magnitude in the group.
func roundGroups(x []float64) {
	for group := range slices.Chunk(x, 32) {
		var most float64
		for _, v := range group {
			most = max(most, math.Abs(v))
		}
		if step := most / 127; step > 0 {
			for i, v := range group {
				group[i] = math.RoundToEven(v/step) * step
			}
		}
	}
}

func (r *reference) multiply(name string, x []float64, outputs int) []float64 {
	if r.quantised {
		x = slices.Clone(x)
		roundGroups(x)
	}
	w, bias := r.tensors[name+".weight"], r.tensors[name+".bias"]
	y := make([]float64, outputs)
	for o := range y {
		for k, v := range x {
			y[o] += v * w[o*len(x)+k]
		}
		if bias != nil {
			y[o] += bias[o]
		}
	}
	return y
}

func (r *reference) normalize(name string, x []float64) []float64 {
	var mean, variance float64
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = (v-mean)/math.Sqrt(variance+float64(r.Epsilon))*r.tensors[name+".weight"][i] + r.tensors[name+".bias"][i]
	}
	return y
}

// logits returns the logits after every token.
func (r *reference) logits(ids []int) [][]float64 {
	d, dim := r.Embd, r.HeadDim()
	keys, values := make([][][]float64, r.Layers), make([][][]float64, r.Layers)
	var all [][]float64
	for position, id := range ids {
		x := slices.Clone(r.tensors["wte.weight"][id*d:][:d])
		for i, v := range r.tensors["wpe.weight"][position*d:][:d] {
			x[i] += v
		}
		for l := range r.Layers {
			name := fmt.Sprintf("h.%d.", l)
			qkv := r.multiply(name+"attn.c_attn", r.normalize(name+"ln_1", x), 3*d)
			keys[l], values[l] = append(keys[l], qkv[d:2*d]), append(values[l], qkv[2*d:])
			mixed := make([]float64, d)
			for at := 0; at < d; at += dim {
				weights := make([]float64, position+1)
				var total float64
				for t, key := range keys[l] {
					for i := at; i < at+dim; i++ {
						weights[t] += qkv[i] * key[i] / math.Sqrt(float64(dim))
					}
				}
				most := slices.Max(weights)
				for t := range weights {
					weights[t] = math.Exp(weights[t] - most)
					total += weights[t]
				}
				for t, value := range values[l] {
					for i := at; i < at+dim; i++ {
						mixed[i] += weights[t] / total * value[i]
					}
				}
			}
			for i, v := range r.multiply(name+"attn.c_proj", mixed, d) {
				x[i] += v
			}
			up := r.multiply(name+"mlp.c_fc", r.normalize(name+"ln_2", x), r.Inner)
			for i, v := range up {
				up[i] = v / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
			}
			for i, v := range r.multiply(name+"mlp.c_proj", up, d) {
				x[i] += v
			}
		}
		all = append(all, r.multiply("wte", r.normalize("ln_f", x), r.Vocab))
	}
	return all
}

// divergence returns the Kullback-Leibler divergence, in nats, of the distribution of
// the logits q from the distribution of the logits p. It also reports whether both have
// the same likeliest token.
func divergence(p, q []float64) (kl float64, agree bool) {
	probabilities := func(logits []float64) []float64 {
		most, total := slices.Max(logits), 0.0
		logs := make([]float64, len(logits))
		for _, v := range logits {
			total += math.Exp(v - most)
		}
		for i, v := range logits {
			logs[i] = v - most - math.Log(total)
		}
		return logs
	}
	a, b := probabilities(p), probabilities(q)
	for i := range a {
		kl += math.Exp(a[i]) * (a[i] - b[i])
	}
	return kl, slices.Index(p, slices.Max(p)) == slices.Index(q, slices.Max(q))
}

// TestQuantisedDistributionsAreClose compares the next-token distributions of f16 and
// int8 with those of exact arithmetic. They must be close. The distributions of int8 must
// be about as close as those of the rounded reference, which rounds numbers in groups of
// 32 and computes everything else exactly.
func TestQuantisedDistributionsAreClose(t *testing.T) {
	tiny, err := ReadCheckpoint(tinyFiles("model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer tiny.Close()
	wide := Config{Vocab: 500, Context: 150, Embd: 160, Layers: 2, Heads: 5, Inner: 640, Epsilon: 1e-5, EOS: -1}
	for _, run := range []struct {
		name  string
		ck    *Checkpoint
		texts int
	}{{"tiny", tiny, 12}, {"wide", randomCheckpoint(wide, 3), 1}} {
		t.Run(run.name, func(t *testing.T) {
			exact, rounded := newReference(t, run.ck, false), newReference(t, run.ck, true)
			var engines [3]*Engine
			for i, weights := range everyFormat() {
				e, err := New(run.ck, nil, Options{Weights: weights})
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				engines[i] = e
			}
			var kl [4]float64 // divergences of three engines and of the rounded reference
			var agree [4]int
			positions := 0
			rnd := rand.New(rand.NewPCG(11, 12))
			for range run.texts {
				ids := randomIDs(rnd, run.ck.Config.Context, run.ck.Config.Vocab)
				want, usual := exact.logits(ids), rounded.logits(ids)
				for i := range 4 {
					var singles [][]float32
					if i < 3 {
						singles = alone(t, engines[i], ids)
					}
					for at := range ids {
						got := usual[at]
						if i < 3 {
							got = make([]float64, len(got))
							for j, v := range singles[at] {
								got[j] = float64(v)
							}
						}
						d, same := divergence(want[at], got)
						kl[i] += d
						if same {
							agree[i]++
						}
					}
				}
				positions += len(ids)
			}
			for i, name := range []string{"f32", "f16", "int8", "8-bit reference"} {
				kl[i] /= float64(positions)
				t.Logf("%-20s KL %.3g, the same likeliest token at %.2f%% of %d", name, kl[i], 100*float64(agree[i])/float64(positions), positions)
			}
			if !(kl[0] < 1e-9) || !(kl[1] < 1e-4) || !(kl[2] <= 1.1*kl[3]) {
				t.Errorf("divergences %.3g", kl)
			}
			if agree[0] < positions-1 || agree[1] < positions*99/100 || agree[2] < agree[3]-positions/50 {
				t.Errorf("agreements %d of %d", agree, positions)
			}
		})
	}
}
