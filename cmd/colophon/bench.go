package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"

	"colophon/internal/bench"
	"colophon/model/catalog"
	"colophon/model/kernel"
)

type benchCmd struct {
	Engine  benchEngineCmd  `cmd:"" help:"Measure the native engine, and the machine's own limits beside it."`
	Service benchServiceCmd `cmd:"" help:"Measure the service, beside what its engine does alone."`
	Measure benchMeasureCmd `cmd:"" hidden:"" help:"Measure the engine with one type of weights, for bench engine."`
}

// benchFlags say which engine to measure, and how long.
type benchFlags struct {
	Model   string `help:"The built-in model opticks, or a directory in the Hugging Face layout of GPT-2; without it, random weights in the shape of the published one ($COLOPHON_MODEL)."`
	Threads int    `help:"Threads that compute; without it, one for each processor ($COLOPHON_THREADS)."`
	Quick   bool   `help:"Fewer rows and shorter runs, for a first look ($COLOPHON_QUICK)."`
}

const maxBenchThreads = 1024

// Validate is called by kong.
func (f *benchFlags) Validate() error {
	if f.Threads < 0 || f.Threads > maxBenchThreads {
		return fmt.Errorf("--threads is %d, want 1 to %d", f.Threads, maxBenchThreads)
	}
	return nil
}

func (f *benchFlags) options(t *terminal) (bench.Options, error) {
	m, err := benchModel(f.Model)
	return bench.Options{Model: m, Threads: f.Threads, Quick: f.Quick, Progress: t.err}, err
}

// benchModel returns the model that --model names. Without a name, the zero
// Model means random weights.
func benchModel(name string) (bench.Model, error) {
	if name == "" {
		return bench.Model{}, nil
	}
	m, err := catalog.Find(name)
	if err != nil {
		return bench.Model{}, asUsage(err)
	}
	return bench.Model{Name: m.Name, From: m.From, Files: m.Files}, nil
}

// reportFlags say how to print a report.
type reportFlags struct {
	JSON     bool `name:"json" xor:"format" help:"Print JSON."`
	Markdown bool `xor:"format" help:"Print Markdown."`
}

func (f *reportFlags) print(out io.Writer, r interface{ Document() bench.Document }) error {
	switch {
	case f.JSON:
		return json.NewEncoder(out).Encode(r)
	case f.Markdown:
		return r.Document().Markdown(out)
	}
	return r.Document().Text(out)
}

type benchEngineCmd struct {
	benchFlags
	Weights []kernel.Format `default:"f32,f16,int8" help:"Types of weights to measure: f32, f16 and int8 ($COLOPHON_WEIGHTS)."`
	reportFlags
}

// Run prints the report on standard output, and its progress on standard error.
func (c *benchEngineCmd) Run(ctx context.Context, t *terminal) error {
	o, err := c.options(t)
	if err != nil {
		return err
	}
	self, err := executable()
	if err != nil {
		return err
	}
	r, err := bench.Engine(ctx, o, c.Weights, func(ctx context.Context, weights kernel.Format) *exec.Cmd {
		return exec.CommandContext(ctx, self, "bench", "measure", "--weights="+weights.String(), "--model="+c.Model,
			"--threads="+strconv.Itoa(c.Threads), "--quick="+strconv.FormatBool(c.Quick))
	})
	if err != nil {
		return err
	}
	return c.print(t.out, r)
}

// benchMeasureCmd is the process that bench engine starts for each type of
// weights.
type benchMeasureCmd struct {
	benchFlags
	Weights kernel.Format `required:""`
}

// Run prints the result as bench engine reads it. It stops when standard input
// ends.
func (c *benchMeasureCmd) Run(ctx context.Context, t *terminal) error {
	o, err := c.options(t)
	if err != nil {
		return err
	}
	return bench.Measure(ctx, o, c.Weights, t.in, t.out)
}

type benchServiceCmd struct {
	Model   string        `help:"The built-in model opticks, or a directory in the Hugging Face layout of GPT-2; without it, random weights in the shape of the published one ($COLOPHON_MODEL)."`
	Weights kernel.Format `default:"f16" help:"How the engine keeps the weights: f32, f16 or int8 ($COLOPHON_WEIGHTS)."`
	PGBin   string        `name:"pg-bin" var:"PGBIN" type:"path" help:"Directory of initdb and postgres ($PGBIN)."`
	Quick   bool          `help:"Shorter runs, for a first look ($COLOPHON_QUICK)."`
	reportFlags
}

// Run prints the report on standard output, and its progress on standard error.
func (c *benchServiceCmd) Run(ctx context.Context, t *terminal) error {
	m, err := benchModel(c.Model)
	if err != nil {
		return err
	}
	self, err := executable()
	if err != nil {
		return err
	}
	o := bench.ServiceOptions{Model: m, Weights: c.Weights, Quick: c.Quick, PGBin: c.PGBin, Progress: t.err}
	r, err := bench.Service(ctx, o, func(ctx context.Context, s bench.Setup) *exec.Cmd {
		up := exec.CommandContext(ctx, self, "up", "--model", s.Model, "--weights", c.Weights.String(),
			"--listen", "127.0.0.1:0", "--no-rate-limits", "--max-streams", "0", "--data", s.Data)
		up.Env = append(os.Environ(), "DATABASE_URL="+s.Database)
		return up
	})
	if err != nil {
		return err
	}
	return c.print(t.out, r)
}

// executable returns this program, to start it again.
func executable() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program to start it again: %w", err)
	}
	return self, nil
}
