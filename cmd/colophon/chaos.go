//go:build chaos

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"colophon/model/catalog"
	"colophon/test/chaos"
)

// extras are the commands that a build tag adds.
type extras struct {
	Chaos chaosCmd `cmd:"" help:"Kill, freeze and cut off a service of its own, and show that no job is lost and no token changed."`
}

type chaosCmd struct {
	Jobs    int           `default:"120" help:"Jobs to submit, over the whole time ($COLOPHON_JOBS)."`
	Kills   int           `default:"25" help:"Processes to kill; freezes, restarts and cuts are as many again and more ($COLOPHON_KILLS)."`
	For     time.Duration `default:"75s" help:"Time over which to do it ($COLOPHON_FOR)."`
	Seed    uint64        `default:"1" help:"Decides the jobs and the moments ($COLOPHON_SEED)."`
	Workers int           `default:"3" help:"Worker processes ($COLOPHON_WORKERS)."`
	APIs    int           `name:"apis" default:"2" help:"API processes ($COLOPHON_APIS)."`
	PGBin   string        `name:"pg-bin" var:"PGBIN" type:"path" help:"Directory of initdb and postgres ($PGBIN)."`
	Logs    string        `type:"path" help:"Directory for the logs of the processes; without it, a temporary one ($COLOPHON_LOGS)."`

	Markdown string `type:"path" xor:"format" help:"Write the report to this file, as Markdown."`
	JSON     bool   `name:"json" xor:"format" help:"Print the report as JSON."`
}

// Validate is called by kong.
func (c *chaosCmd) Validate() error {
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

// errChaos says that a promise was broken; what and where has been printed.
var errChaos = errors.New("the service did not keep its promises")

// Run makes the run and reports on it.
func (c *chaosCmd) Run(ctx context.Context, t *terminal) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program to start it again: %w", err)
	}
	source, err := catalog.Find(catalog.BuiltIn)
	if err != nil {
		return err
	}
	flags := modelFlags{Engine: "native"}
	if err := flags.Weights.UnmarshalText([]byte("f16")); err != nil { // as the workers' default
		return err
	}
	engine, err := source.Load(flags.loading())
	if err != nil {
		return err
	}
	defer engine.Close()
	logs := c.Logs
	if logs == "" {
		if logs, err = os.MkdirTemp("", "colophon-chaos-logs-"); err != nil {
			return err
		}
	}
	shown := newShown(t.err)
	fmt.Fprintf(t.err, "chaos: seed %d, logs in %s\n", c.Seed, logs)
	report, err := chaos.Run(ctx, chaos.Options{
		Program: self, Engine: engine, Logs: logs, PGBin: c.PGBin,
		Jobs: c.Jobs, Kills: c.Kills, For: c.For, Workers: c.Workers, APIs: c.APIs, Seed: c.Seed,
		Progress: shown.show,
	})
	shown.end()
	if err != nil {
		return fmt.Errorf("chaos with seed %d (logs in %s): %w", c.Seed, logs, err)
	}
	if err := c.print(t.out, report); err != nil {
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
			fmt.Fprintf(t.err, "and %d more\n", len(report.Violations)-most)
			break
		}
		fmt.Fprintf(t.err, "VIOLATION (seed %d) %s\n", c.Seed, v)
	}
	return fmt.Errorf("%w: %d violations with seed %d, logs in %s", errChaos, len(report.Violations), c.Seed, logs)
}

func (c *chaosCmd) print(out io.Writer, r *chaos.Report) error {
	switch {
	case c.JSON:
		return json.NewEncoder(out).Encode(r)
	case c.Markdown != "":
		var b strings.Builder
		chaosMarkdown(&b, c, r)
		if err := os.WriteFile(c.Markdown, []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		_, err := fmt.Fprintln(out, strings.Join(chaosVerdict(r), "\n"))
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(append(chaosVerdict(r), chaosCourse(r)...), "\n"))
	for _, cells := range chaosRecoveries(r) {
		fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, "note:", note)
	}
	return w.Flush()
}

// shown shows how far a run has come: on a terminal one line that changes, else
// a line now and then.
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

func (s *shown) show(st chaos.Status) {
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
