// Package catalog finds models by the names that people give them, and loads them.
//
// A name is that of the built-in model, of a published one, or a directory in the
// Hugging Face layout of GPT-2. A name that is known means that model in every working
// directory: a directory of the same name is meant by ./name.
package catalog

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"colophon/model"
	"colophon/model/gomlx"
	"colophon/model/gpt2"
	"colophon/model/gpt2/hub"
	"colophon/model/kernel"
	"colophon/model/opticks"
)

// BuiltIn is the name of the model inside the program.
const BuiltIn = "opticks"

// Files are the names of the files that a model consists of.
func Files() []string {
	return []string{"config.json", "vocab.json", "merges.txt", "model.safetensors"}
}

// Releases are the published models that are known by name.
type Releases []hub.Release

// Named returns the release of a name.
func (r Releases) Named(name string) (hub.Release, bool) {
	for _, one := range r {
		if one.Name == name {
			return one, true
		}
	}
	return hub.Release{}, false
}

// Names lists the names of all releases, after those given.
func (r Releases) Names(more ...string) string {
	for _, one := range r {
		more = append(more, one.Name)
	}
	return strings.Join(more, ", ")
}

// Model is a model whose files have been found.
type Model struct {
	Name   string // what people call it
	From   string // the name under which it was found
	Files  fs.FS
	Digest string // that the weights must have, such as sha256:248d…; empty allows any
}

// NotFoundError occurs when a name means no model.
type NotFoundError struct {
	Name  string
	Known string // the names that are known
}

// Error says what a name can be.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%q is neither %s nor a directory with config.json, model.safetensors, vocab.json and merges.txt", e.Name, e.Known)
}

// Library is a directory of published models, and where to pull them from.
type Library struct {
	Releases Releases
	Dir      string // of the models that have been pulled
	Hub      hub.Options
}

// Find returns the model of a name. It pulls a published model first if that is not
// there or damaged. Only the digest of its weights is left for [Model.Load] to compare.
// An unknown name is a [NotFoundError].
func (l Library) Find(ctx context.Context, name string) (Model, error) {
	r, ok := l.Releases.Named(name)
	if !ok {
		return find(name, l.Releases.Names(BuiltIn))
	}
	if info, err := os.Stat(r.Name); err == nil && info.IsDir() && l.Hub.Note != nil {
		l.Hub.Note(fmt.Sprintf("%s is the published model, not the directory here: that is ./%[1]s", r.Name))
	}
	if err := hub.Ensure(ctx, l.Dir, r, l.Hub); err != nil {
		return Model{}, err
	}
	return Model{Name: r.Name, From: r.Name, Files: os.DirFS(r.Dir(l.Dir)), Digest: r.Weights()}, nil
}

// Find returns the built-in model or that of a directory. An unknown name is a
// [NotFoundError].
func Find(name string) (Model, error) { return find(name, BuiltIn) }

func find(name, known string) (Model, error) {
	if name == BuiltIn {
		return Model{Name: BuiltIn, From: BuiltIn, Files: opticks.Files()}, nil
	}
	dir, err := filepath.Abs(name)
	if err != nil {
		return Model{}, err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return Model{}, &NotFoundError{name, known}
	}
	return Model{Name: filepath.Base(dir), From: name, Files: os.DirFS(dir)}, nil
}

// Engine is a [model.Engine] for its owner to close.
type Engine interface {
	model.Engine
	Close()
}

// LoadOptions say what runs a model.
type LoadOptions struct {
	GoMLX   bool          // run it on the reference instead of the native engine
	Weights kernel.Format // how the native engine keeps the weights
}

// Load reads the tokenizer and the weights.
func (m Model) Load(o LoadOptions) (Engine, error) {
	tokenizer, err := gpt2.ReadTokenizer(m.Files)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", m.From, err)
	}
	return m.load(o, tokenizer)
}

// LoadWeights reads the weights only: the engine knows token ids and no text.
func (m Model) LoadWeights(o LoadOptions) (Engine, error) { return m.load(o, nil) }

func (m Model) load(o LoadOptions, tokenizer *gpt2.Tokenizer) (e Engine, err error) {
	checkpoint, err := gpt2.ReadCheckpoint(m.Files)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", m.From, err)
	}
	defer checkpoint.Close()
	if o.GoMLX {
		e, err = gomlx.New(m.Name, checkpoint, tokenizer)
	} else {
		e, err = gpt2.New(checkpoint, tokenizer, gpt2.Options{Name: m.Name, Weights: o.Weights})
	}
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", m.From, err)
	}
	if digest, _, _ := strings.Cut(e.Info().Weights, "/"); m.Digest != "" && digest != m.Digest {
		e.Close()
		return nil, fmt.Errorf("load model %s: the weights have the digest %s and not %s (of a published model, colophon model pull %s replaces them)", m.From, digest, m.Digest, m.Name)
	}
	return e, nil
}

// Tokenizer reads the tokenizer and the context size, which need no weights.
func (m Model) Tokenizer() (t *gpt2.Tokenizer, context int, err error) {
	config, err := gpt2.ReadConfig(m.Files)
	if err != nil {
		return nil, 0, fmt.Errorf("read model %s: %w", m.From, err)
	}
	if t, err = gpt2.ReadTokenizer(m.Files); err != nil {
		return nil, 0, fmt.Errorf("read model %s: %w", m.From, err)
	}
	return t, config.Context, nil
}
