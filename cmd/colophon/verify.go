package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

	"colophon/model/gpt2"
	"colophon/model/gpt2/hub"
)

// modelFiles are what a model consists of.
var modelFiles = [...]string{"config.json", "vocab.json", "merges.txt", "model.safetensors"}

type verifyCmd struct {
	Model string `arg:"" help:"Name of a model, or a directory, as with --model."`
	dataFlags
	modelsFlags
}

// Run compares a published model with what was published. Of another one it
// prints the digests, and finds out whether it can be loaded.
func (c *verifyCmd) Run(ctx context.Context, t *terminal, known catalog) error {
	if r, ok := known.named(c.Model); ok {
		return verifyRelease(ctx, t.out, r, c.dir(c.Data))
	}
	found, err := (&modelFlags{Model: c.Model}).find(ctx, &library{known: known})
	if err != nil {
		return err
	}
	var wrong []error
	for _, name := range modelFiles {
		size, digest, err := digestOf(found.files, name)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		fmt.Fprintf(t.out, "%-17s  sha256:%s  %d bytes\n", name, digest, size)
	}
	if wrong == nil {
		config, errs := readAll(ctx, found.files)
		if wrong = errs; wrong == nil {
			_, err := fmt.Fprintf(t.out, "%s can be loaded: %d layers of %d heads, %d wide, %d token ids, context %d\n",
				found.name, config.Layers, config.Heads, config.Embd, config.Vocab, config.Context)
			return err
		}
	}
	return fmt.Errorf("%s cannot be loaded: %w", c.Model, errors.Join(wrong...))
}

// verifyRelease prints a line for each file of a release.
func verifyRelease(ctx context.Context, out io.Writer, r hub.Release, models string) error {
	dir := r.Dir(models)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not in %s: colophon model pull %[1]s fetches it", r.Name, dir)
	}
	var wrong []error
	for _, f := range r.Files {
		digest, err := r.Check(ctx, os.DirFS(dir), f)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		fmt.Fprintf(out, "%-17s  sha256:%s  as published\n", f.Name, digest)
	}
	if wrong != nil {
		return fmt.Errorf("%s in %s is not as it was published (colophon model pull %[1]s replaces what is wrong): %[3]w", r.Name, dir, errors.Join(wrong...))
	}
	_, err := fmt.Fprintf(out, "%s in %s is %s at revision %s\n", r.Name, dir, r.Repo, r.Revision)
	return err
}

// digestOf reads a file.
func digestOf(files fs.FS, name string) (size int64, digest string, err error) {
	f, err := files.Open(name)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
		return 0, "", fmt.Errorf("read %s: %w", name, err)
	}
	return size, fmt.Sprintf("%x", h.Sum(nil)), nil
}

// readAll reads a model as an engine does, and every weight. It returns all
// that is wrong.
func readAll(ctx context.Context, files fs.FS) (config gpt2.Config, wrong []error) {
	tokenizer, err := gpt2.ReadTokenizer(files)
	if err != nil {
		wrong = append(wrong, err)
	}
	checkpoint, err := gpt2.ReadCheckpoint(files)
	if err != nil {
		return config, append(wrong, err)
	}
	defer checkpoint.Close()
	config = checkpoint.Config
	if tokenizer != nil && tokenizer.Size() > config.Vocab {
		wrong = append(wrong, fmt.Errorf("vocab.json has %d tokens, config.json only %d", tokenizer.Size(), config.Vocab))
	}
	for name := range config.Tensors() {
		if err := ctx.Err(); err != nil {
			return config, append(wrong, err)
		}
		values, err := checkpoint.Tensor(name)
		if err != nil {
			return config, append(wrong, fmt.Errorf("read model.safetensors: %w", err))
		}
		for i, v := range values {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				wrong = append(wrong, fmt.Errorf("model.safetensors: value %d of tensor %q is %v", i, name, v))
				break
			}
		}
	}
	return config, wrong
}
