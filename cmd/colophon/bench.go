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
	Engine  benchEngineCmd  `cmd:"" help:"Measure the native engine, and compare it with the limits of this machine."`
	Service benchServiceCmd `cmd:"" help:"Measure the service, and compare it with its engine alone."`
	Measure benchMeasureCmd `cmd:"" hidden:"" help:"Measure the engine with one weight format, for bench engine."`
}

// benchFlags are the flags of every benchmark of the engine.
type benchFlags struct {
	Model   string `placeholder:"MODEL" help:"Model to measure: opticks (built in), or a directory in the Hugging Face layout of GPT-2. Default: random weights in the shape of GPT-2 124M ($COLOPHON_MODEL)."`
	Threads int    `placeholder:"N" help:"Number of threads that compute. Default: one per processor ($COLOPHON_THREADS)."`
	Quick   bool   `help:"Measure fewer rows, for a shorter time ($COLOPHON_QUICK)."`
}

const maxBenchThreads = 1024

// Validate refuses a value of --threads that is out of range. The parser of the flags calls
// Validate.
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

// benchModel returns the model of --model. Without the flag it returns the zero Model,
// whose weights are random.
func benchModel(name string) (bench.Model, error) {
	if name == "" {
		return bench.Model{}, nil
	}
	m, err := catalog.Find(name)
	if err != nil {
		return bench.Model{}, asUsage("--model", err)
	}
	return bench.Model{Name: m.Name, From: m.From, Files: m.Files}, nil
}

// reportFlags select the format of a report.
type reportFlags struct {
	JSON     bool `name:"json" xor:"format" help:"Print the report as JSON."`
	Markdown bool `xor:"format" help:"Print the report as Markdown."`
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
	Weights []kernel.Format `default:"f32,f16,int8" help:"Weight formats to measure: f32, f16 and int8 ($COLOPHON_WEIGHTS)."`
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

// benchMeasureCmd is the hidden command that `bench engine` runs for each weight format.
type benchMeasureCmd struct {
	benchFlags
	Weights kernel.Format `required:""`
}

// Run prints the result in the format that `bench engine` reads. It stops when standard
// input ends, because `bench engine` has then ended.
func (c *benchMeasureCmd) Run(ctx context.Context, t *terminal) error {
	o, err := c.options(t)
	if err != nil {
		return err
	}
	return bench.Measure(ctx, o, c.Weights, t.in, t.out)
}

type benchServiceCmd struct {
	Model   string        `placeholder:"MODEL" help:"Model to measure: opticks (built in), or a directory in the Hugging Face layout of GPT-2. Default: random weights in the shape of GPT-2 124M ($COLOPHON_MODEL)."`
	Weights kernel.Format `default:"f16" help:"Weight format of the engine: f32, f16 or int8 ($COLOPHON_WEIGHTS)."`
	PGBin   string        `name:"pg-bin" var:"PGBIN" type:"path" placeholder:"DIR" help:"Directory of the programs initdb and postgres ($PGBIN)."`
	Quick   bool          `help:"Measure for a shorter time ($COLOPHON_QUICK)."`
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

// executable returns the path of this program. A benchmark starts the program again from
// this path.
func executable() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the path of this program: %w", err)
	}
	return self, nil
}
