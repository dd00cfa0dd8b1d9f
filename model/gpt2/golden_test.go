package gpt2

import (
	"io/fs"
	"os"
	"testing"

	"colophon/model/kernel"
	"colophon/model/modeltest"
)

// Hugging Face's GPT2LMHeadModel computed the golden vectors in testdata, in
// float32 and with seeded random weights.

var tiny = os.DirFS("testdata/tiny")

// tinyFiles returns testdata/tiny with one of its files as model.safetensors.
func tinyFiles(weights string) fs.FS {
	return renamed{tiny, "model.safetensors", weights}
}

// renamed is a file system that shows the file called file under another name.
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

const tolerance = 1e-4 // largest difference of logits between float32 implementations

func TestLogitsAndGreedyTextsMatchTheGoldenVectors(t *testing.T) {
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
			modeltest.TestGolden(t, e, modeltest.Cases(t, tiny), run.tolerance, run.weights != kernel.Int8)
		})
	}
}

func TestHiddenStatesMatchTheGoldenVectors(t *testing.T) {
	want := modeltest.Floats(t, tiny, "hidden_case1.f32")
	ck, err := ReadCheckpoint(tinyFiles("model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	n, err := load(ck, kernel.F32, 1)
	if err != nil {
		t.Fatal(err)
	}
	ids := modeltest.Cases(t, tiny)[1].IDs
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
		if d := modeltest.MaxDifference(t, f.x[:size], want[f.layer*size:][:size]); !(d <= tolerance) {
			t.Errorf("before block %d: differs by %g", f.layer, d)
		}
		f.block()
	}
	f.output()
	if d := modeltest.MaxDifference(t, f.h.Floats[:size], want[n.Layers*size:]); !(d <= tolerance) {
		t.Errorf("after the final norm: differs by %g", d)
	}
}
