// Package catalog finds models by name and loads them.
//
// A name is the name of the embedded model, of a published model or of a repository that
// has been pulled, or the path of a directory in the Hugging Face layout of GPT-2. The
// name of a model takes precedence over a directory. Write ./name for a directory that has
// the name of a model.
package catalog

import (
	"context"
	"errors"
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

// BuiltIn is the name of the embedded model.
const BuiltIn = opticks.Name

// Files returns the names of the files of a model that are read. If files are missing,
// their usual names are among them.
func Files(files fs.FS) []string {
	has := func(name string) bool {
		_, err := fs.Stat(files, name)
		return err == nil
	}
	names := []string{"config.json"}
	if has("generation_config.json") {
		names = append(names, "generation_config.json")
	}
	names = append(names, gpt2.TokenizerFiles(files)...)
	if !has("model.safetensors") && has("model.safetensors.index.json") {
		names = append(names, "model.safetensors.index.json")
	}
	weights, err := gpt2.WeightsFiles(files)
	if errors.Is(err, fs.ErrNotExist) {
		weights = []string{"model.safetensors"}
	}
	return append(names, weights...)
}

// Releases are the published models that users can name.
type Releases []hub.Release

// Named returns the release with the given name. It returns false if there is no such
// release.
func (r Releases) Named(name string) (hub.Release, bool) {
	for _, release := range r {
		if release.Name == name {
			return release, true
		}
	}
	return hub.Release{}, false
}

// Pinned reports whether the digests of the model with a name are known before it is
// pulled.
func (r Releases) Pinned(name string) bool {
	release, ok := r.Named(name)
	return ok && release.Pinned()
}

// Names returns the names in more and the names of all releases, separated by commas.
func (r Releases) Names(more ...string) string {
	for _, release := range r {
		more = append(more, release.Name)
	}
	return strings.Join(more, ", ")
}

// Model is a model whose files have been found, but not loaded.
type Model struct {
	Name   string // name of the model
	From   string // name or path that was passed to Find
	Files  fs.FS
	Digest string // required digest of the weights, such as sha256:248d…; "" allows any digest

	packed string            // path of the files of packed weights, without the format; "" if none are kept
	note   func(text string) // receives messages for the user, if set
}

// packedDir is the directory of packed weights, inside a directory of models. They are kept
// for pulled models, whose digest is known before the weights are read.
const packedDir = ".packed"

// NotFoundError means that a name is not the name of a model.
type NotFoundError struct {
	Name  string
	Known string // all known names, separated by commas
}

// Error returns a message that lists the known models.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("unknown model %q: want %s, a directory with the files of a GPT-2, or a repository that colophon model pull ORG/NAME has pulled", e.Name, e.Known)
}

// Library is a directory of pulled models, and the hub from which models are pulled.
type Library struct {
	Releases Releases
	Dir      string // directory of the pulled models
	Hub      hub.Options
}

// Find returns the model with a name. It pulls a published model that is absent or
// damaged, and a repository whose pulled files are damaged. Find does not check the digest
// of the weights, but [Model.Load] does. The error for an unknown name is a
// [NotFoundError].
func (l Library) Find(ctx context.Context, name string) (Model, error) {
	r, ok := l.Releases.Named(name)
	if !ok {
		r, ok = l.recorded(name)
	}
	if !ok {
		return find(name, l.Releases.Names(BuiltIn))
	}
	if info, err := os.Stat(r.Name); err == nil && info.IsDir() && l.Hub.Note != nil {
		l.Hub.Note(fmt.Sprintf("%s is the published model; use ./%[1]s for the directory", r.Name))
	}
	r, err := hub.Ensure(ctx, l.Dir, r, l.Hub)
	if err != nil {
		return Model{}, err
	}
	dir := r.Dir(l.Dir)
	return Model{
		Name: r.Name, From: r.Name, Files: os.DirFS(dir), Digest: r.Weights(),
		packed: filepath.Join(l.Dir, packedDir, filepath.Base(dir)), note: l.Hub.Note,
	}, nil
}

