package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"colophon/model/gpt2"
	"colophon/model/kernel"
	"colophon/model/opticks"
	"colophon/test/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	var c command
	parser := kong.Must(&c,
		kong.Name("chaos"),
		kong.Description("Start a service, kill, freeze and cut off its processes, and check that no job is lost and no token changes."),
		kong.DefaultEnvars("COLOPHON"),
	)
	_, err := parser.Parse(os.Args[1:])
	parser.FatalIfErrorf(err)
	if err := c.run(ctx, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		stop()
		os.Exit(1)
	}
}

type command struct {
	Jobs    int           `default:"120" help:"Number of jobs, submitted over the whole time."`
	Kills   int           `default:"25" help:"Number of kills. There are as many cuts, and shares of the other faults."`
	For     time.Duration `default:"75s" help:"Duration of the fault injection."`
	Seed    uint64        `default:"1" help:"Seed of the jobs and of the faults."`
	Workers int           `default:"4" help:"Number of worker processes. Every second worker runs portable Go instead of assembly, so it gives other bits."`
	APIs    int           `name:"apis" default:"2" help:"Number of API processes."`
	PGBin   string        `name:"pg-bin" env:"PGBIN" type:"path" help:"Directory of the programs initdb and postgres."`
	Logs    string        `type:"path" help:"Directory for the logs of the processes. Default: a temporary directory."`

	Markdown string `type:"path" xor:"format" help:"Write the report to this file, as Markdown."`
	JSON     bool   `name:"json" xor:"format" help:"Print the report as JSON."`
}

// Validate checks the ranges of the flags. The flag parser, kong, calls it.
func (c *command) Validate() error {
	for _, limit := range []struct {
		flag       string
		value, max int
	}{{"--jobs", c.Jobs, 100_000}, {"--kills", c.Kills, 10_000}, {"--workers", c.Workers, 16}, {"--apis", c.APIs, 16}} {
		if limit.value < 1 || limit.value > limit.max {
			return fmt.Errorf("%s is %d, want 1 to %d", limit.flag, limit.value, limit.max)
		}
	}
	if c.For < 5*time.Second || c.For > 24*time.Hour {
		return fmt.Errorf("--for is %v, want 5s to 24h", c.For)
	}
	return nil
}

// errViolated is the error of a run with violations. The report with these violations has
// already been printed.
var errViolated = errors.New("the service broke its guarantees")

// run performs one run and prints its report. It returns errViolated if the report has
// violations.
func (c *command) run(ctx context.Context, out, log io.Writer) (err error) {
	engine, err := newEngine()
	if err != nil {
		return err
	}
	defer engine.Close()
	path, remove, err := program.Build(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	purego, removePurego, err := program.Build(ctx, "purego")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removePurego()) }()
	logs := c.Logs
	if logs == "" {
		if logs, err = os.MkdirTemp("", "colophon-chaos-logs-"); err != nil {
			return err
		}
	}
	p := newProgress(log)
	fmt.Fprintf(log, "chaos: seed %d, logs in %s\n", c.Seed, logs)
	report, err := perform(ctx, options{
		Program: path, Purego: purego, Engine: engine, Logs: logs, PGBin: c.PGBin,
		Jobs: c.Jobs, Kills: c.Kills, For: c.For, Workers: c.Workers, APIs: c.APIs, Seed: c.Seed,
		Progress: p.show,
	})
	p.end()
	if err != nil {
		return fmt.Errorf("seed %d (logs in %s): %w", c.Seed, logs, err)
	}
	if err := c.print(out, report); err != nil {
		return err
	}
	if len(report.Violations) == 0 {
		if c.Logs == "" {
			return os.RemoveAll(logs)
		}
		return nil
	}
	const maxPrinted = 50
	for i, v := range report.Violations {
		if i == maxPrinted {
			fmt.Fprintf(log, "and %d more\n", len(report.Violations)-maxPrinted)
			break
		}
		fmt.Fprintf(log, "VIOLATION (seed %d) %s\n", c.Seed, v)
	}
	return fmt.Errorf("%w: %d violations with seed %d, logs in %s", errViolated, len(report.Violations), c.Seed, logs)
}

// newEngine returns an engine with the default model and weight format of the program's
// workers.
func newEngine() (*gpt2.Engine, error) {
	files := opticks.Files()
	tokenizer, err := gpt2.ReadTokenizer(files)
	if err != nil {
		return nil, err
	}
	checkpoint, err := gpt2.ReadCheckpoint(files)
	if err != nil {
		return nil, err
	}
	defer checkpoint.Close()
	return gpt2.New(checkpoint, tokenizer, gpt2.Options{Name: "opticks", Weights: kernel.F16})
}

func (c *command) print(out io.Writer, r *Report) error {
	switch {
	case c.JSON:
		return json.NewEncoder(out).Encode(r)
	case c.Markdown != "":
		var b strings.Builder
		markdown(&b, c, r)
		if err := os.WriteFile(c.Markdown, []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		_, err := fmt.Fprintln(out, strings.Join(resultLines(r), "\n"))
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(append(resultLines(r), detailLines(r)...), "\n"))
	for _, cells := range recoveryTable(r) {
		fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, "note:", note)
	}
	return w.Flush()
}

// progress prints the progress of a run. On a terminal it updates one line. Elsewhere it
// prints a line every few seconds.
type progress struct {
	out      io.Writer
	terminal bool
	updates  int
}

func newProgress(out io.Writer) *progress {
	file, ok := out.(*os.File)
	if !ok {
		return &progress{out: out}
	}
	info, err := file.Stat()
	return &progress{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0 && filepath.Base(file.Name()) != "null"}
}

func (p *progress) show(s status) {
	const every = 5 // number of seconds between two lines outside a terminal
	p.updates++
	if !p.terminal && p.updates%every != 0 {
		return
	}
	injected := 0
	for _, n := range s.Injected {
		injected += n
	}
	line := fmt.Sprintf("%4.0f s  %s: %d of %d jobs accepted, %d followed to the end; %d of %d faults: %s",
		s.Elapsed.Seconds(), s.Stage, s.Accepted, s.Jobs, s.Followed, injected, s.Faults, formatCounts(s.Injected))
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(p.out, line)
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprintln(p.out)
	}
}
