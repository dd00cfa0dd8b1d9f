package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"colophon/internal/console"
	"colophon/model/catalog"
	"colophon/model/gpt2"
	"colophon/model/gpt2/hub"
	"colophon/model/kernel"
)

type modelCmd struct {
	Pull     pullCmd     `cmd:"" help:"Download a published model, or its missing and damaged files."`
	List     listCmd     `cmd:"" help:"List the built-in, the published and the pulled models, and check the pulled ones."`
	Verify   verifyCmd   `cmd:"" help:"Check all files of a model and report every problem."`
	Tokenize tokenizeCmd `cmd:"" help:"Print the token ids of the text on standard input as a JSON array, or the reverse."`
	Logits   logitsCmd   `cmd:"" help:"Print the logits after each token of a sequence, as JSON."`
}

// sourceFlags select the model.
type sourceFlags struct {
	Model string `default:"opticks" help:"Model to run: opticks (built in), gpt2 or another published one (pulled if missing, see model list), a pulled repository such as ORG/NAME, or a directory in the Hugging Face layout of GPT-2, such as ./gpt2 ($COLOPHON_MODEL)."`
	hubFlags
}

// modelFlags select the model and its engine.
type modelFlags struct {
	sourceFlags
	Engine  string        `default:"native" enum:"native,gomlx" help:"Engine: native, or gomlx, the slower reference ($COLOPHON_ENGINE)."`
	Weights kernel.Format `default:"f16" help:"Weight format of the native engine: f32, f16 (half the memory and time) or int8 (a quarter) ($COLOPHON_WEIGHTS)."`

	WeightsDigest catalog.Digest `placeholder:"sha256:HEX" help:"Required digest of the weights in a directory or of a first pull. Default: any ($COLOPHON_WEIGHTS_DIGEST)."`
}

// modelDirFlags select the directory for pulled models.
type modelDirFlags struct {
	Models string `type:"path" placeholder:"DIR" help:"Directory for pulled models. Default: models in the data directory ($COLOPHON_MODELS)."`
}

func (f *modelDirFlags) dir(data string) string {
	if f.Models != "" {
		return f.Models
	}
	return filepath.Join(data, "models")
}

// hubFlags select the hub from which models are pulled. The environment variables
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY select the proxy for requests to the hub.
type hubFlags struct {
	modelDirFlags
	HFEndpoint string `name:"hf-endpoint" var:"HF_ENDPOINT" default:"https://huggingface.co" placeholder:"URL" help:"Hub to pull models from ($HF_ENDPOINT)."`
	HFToken    string `name:"hf-token" var:"HF_TOKEN" placeholder:"TOKEN" help:"Access token for the hub. Default: none ($HF_TOKEN)."`
}

// hubOptions returns the options of the hub. Each download shows its progress on p.
func (f *hubFlags) hubOptions(p *console.Progress) hub.Options {
	return hub.Options{
		Endpoint:  f.HFEndpoint,
		Token:     f.HFToken,
		Transport: http.DefaultTransport.(*http.Transport).Clone(),
		Progress:  p.Show,
		Note:      p.Note,
	}
}

// find returns the model of --model. A published model that is missing or damaged is
// pulled. The error for an unknown model is a usageError.
func (f *sourceFlags) find(ctx context.Context, data string, known catalog.Releases, t *terminal) (catalog.Model, error) {
	p := console.NewProgress(t.err, f.Model)
	defer p.End()
	found, err := catalog.Library{Releases: known, Dir: f.dir(data), Hub: f.hubOptions(p)}.Find(ctx, f.Model)
	return found, asUsage("--model", err)
}

// find returns the model of --model, which must have the digest of --weights-digest.
func (f *modelFlags) find(ctx context.Context, data string, known catalog.Releases, t *terminal) (catalog.Model, error) {
	found, err := f.sourceFlags.find(ctx, data, known, t)
	if f.WeightsDigest != "" && !known.Pinned(f.Model) {
		found.Digest = string(f.WeightsDigest)
	}
	return found, err
}

