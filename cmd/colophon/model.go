package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"colophon/jobs"
	"colophon/model"
	"colophon/model/gomlx"
	"colophon/model/gpt2"
	"colophon/model/opticks"
)

// modelFlags say which model to run, and on what.
type modelFlags struct {
	Model  string `default:"opticks" help:"The built-in model opticks, or a directory in the Hugging Face layout of GPT-2 ($COLOPHON_MODEL)."`
	Engine string `default:"native" enum:"native,gomlx" help:"What computes: native, or gomlx, the slower reference ($COLOPHON_ENGINE)."`
}

// builtIn is the name of the model inside the binary.
const builtIn = "opticks"

// engine is a model.Engine that is ours to close.
type engine interface {
	model.Engine
	Close()
}

// open returns the model's name and files.
func (f *modelFlags) open() (string, fs.FS, error) {
	if f.Model == builtIn {
		return builtIn, opticks.Files(), nil
	}
	dir, err := filepath.Abs(f.Model)
	if err != nil {
		return "", nil, err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", nil, &usageError{fmt.Errorf("--model: there is no directory %s; it is %q or a directory with config.json, model.safetensors, vocab.json and merges.txt", f.Model, builtIn)}
	}
	return filepath.Base(dir), os.DirFS(dir), nil
}

// engine loads the model.
func (f *modelFlags) engine() (engine, error) {
	name, files, err := f.open()
	if err != nil {
		return nil, err
	}
	tokenizer, err := gpt2.ReadTokenizer(files)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", f.Model, err)
	}
	return f.load(name, files, tokenizer)
}

// load loads the weights. Without a tokenizer the engine knows token ids only.
func (f *modelFlags) load(name string, files fs.FS, tokenizer *gpt2.Tokenizer) (e engine, err error) {
	checkpoint, err := gpt2.ReadCheckpoint(files)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", f.Model, err)
	}
	defer checkpoint.Close()
	if f.Engine == "gomlx" {
		e, err = gomlx.New(name, checkpoint, tokenizer)
	} else {
		e, err = gpt2.New(checkpoint, tokenizer, gpt2.Options{Name: name})
	}
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", f.Model, err)
	}
	return e, nil
}

// describe reads what a process has to know of the model that does not run it.
func (f *modelFlags) describe() (jobs.Model, error) {
	name, files, err := f.open()
	if err != nil {
		return jobs.Model{}, err
	}
	config, err := gpt2.ReadConfig(files)
	if err != nil {
		return jobs.Model{}, fmt.Errorf("read model %s: %w", f.Model, err)
	}
	tokenizer, err := gpt2.ReadTokenizer(files)
	if err != nil {
		return jobs.Model{}, fmt.Errorf("read model %s: %w", f.Model, err)
	}
	return jobs.Model{Name: name, Context: config.Context, Encode: tokenizer.Encode}, nil
}

type generateCmd struct {
	modelFlags
	Prompt       string   `arg:"" help:"The text to continue."`
	MaxNewTokens int      `default:"100" help:"Most tokens to generate."`
	Temperature  float64  `default:"0.8" help:"0 always takes the likeliest token."`
	TopK         int      `name:"top-k" default:"40" help:"Choose among so many of the likeliest tokens; 0 is all."`
	TopP         float64  `name:"top-p" default:"1" help:"Choose among the likeliest tokens that make up this share of the probability."`
	Seed         *uint64  `help:"The same seed gives the same text again; without it one is drawn."`
	Stop         []string `sep:"none" help:"The text ends before this; may be given more than once."`
}

// Run writes the prompt and its continuation as it comes.
func (c *generateCmd) Run(ctx context.Context, t *terminal) error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	defer e.Close()
	seed := rand.Uint64N(jobs.MaxSeed + 1)
	if c.Seed != nil {
		seed = *c.Seed
	}
	p := model.Params{MaxTokens: c.MaxNewTokens, Temperature: c.Temperature, TopK: c.TopK, TopP: c.TopP, Seed: seed, Stop: c.Stop}
	if _, err := io.WriteString(t.out, c.Prompt); err != nil {
		return err
	}
	result, err := model.Generate(ctx, e, e.Encode(c.Prompt), nil, p, func(d model.Delta) error {
		_, err := io.WriteString(t.out, d.Text)
		return err
	})
	fmt.Fprintln(t.out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.err, "\n%s, seed %d, %d tokens, %s\n", e.Info().Name, seed, result.CompletionTokens, result.FinishReason)
	return err
}

type modelCmd struct {
	Tokenize tokenizeCmd `cmd:"" help:"Read text and print its token ids as a JSON array, or the reverse."`
	Logits   logitsCmd   `cmd:"" help:"Print the logits after each token of a sequence as JSON."`
}

type tokenizeCmd struct {
	modelFlags
	Decode bool `help:"Read a JSON array of ids and print their text."`
}

// maxStdin bounds what is read from standard input, in bytes.
const maxStdin = 64 << 20

// Run needs only vocab.json and merges.txt of the model.
func (c *tokenizeCmd) Run(t *terminal) error {
	_, files, err := c.open()
	if err != nil {
		return err
	}
	tokenizer, err := gpt2.ReadTokenizer(files)
	if err != nil {
		return fmt.Errorf("read model %s: %w", c.Model, err)
	}
	in, err := io.ReadAll(io.LimitReader(t.in, maxStdin+1))
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	if len(in) > maxStdin {
		return fmt.Errorf("standard input is longer than %d bytes", maxStdin)
	}
	if !c.Decode {
		ids := tokenizer.Encode(string(in))
		if ids == nil {
			ids = []int{}
		}
		return json.NewEncoder(t.out).Encode(ids)
	}
	var ids []int
	if err := json.Unmarshal(in, &ids); err != nil {
		return fmt.Errorf("standard input is not a JSON array of token ids: %w", err)
	}
	for _, id := range ids {
		if id < 0 || id >= tokenizer.Size() {
			return fmt.Errorf("there is no token %d: ids go from 0 to %d", id, tokenizer.Size()-1)
		}
	}
	_, err = t.out.Write(tokenizer.Decode(ids))
	return err
}

type logitsCmd struct {
	modelFlags
	IDs     string `name:"ids" required:"" placeholder:"1,2,3" help:"The token ids."`
	Weights string `default:"f32" enum:"f32" help:"Type in which the weights are computed."`
}

// Run prints {"shape":[T,V],"logits":[[…],…]}. It needs no tokenizer.
func (c *logitsCmd) Run(ctx context.Context, t *terminal) error {
	var ids []int
	for field := range strings.SplitSeq(c.IDs, ",") {
		id, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil {
			return &usageError{fmt.Errorf("--ids: %q is not a token id", field)}
		}
		ids = append(ids, id)
	}
	name, files, err := c.open()
	if err != nil {
		return err
	}
	e, err := c.load(name, files, nil)
	if err != nil {
		return err
	}
	defer e.Close()
	sequence, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer sequence.Close()
	out := bufio.NewWriter(t.out)
	fmt.Fprintf(out, `{"shape":[%d,%d],"logits":[`, len(ids), e.Info().Vocab)
	for i, id := range ids {
		logits, err := sequence.Next(ctx, id)
		if err != nil {
			return err
		}
		row, err := json.Marshal(logits)
		if err != nil {
			return fmt.Errorf("the logits after token %d are not finite: %w", i, err)
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(row)
	}
	out.WriteString("]}\n")
	return errors.Join(out.Flush())
}
