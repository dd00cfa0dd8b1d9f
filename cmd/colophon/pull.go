package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"colophon/model/gpt2/hub"
	"colophon/model/opticks"
)

// catalog is the published models that are known by name.
type catalog []hub.Release

func (c catalog) named(name string) (hub.Release, bool) {
	for _, r := range c {
		if r.Name == name {
			return r, true
		}
	}
	return hub.Release{}, false
}

// names lists all names, after those given.
func (c catalog) names(more ...string) string {
	for _, r := range c {
		more = append(more, r.Name)
	}
	return strings.Join(more, ", ")
}

// modelsFlags say where pulled models are.
type modelsFlags struct {
	Models string `type:"path" placeholder:"DIR" help:"Directory of pulled models; without it, models inside the data directory ($COLOPHON_MODELS)."`
}

func (f *modelsFlags) dir(data string) string {
	if f.Models != "" {
		return f.Models
	}
	return filepath.Join(data, "models")
}

// hubFlags say where models are pulled from, and to. Proxies are those that
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY name.
type hubFlags struct {
	modelsFlags
	HFEndpoint string `name:"hf-endpoint" var:"HF_ENDPOINT" default:"https://huggingface.co" placeholder:"URL" help:"Hub to pull models from ($HF_ENDPOINT)."`
	HFToken    string `name:"hf-token" var:"HF_TOKEN" placeholder:"TOKEN" help:"Access token for the hub, if it wants one ($HF_TOKEN)."`
}

// library returns the models that are known, with the directory of those that
// have been pulled.
func (f *hubFlags) library(data string, known catalog, t *terminal) *library {
	return &library{f.dir(data), known, hub.Options{
		Endpoint:  f.HFEndpoint,
		Token:     f.HFToken,
		Transport: http.DefaultTransport.(*http.Transport).Clone(),
	}, t.err}
}

// library is the published models: those that have been pulled, and how to pull
// the others.
type library struct {
	dir     string
	known   catalog
	options hub.Options
	err     io.Writer // for progress
}

// get returns the files of a model, which is pulled if it is not there. Those
// who load the weights compare their digest.
func (l *library) get(ctx context.Context, r hub.Release) (fs.FS, error) {
	if info, err := os.Stat(r.Name); err == nil && info.IsDir() {
		fmt.Fprintf(l.err, "%s is the published model, not the directory here: that is ./%[1]s\n", r.Name)
	}
	dir := r.Dir(l.dir)
	if err := r.Present(ctx, os.DirFS(dir)); err != nil {
		why := "is not in " + dir
		if !errors.Is(err, fs.ErrNotExist) {
			why = fmt.Sprintf("in %s is damaged (%v)", dir, err)
		}
		fmt.Fprintf(l.err, "the model %s %s: pulling it, %s\n", r.Name, why, megabytes(r.Size()))
		if err := l.pull(ctx, r); err != nil {
			return nil, err
		}
	}
	return os.DirFS(dir), nil
}

// pull pulls a model and shows how it goes.
func (l *library) pull(ctx context.Context, r hub.Release) error {
	p := newProgress(l.err, r.Name)
	defer p.end()
	o := l.options
	o.Progress, o.Note = p.show, p.note
	return hub.Pull(ctx, l.dir, r, o)
}

type pullCmd struct {
	Name string `arg:"" help:"Name of the model, such as gpt2."`
	dataFlags
	hubFlags
}

// Run pulls one model.
func (c *pullCmd) Run(ctx context.Context, t *terminal, known catalog) error {
	if c.Name == builtIn {
		_, err := fmt.Fprintf(t.out, "%s is built in: there is nothing to pull\n", builtIn)
		return err
	}
	r, ok := known.named(c.Name)
	if !ok {
		return &usageError{fmt.Errorf("there is no model %q to pull, only %s; others are run from a directory, with --model DIR", c.Name, known.names())}
	}
	l := c.library(c.Data, known, t)
	if err := l.pull(ctx, r); err != nil {
		return err
	}
	_, err := fmt.Fprintf(t.out, "%s is in %s, verified\n", r.Name, r.Dir(l.dir))
	return err
}

type listCmd struct {
	dataFlags
	modelsFlags
}

// Run lists the models and reads all of those that have been pulled: what it
// calls verified is so now.
func (c *listCmd) Run(ctx context.Context, t *terminal, known catalog) error {
	size, err := sizeOf(opticks.Files())
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "NAME\tSIZE\tREVISION\tSTATE")
	fmt.Fprintf(out, "%s\t%s\t-\tbuilt in\n", builtIn, megabytes(size))
	for _, r := range known {
		dir := r.Dir(c.dir(c.Data))
		state := "verified, in " + dir
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			state = "not pulled"
		} else if err := verified(ctx, r, os.DirFS(dir)); err != nil {
			state = fmt.Sprintf("damaged, in %s: %v", dir, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\t%.12s\t%s\n", r.Name, megabytes(r.Size()), r.Revision, state)
	}
	return out.Flush()
}

// verified reads all files of a release up to the first that is wrong.
func verified(ctx context.Context, r hub.Release, files fs.FS) error {
	for _, f := range r.Files {
		if _, err := r.Check(ctx, files, f); err != nil {
			return err
		}
	}
	return nil
}

// sizeOf returns the number of bytes of a model's files.
func sizeOf(files fs.FS) (int64, error) {
	var size int64
	for _, name := range modelFiles {
		info, err := fs.Stat(files, name)
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
