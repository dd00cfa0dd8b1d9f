package gpt2

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"colophon/model/kernel"
)

// packedEngines returns an engine that has packed a random network, and the path of the file
// that it has written.
func packedEngines(t testing.TB, c Config, weights kernel.Format) (*Engine, string) {
	t.Helper()
	e := randomEngine(t, c, Options{Weights: weights})
	path := filepath.Join(t.TempDir(), "models[", "small."+weights.String())
	if err := e.WritePacked(path); err != nil {
		t.Fatal(err)
	}
	return e, path
}

// TestPackedWeightsAreTheSame reads the packed weights of networks with and without an output
// layer of their own. The engine must have the same Info and the same memory.
func TestPackedWeightsAreTheSame(t *testing.T) {
	t.Parallel()
	untied := smallShape()
	untied.Untied = true
	for _, c := range []Config{smallShape(), untied} {
		for _, weights := range everyFormat() {
			e, path := packedEngines(t, c, weights)
			ck := randomCheckpoint(c, 2) // its weights must not be read
			again, err := NewPacked(ck, nil, Options{Weights: weights}, path, e.Info().Digest())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(again.Close)
			if !reflect.DeepEqual(again.Info(), e.Info()) {
				t.Errorf("%s: %+v, want %+v", weights, again.Info(), e.Info())
			}
			if !reflect.DeepEqual(again.network.chunks(), e.network.chunks()) {
				t.Errorf("%s: other weights", weights)
			}
			other := randomEngine(t, c, Options{Weights: weights})
			if got, want := run(t, again, "", []int{1, 2, 3}), run(t, other, "", []int{1, 2, 3}); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: other logits", weights)
			}
		}
	}
}

// TestUnfitPackedWeightsAreRefused changes files of packed weights, and asks for other
// weights than they have.
func TestUnfitPackedWeightsAreRefused(t *testing.T) {
	t.Parallel()
	c := smallShape()
	e, path := packedEngines(t, c, kernel.Int8)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	digest := e.Info().Digest()
	line := bytes.IndexByte(whole, '\n') + 1
	flip := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 1
		return b
	}
	larger := c
	larger.Inner += 32
	for what, k := range map[string]struct {
		file   []byte
		config Config
		format kernel.Format
		digest string
	}{
		"a byte of the first line":     {flip(3), c, kernel.Int8, digest},
		"a byte of the digest":         {flip(line - 2), c, kernel.Int8, digest},
		"no end of the first line":     {bytes.ReplaceAll(whole, []byte("\n"), []byte(" ")), c, kernel.Int8, digest},
		"a byte of the digests":        {flip(line), c, kernel.Int8, digest},
		"the first byte of a chunk":    {flip(line + 32*len(e.network.chunks())), c, kernel.Int8, digest},
		"the last byte":                {flip(len(whole) - 1), c, kernel.Int8, digest},
		"one byte less":                {whole[:len(whole)-1], c, kernel.Int8, digest},
		"only the first line":          {whole[:line], c, kernel.Int8, digest},
		"an empty file":                {nil, c, kernel.Int8, digest},
		"another format":               {whole, c, kernel.F16, digest},
		"other weights":                {whole, c, kernel.Int8, "sha256:" + strings.Repeat("0", 64)},
		"another shape":                {whole, larger, kernel.Int8, digest},
		"only the beginning of it all": {whole[:10], c, kernel.Int8, digest},
	} {
		damaged := filepath.Join(t.TempDir(), "packed")
		if err := os.WriteFile(damaged, k.file, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := NewPacked(randomCheckpoint(k.config, 1), nil, Options{Weights: k.format}, damaged, k.digest)
		if err == nil {
			e.Close()
			t.Errorf("%s: accepted", what)
		} else if errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), damaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := NewPacked(randomCheckpoint(c, 1), nil, Options{}, path+"-absent", digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
	if _, err := NewPacked(randomCheckpoint(c, 1), nil, Options{Threads: -1}, path, digest); err == nil {
		t.Error("-1 threads: accepted")
	}
}

// TestPackedWeightsAreReplacedAtOnce writes a file by several writers while readers load it.
// Every reader must get whole weights. Of the files that writers left, only those of the last
// hour may remain.
func TestPackedWeightsAreReplacedAtOnce(t *testing.T) {
	t.Parallel()
	e, path := packedEngines(t, smallShape(), kernel.F16)
	left := path + ".1" + unfinished
	fresh := path + ".2" + unfinished
	for _, name := range []string{left, fresh} {
		if err := os.WriteFile(name, []byte("unfinished"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(left, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				if err := e.WritePacked(path); err != nil {
					t.Error(err)
				}
				again, err := NewPacked(randomCheckpoint(smallShape(), 1), nil, Options{}, path, e.Info().Digest())
				if err != nil {
					t.Error(err)
					continue
				}
				again.Close()
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(filepath.Dir(path))
	var names []string
	for _, entry := range entries {
		names = append(names, filepath.Join(filepath.Dir(path), entry.Name()))
	}
	if want := []string{path, fresh}; err != nil || !reflect.DeepEqual(names, want) {
		t.Errorf("files %q, %v, want %q", names, err, want)
	}
	blocked := filepath.Join(path, "in-a-file") // as with a directory that may not be written
	if err := e.WritePacked(blocked); err == nil {
		t.Error("a file below a file was written")
	}
}

// FuzzPackedWeights reads any bytes as packed weights. They must be refused, or be the
// weights that were written.
func FuzzPackedWeights(f *testing.F) {
	e, path := packedEngines(f, smallShape(), kernel.Int8)
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(packedLine(e.info.Weights, nil)))
	want := e.network.chunks()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "packed")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n := newNetwork(smallShape(), kernel.Int8)
		if err := n.read(path, e.info.Weights, 1); err == nil && !reflect.DeepEqual(n.chunks(), want) {
			t.Error("other weights were accepted")
		}
	})
}