// asUsage turns the error for an unknown model into a usageError that names the argument.
// It returns any other error unchanged.
func asUsage(argument string, err error) error {
	if _, ok := errors.AsType[*catalog.NotFoundError](err); ok {
		return &usageError{fmt.Errorf("%s: %w", argument, err)}
	}
	return err
}

func (f *modelFlags) loadOptions() catalog.LoadOptions {
	return catalog.LoadOptions{GoMLX: f.Engine == "gomlx", Weights: f.Weights}
}

type pullCmd struct {
	Name string `arg:"" help:"Name of the model, such as gpt2, or a repository of the hub as ORG/NAME or ORG/NAME@REVISION."`
	dataFlags
	hubFlags
}

func (c *pullCmd) Run(ctx context.Context, t *terminal, known catalog.Releases) error {
	if c.Name == catalog.BuiltIn {
		_, err := fmt.Fprintf(t.out, "%s is built in, nothing to pull\n", c.Name)
		return err
	}
	r, ok := known.Named(c.Name)
	if !ok {
		r, ok = hub.Repository(c.Name)
	}
	if !ok {
		return &usageError{fmt.Errorf("unknown model %q: want %s, or a repository of the hub as ORG/NAME or ORG/NAME@REVISION; run other models from a directory with --model DIR", c.Name, known.Names())}
	}
	p := console.NewProgress(t.err, r.Name)
	err := hub.Pull(ctx, c.dir(c.Data), r, c.hubOptions(p))
	p.End()
	if err != nil {
		return err
	}
	recorded, err := r.Recorded(c.dir(c.Data))
	if err != nil {
		return err
	}
	how := "verified"
	if !r.Pinned() {
		how = fmt.Sprintf("commit %.12s, weights %s, recorded for later pulls", recorded.Revision, recorded.Weights())
	}
	_, err = fmt.Fprintf(t.out, "%s is in %s, %s\n", r.Name, r.Dir(c.dir(c.Data)), how)
	return err
}

type verifyCmd struct {
	Model string `arg:"" help:"Name or directory of a model, as in --model of other commands."`
	dataFlags
	modelDirFlags
}

func (c *verifyCmd) Run(ctx context.Context, t *terminal, known catalog.Releases) error {
	return asUsage("<model>", catalog.Library{Releases: known, Dir: c.dir(c.Data)}.Verify(ctx, c.Model, t.out))
}

type tokenizeCmd struct {
	dataFlags
	modelFlags
	Decode bool `help:"Read a JSON array of token ids and print their text."`
}

// maxStdin limits the size of standard input, in bytes.
const maxStdin = 64 << 20

// Run converts text to token ids, or token ids to text. It needs only the tokenizer of the
// model.
func (c *tokenizeCmd) Run(ctx context.Context, t *terminal, known catalog.Releases) error {
	source, err := c.find(ctx, c.Data, known, t)
	if err != nil {
		return err
	}
	tokenizer, err := gpt2.ReadTokenizer(source.Files)
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
		if slices.Contains(ids, gpt2.NoToken) {
			return errors.New("the model has no token for a byte of the text")
		}
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
			return fmt.Errorf("token id %d is out of range: want 0 to %d", id, tokenizer.Size()-1)
		}
	}
	_, err = t.out.Write(tokenizer.Decode(ids))
	return err
}

type logitsCmd struct {
	dataFlags
	modelFlags
	IDs string `name:"ids" required:"" placeholder:"1,2,3" help:"Token ids of the sequence."`
}

// Run prints {"shape":[T,V],"logits":[[…],…]} for T token ids and a vocabulary of V
// tokens. It needs no tokenizer.
func (c *logitsCmd) Run(ctx context.Context, t *terminal, known catalog.Releases) error {
	var ids []int
	for field := range strings.SplitSeq(c.IDs, ",") {
		id, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil {
			return &usageError{fmt.Errorf("--ids: %q is not a token id", field)}
		}
		ids = append(ids, id)
	}
	source, err := c.find(ctx, c.Data, known, t)
	if err != nil {
		return err
	}
	e, err := source.LoadWeights(c.loadOptions())
	if err != nil {
		return err
	}
	defer e.Close()
	sequence, err := e.Open(ctx, "")
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
	return out.Flush()
}