// recorded returns the release of a repository that has been pulled.
func (l Library) recorded(name string) (hub.Release, bool) {
	r, ok := hub.Repository(name)
	if !ok || l.Dir == "" {
		return r, false
	}
	_, err := r.Recorded(l.Dir)
	return r, !errors.Is(err, fs.ErrNotExist)
}

// Find returns the embedded model, or the model in the directory with the given path.
// The error for an unknown name is a [NotFoundError].
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

// Engine is a [model.Engine] that its owner must close.
type Engine interface {
	model.Engine
	Close()
}

// LoadOptions select the engine of a model.
type LoadOptions struct {
	GoMLX     bool          // use the reference engine instead of the native engine
	Weights   kernel.Format // format in which the native engine stores the weights
	Sequences int           // largest number of open sequences of the native engine; 0 means 16
	Prefixes  int64         // size in bytes of the native engine's prefix cache; 0 means none
	Speculate bool          // let the native engine compute guessed tokens in advance
}

// Load starts an engine with the tokenizer and the weights. It returns an error if the
// weights do not have the required digest. Of a pulled model, it keeps the packed weights,
// and the next Load reads these. They are packed again if their file is damaged.
func (m Model) Load(o LoadOptions) (Engine, error) {
	tokenizer, err := gpt2.ReadTokenizer(m.Files)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", m.From, err)
	}
	return m.load(o, tokenizer)
}

// LoadWeights is like Load, but it does not read the tokenizer. The engine can compute
// token ids, but cannot encode or decode text.
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
		e, err = m.native(checkpoint, tokenizer, gpt2.Options{Name: m.Name, Weights: o.Weights, Sequences: o.Sequences, Prefixes: o.Prefixes, Speculate: o.Speculate})
	}
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", m.From, err)
	}
	if digest := e.Info().Digest(); m.Digest != "" && digest != m.Digest {
		e.Close()
		return nil, fmt.Errorf("load model %s: the weights have the digest %s, want %s (colophon model pull %s replaces the weights of a published model)", m.From, digest, m.Digest, m.Name)
	}
	return e, nil
}

// native starts the native engine with the packed weights, if they are kept.
func (m Model) native(checkpoint *gpt2.Checkpoint, tokenizer *gpt2.Tokenizer, o gpt2.Options) (*gpt2.Engine, error) {
	if m.packed == "" || m.Digest == "" {
		return gpt2.New(checkpoint, tokenizer, o)
	}
	note := func(format string, args ...any) {
		if m.note != nil {
			m.note(fmt.Sprintf(format, args...))
		}
	}
	path := m.packed + "." + o.Weights.String()
	e, err := gpt2.NewPacked(checkpoint, tokenizer, o, path, m.Digest)
	if err == nil {
		return e, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		note("%v: packing the weights again", err)
	}
	e, err = gpt2.New(checkpoint, tokenizer, o)
	if err != nil || e.Info().Digest() != m.Digest {
		return e, err
	}
	if err := e.WritePacked(path); err != nil {
		note("%v: the next start packs them again", err)
	}
	return e, nil
}

// WeightsDigest returns the digest of the weights, without loading them. If Digest is set,
// WeightsDigest returns it. If the weights file is absent, WeightsDigest returns "".
func (m Model) WeightsDigest() (string, error) {
	if m.Digest != "" {
		return m.Digest, nil
	}
	digest, err := gpt2.WeightsDigest(m.Files)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read model %s: %w", m.From, err)
	}
	return digest, nil
}

// Config reads the settings of the model.
func (m Model) Config() (gpt2.Config, error) {
	config, err := gpt2.ReadConfig(m.Files)
	if err != nil {
		return config, fmt.Errorf("read model %s: %w", m.From, err)
	}
	return config, nil
}

// Tokenizer reads the tokenizer and the configuration, without the weights.
func (m Model) Tokenizer() (t *gpt2.Tokenizer, config gpt2.Config, err error) {
	if config, err = m.Config(); err != nil {
		return nil, config, err
	}
	if t, err = gpt2.ReadTokenizer(m.Files); err != nil {
		return nil, config, fmt.Errorf("read model %s: %w", m.From, err)
	}
	return t, config, nil
}
