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
	"colophon/model/kernel"
	"colophon/model/opticks"
)

// modelFlags say which model to run, and on what.
type modelFlags struct {
	Model   string        `default:"opticks" help:"The built-in model opticks, the name of a published one (gpt2), which is pulled if it is not there, or a directory in the Hugging Face layout of GPT-2, such as ./gpt2 ($COLOPHON_MODEL)."`
	Engine  string        `default:"native" enum:"native,gomlx" help:"What computes: native, or gomlx, the slower reference ($COLOPHON_ENGINE)."`
	Weights kernel.Format `default:"f16" help:"How the native engine keeps the weights: f32, f16, which takes half the memory and time, or int8, a quarter ($COLOPHON_WEIGHTS)."`
	hubFlags

	WeightsDigest digest `placeholder:"sha256:HEX" help:"Digest that the weights of a directory must have ($COLOPHON_WEIGHTS_DIGEST)."`
}

// builtIn is the name of the model inside the binary.
const builtIn = "opticks"

// engine is a model.Engine that is ours to close.
type engine interface {
	model.Engine
	Close()
}

// source is where a model's files are.
type source struct {
	name    string // what people call it
	from    string // what --model says
	files   fs.FS
	weights string // digest that the weights must have, if that is known
}

// find returns the model that --model names, and pulls it first if it is a
// published one that is not there. A name that is known means that model in
// every working directory: a directory of the same name is meant by ./name.
func (f *modelFlags) find(ctx context.Context, l *library) (source, error) {
	if r, ok := l.known.named(f.Model); ok {
		files, err := l.get(ctx, r)
		return source{name: r.Name, from: r.Name, files: files, weights: r.Weights()}, err
	}
	found, err := local(f.Model, l.known.names(builtIn))
	found.weights = string(f.WeightsDigest)
	return found, err
}

// local returns the model that is built in or in a directory; names are those
// that would have been understood as well.
func local(name, names string) (source, error) {
	if name == builtIn {
		return source{name: builtIn, from: builtIn, files: opticks.Files()}, nil
	}
	dir, err := filepath.Abs(name)
	if err != nil {
		return source{}, err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return source{}, &usageError{fmt.Errorf("--model: %q is neither %s nor a directory with config.json, model.safetensors, vocab.json and merges.txt", name, names)}
	}
	return source{name: filepath.Base(dir), from: name, files: os.DirFS(dir)}, nil
}

// engine loads the model for what the flags say.
func (s source) engine(f *modelFlags) (engine, error) {
	tokenizer, err := gpt2.ReadTokenizer(s.files)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", s.from, err)
	}
	return s.load(f, tokenizer)
}

// load loads the weights. Without a tokenizer the engine knows token ids only.
func (s source) load(f *modelFlags, tokenizer *gpt2.Tokenizer) (e engine, err error) {
	checkpoint, err := gpt2.ReadCheckpoint(s.files)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", s.from, err)
	}
	defer checkpoint.Close()
	if f.Engine == "gomlx" {
		e, err = gomlx.New(s.name, checkpoint, tokenizer)
	} else {
		e, err = gpt2.New(checkpoint, tokenizer, gpt2.Options{Name: s.name, Weights: f.Weights})
	}
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", s.from, err)
	}
	if weights, _, _ := strings.Cut(e.Info().Weights, "/"); s.weights != "" && weights != s.weights {
		e.Close()
		return nil, fmt.Errorf("load model %s: the weights have the digest %s and not %s (of a published model, colophon model pull %s replaces them)", s.from, weights, s.weights, s.name)
	}
	return e, nil
}

// describe reads what a process has to know of the model that does not run it.
func (s source) describe() (jobs.Model, error) {
	config, err := gpt2.ReadConfig(s.files)
	if err != nil {
		return jobs.Model{}, fmt.Errorf("read model %s: %w", s.from, err)
	}
	tokenizer, err := gpt2.ReadTokenizer(s.files)
	if err != nil {
		return jobs.Model{}, fmt.Errorf("read model %s: %w", s.from, err)
	}
	return jobs.Model{Name: s.name, Context: config.Context, Encode: tokenizer.Encode}, nil
}

type generateCmd struct {
	dataFlags
	modelFlags
	Prompt       string   `arg:"" help:"The text to continue."`
	MaxNewTokens int      `default:"100" help:"Most tokens to generate."`
	Temperature  float64  `default:"0.8" help:"0 always takes the likeliest token."`
	TopK         int      `name:"top-k" default:"40" help:"Choose among so many of the likeliest tokens; 0 is all."`
	TopP         float64  `name:"top-p" default:"1" help:"Choose among the likeliest tokens that make up this share of the probability."`
	Seed         *uint64  `help:"The same seed gives the same text again; without it one is drawn."`
	Stop         []string `sep:"none" help:"The text ends before this; may be given more than once."`
}

// Run writes the prompt and its continuation as it comes. No text policy applies:
// who has the weights has all that they can say.
func (c *generateCmd) Run(ctx context.Context, t *terminal, known catalog) error {
	source, err := c.find(ctx, c.library(c.Data, known, t))
	if err != nil {
		return err
	}
	e, err := source.engine(&c.modelFlags)
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
	Pull     pullCmd     `cmd:"" help:"Fetch a published model, or what is missing of it."`
	List     listCmd     `cmd:"" help:"List the models that are known by name, and check those that are there."`
	Verify   verifyCmd   `cmd:"" help:"Read a model's files from end to end and say what is wrong with them."`
	Tokenize tokenizeCmd `cmd:"" help:"Read text and print its token ids as a JSON array, or the reverse."`
	Logits   logitsCmd   `cmd:"" help:"Print the logits after each token of a sequence as JSON."`
}

type tokenizeCmd struct {
	dataFlags
	modelFlags
	Decode bool `help:"Read a JSON array of ids and print their text."`
}

// maxStdin bounds what is read from standard input, in bytes.
const maxStdin = 64 << 20

// Run needs only vocab.json and merges.txt of the model.
func (c *tokenizeCmd) Run(ctx context.Context, t *terminal, known catalog) error {
	source, err := c.find(ctx, c.library(c.Data, known, t))
	if err != nil {
		return err
	}
	tokenizer, err := gpt2.ReadTokenizer(source.files)
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
	dataFlags
	modelFlags
	IDs string `name:"ids" required:"" placeholder:"1,2,3" help:"The token ids."`
}

// Run prints {"shape":[T,V],"logits":[[…],…]}. It needs no tokenizer.
func (c *logitsCmd) Run(ctx context.Context, t *terminal, known catalog) error {
	var ids []int
	for field := range strings.SplitSeq(c.IDs, ",") {
		id, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil {
			return &usageError{fmt.Errorf("--ids: %q is not a token id", field)}
		}
		ids = append(ids, id)
	}
	source, err := c.find(ctx, c.library(c.Data, known, t))
	if err != nil {
		return err
	}
	e, err := source.load(&c.modelFlags, nil)
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
