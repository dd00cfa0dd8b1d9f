package gpt2

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"slices"
	"testing"

	"colophon/model"
	"colophon/model/kernel"
)

// The vectors in testdata were computed by Hugging Face's GPT2LMHeadModel in
// float32 on seeded random weights.

// tinyFiles returns testdata/tiny with model.safetensors replaced by a file.
func tinyFiles(weights string) fs.FS {
	return renamed{os.DirFS("testdata/tiny"), "model.safetensors", weights}
}

// renamed is a file system with one name changed.
type renamed struct {
	fs.FS
	name, file string
}

func (r renamed) Open(name string) (fs.File, error) {
	if name == r.name {
		name = r.file
	}
	return r.FS.Open(name)
}

func openEngine(t testing.TB, fsys fs.FS, tok *Tokenizer, opts Options) *Engine {
	t.Helper()
	ck, err := ReadCheckpoint(fsys)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	e, err := New(ck, tok, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func openSequence(t testing.TB, e *Engine) model.Sequence {
	t.Helper()
	s, err := e.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func readFloats(t *testing.T, name string) []float32 {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f := make([]float32, len(b)/4)
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return f
}

type goldenCase struct {
	Name   string
	IDs    []int `json:"input_ids"`
	Offset int   `json:"logits_offset_bytes"`
	Shape  []int `json:"logits_shape"`
	Greedy []int
}

func goldenCases(t *testing.T) []goldenCase {
	t.Helper()
	b, err := os.ReadFile("testdata/tiny/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct{ Cases []goldenCase }
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Cases) < 5 {
		t.Fatalf("%d cases", len(golden.Cases))
	}
	return golden.Cases
}

const tolerance = 1e-4 // of float32

// furthest returns the largest difference between two vectors.
func furthest(t *testing.T, got, want []float32) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	var most float64
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if !(d <= most) {
			most = d
		}
	}
	return most
}

func TestGoldenLogitsAndGreedy(t *testing.T) {
	logits := readFloats(t, "testdata/tiny/logits.f32")
	for _, run := range []struct {
		file      string
		weights   kernel.Format
		tolerance float64
	}{
		{"model.safetensors", kernel.F32, tolerance},
		{"model.hub-style.safetensors", kernel.F32, tolerance},
		{"model.safetensors", kernel.F16, 0.01},
		{"model.safetensors", kernel.Int8, 0.3},
	} {
		t.Run(run.file+"/"+run.weights.String(), func(t *testing.T) {
			e := openEngine(t, tinyFiles(run.file), nil, Options{Threads: 2, Weights: run.weights})
			var most float64
			for _, c := range goldenCases(t) {
				vocab := c.Shape[1]
				want := logits[c.Offset/4:][:c.Shape[0]*vocab]
				single := openSequence(t, e)
				for i, id := range c.IDs {
					got, err := single.Next(t.Context(), id)
					if err != nil {
						t.Fatal(err)
					}
					d := furthest(t, got, want[i*vocab:][:vocab])
					most = max(most, d)
					if !(d <= run.tolerance) {
						t.Errorf("%s: logits after %d tokens differ by %g", c.Name, i+1, d)
					}
				}
				single.Close()

				greedy := openSequence(t, e)
				next, text := c.IDs, []int{}
				for range c.Greedy {
					got, err := greedy.Next(t.Context(), next...)
					if err != nil {
						t.Fatal(err)
					}
					best := slices.Index(got, slices.Max(got))
					text = append(text, best)
					next = []int{best}
				}
				greedy.Close()
				if run.weights != kernel.Int8 && !slices.Equal(text, c.Greedy) {
					t.Errorf("%s: continued by %v, want %v", c.Name, text, c.Greedy)
				}
			}
			t.Logf("largest difference of a logit: %.2g", most)
		})
	}
}

func TestGoldenHiddenStates(t *testing.T) {
	want := readFloats(t, "testdata/tiny/hidden_case1.f32")
	ck, err := ReadCheckpoint(tinyFiles("model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	n, err := load(ck, kernel.F32, 1)
	if err != nil {
		t.Fatal(err)
	}
	ids := goldenCases(t)[1].IDs
	pool := kernel.NewPool(1)
	defer pool.Close()
	f := newForward(n, pool, len(ids), len(ids))
	c := &cache{pages: []*kernel.Panels{f.layout.newPage()}}
	for i, id := range ids {
		f.rows = append(f.rows, row{cache: c, position: i, token: id, logits: make([]float32, n.Vocab)})
	}
	size := len(ids) * n.Embd
	if len(want) != (n.Layers+1)*size {
		t.Fatalf("%d values", len(want))
	}
	f.start()
	for f.layer = range f.blocks {
		if d := furthest(t, f.x[:size], want[f.layer*size:][:size]); !(d <= tolerance) {
			t.Errorf("before block %d: differs by %g", f.layer, d)
		}
		f.block()
	}
	f.output()
	if d := furthest(t, f.h.Floats[:size], want[n.Layers*size:]); !(d <= tolerance) {
		t.Errorf("after the final norm: differs by %g", d)
	}
}
