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
		kong.Description("Kill, freeze and cut off a service of its own, and show that no job is lost and no token changed."),
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

// command is the command line.
type command struct {
	Jobs    int           `default:"120" help:"Jobs to submit, over the whole time."`
	Kills   int           `default:"25" help:"Processes to kill; freezes, restarts and cuts are as many again and more."`
	For     time.Duration `default:"75s" help:"Time over which to do it."`
	Seed    uint64        `default:"1" help:"Decides the jobs and the moments."`
	Workers int           `default:"3" help:"Worker processes."`
	APIs    int           `name:"apis" default:"2" help:"API processes."`
	PGBin   string        `name:"pg-bin" env:"PGBIN" type:"path" help:"Directory of initdb and postgres."`
	Logs    string        `type:"path" help:"Directory for the logs of the processes; without it, a temporary one."`

	Markdown string `type:"path" xor:"format" help:"Write the report to this file, as Markdown."`
	JSON     bool   `name:"json" xor:"format" help:"Print the report as JSON."`
}

// Validate is called by kong.
func (c *command) Validate() error {
	for _, limit := range []struct {
		flag     string
		is, most int
	}{{"--jobs", c.Jobs, 100_000}, {"--kills", c.Kills, 10_000}, {"--workers", c.Workers, 16}, {"--apis", c.APIs, 16}} {
		if limit.is < 1 || limit.is > limit.most {
			return fmt.Errorf("%s is %d, want 1 to %d", limit.flag, limit.is, limit.most)
		}
	}
	if c.For < 5*time.Second || c.For > 24*time.Hour {
		return fmt.Errorf("--for is %v, want 5s to 24h", c.For)
	}
	return nil
}

// errBroken says that a promise was broken. The violations have been printed.
var errBroken = errors.New("the service did not keep its promises")

// run makes the run and prints the report.
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
	logs := c.Logs
	if logs == "" {
		if logs, err = os.MkdirTemp("", "colophon-chaos-logs-"); err != nil {
			return err
		}
	}
	shown := newShown(log)
	fmt.Fprintf(log, "chaos: seed %d, logs in %s\n", c.Seed, logs)
	report, err := perform(ctx, options{
		Program: path, Engine: engine, Logs: logs, PGBin: c.PGBin,
		Jobs: c.Jobs, Kills: c.Kills, For: c.For, Workers: c.Workers, APIs: c.APIs, Seed: c.Seed,
		Progress: shown.show,
	})
	shown.end()
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
	const most = 50
	for i, v := range report.Violations {
		if i == most {
			fmt.Fprintf(log, "and %d more\n", len(report.Violations)-most)
			break
		}
		fmt.Fprintf(log, "VIOLATION (seed %d) %s\n", c.Seed, v)
	}
	return fmt.Errorf("%w: %d violations with seed %d, logs in %s", errBroken, len(report.Violations), c.Seed, logs)
}

// newEngine returns an engine of the model that the program's workers run by
// default, with its weights in their format.
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
		_, err := fmt.Fprintln(out, strings.Join(verdict(r), "\n"))
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(append(verdict(r), course(r)...), "\n"))
	for _, cells := range recoveryTable(r) {
		fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, "note:", note)
	}
	return w.Flush()
}

// shown shows the progress of a run: one changing line on a terminal, else a line
// every few seconds.
type shown struct {
	out   io.Writer
	live  bool
	lines int
}

func newShown(out io.Writer) *shown {
	file, ok := out.(*os.File)
	if !ok {
		return &shown{out: out}
	}
	info, err := file.Stat()
	return &shown{out: out, live: err == nil && info.Mode()&os.ModeCharDevice != 0 && filepath.Base(file.Name()) != "null"}
}

func (s *shown) show(st status) {
	const every = 5 // seconds between plain lines
	s.lines++
	if !s.live && s.lines%every != 0 {
		return
	}
	dealt := 0
	for _, n := range st.Dealt {
		dealt += n
	}
	line := fmt.Sprintf("%4.0f s  %s: %d of %d jobs accepted, %d seen to their end; %d of %d blows: %s",
		st.Elapsed.Seconds(), st.Stage, st.Accepted, st.Jobs, st.Followed, dealt, st.Blows, counted(st.Dealt))
	if s.live {
		fmt.Fprintf(s.out, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(s.out, line)
}

func (s *shown) end() {
	if s.live {
		fmt.Fprintln(s.out)
	}
}
