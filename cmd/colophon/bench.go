package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"colophon/model/catalog"
	"colophon/model/gpt2"
	"colophon/model/kernel"
)

type benchCmd struct {
	Engine  benchEngineCmd  `cmd:"" help:"Measure the native engine, and the machine's own limits beside it."`
	Service benchServiceCmd `cmd:"" help:"Measure the service, beside what its engine does alone."`
	Measure benchMeasureCmd `cmd:"" hidden:"" help:"Measure the engine with one type of weights, for bench engine."`
}

// benchFlags say what to measure.
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

func (f *benchFlags) threads() int {
	if f.Threads == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return f.Threads
}

// checkpoint opens the weights, and says what they are.
func (f *benchFlags) checkpoint() (string, *gpt2.Checkpoint, error) {
	if f.Model == "" {
		return "random weights in the shape of GPT-2 124M", gpt2.Random(gpt2.Published(), 1), nil
	}
	source, err := catalog.Find(f.Model)
	if err != nil {
		return "", nil, asUsage(err)
	}
	ck, err := gpt2.ReadCheckpoint(source.Files)
	if err != nil {
		return "", nil, fmt.Errorf("load model %s: %w", f.Model, err)
	}
	return source.Name, ck, nil
}

// engine starts an engine for token ids.
func (f *benchFlags) engine(weights kernel.Format) (*gpt2.Engine, error) {
	_, ck, err := f.checkpoint()
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	e, err := gpt2.New(ck, nil, gpt2.Options{Threads: f.threads(), Sequences: mostStreams, Weights: weights})
	if err != nil {
		return nil, fmt.Errorf("load %s weights: %w", weights, err)
	}
	return e, nil
}

type benchEngineCmd struct {
	benchFlags
	Weights  []kernel.Format `default:"f32,f16,int8" help:"Types of weights to measure: f32, f16 and int8 ($COLOPHON_WEIGHTS)."`
	JSON     bool            `name:"json" xor:"format" help:"Print JSON."`
	Markdown bool            `xor:"format" help:"Print Markdown."`
}

// Run prints the report; what is under way goes to standard error.
//
// Each type of weights gets a process of its own, so that the peak of its
// memory is that of nothing else.
func (c *benchEngineCmd) Run(ctx context.Context, t *terminal) error {
	name, ck, err := c.checkpoint()
	if err != nil {
		return err
	}
	r := benchReport{Model: benchModel{name, parameters(ck.Config)}, Rows: []benchRow{}, Mixed: []benchMixed{}, Agreement: []benchAgreement{}}
	if err := ck.Close(); err != nil {
		return err
	}
	var runs []benchRun
	for _, weights := range c.Weights {
		run, err := c.measure(ctx, t, weights)
		if err != nil {
			return err
		}
		runs = append(runs, run)
	}
	if !c.Quick {
		if r.Agreement, err = c.agreement(ctx, t); err != nil {
			return err
		}
	}
	r.Machine = benchMachine{CPU: cpuName(), Threads: c.threads(),
		Go: fmt.Sprintf("%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)}
	for _, run := range runs {
		r.add(run, ck.Config)
	}
	switch {
	case c.JSON:
		return json.NewEncoder(t.out).Encode(r)
	case c.Markdown:
		return r.markdown(t.out)
	}
	return r.text(t.out)
}

// measure runs bench measure.
func (c *benchEngineCmd) measure(ctx context.Context, t *terminal, weights kernel.Format) (run benchRun, err error) {
	self, err := os.Executable()
	if err != nil {
		return run, fmt.Errorf("find this program to start it again: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "bench", "measure", "--weights="+weights.String(), "--model="+c.Model,
		"--threads="+strconv.Itoa(c.threads()), "--quick="+strconv.FormatBool(c.Quick))
	cmd.Stderr = t.err
	in, err := cmd.StdinPipe() // closed when this process ends, whatever ends it
	if err != nil {
		return run, err
	}
	defer in.Close()
	begin := processors()
	out, err := cmd.Output()
	elsewhere := processors().minus(begin)
	if err := errors.Join(ctx.Err(), err); err != nil {
		return run, fmt.Errorf("measure %s weights: %w", weights, err)
	}
	if err := json.Unmarshal(out, &run); err != nil {
		return run, fmt.Errorf("measure %s weights: %w", weights, err)
	}
	elsewhere.busy -= cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	run.Elsewhere = elsewhere.share()
	return run, nil
}

// processorTime is what all processors have done together.
type processorTime struct{ busy, all time.Duration }

// processors returns it since the system started, or nothing where that does
// not say.
func processors() (t processorTime) {
	stat, _ := os.ReadFile("/proc/stat") // Linux has it
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		const idle, wait, guest = 3, 4, 8
		n, _ := strconv.ParseInt(field, 10, 64)
		took := time.Duration(n) * (time.Second / 100)
		if i >= guest { // which is part of user
			break
		}
		t.all += took
		if i != idle && i != wait {
			t.busy += took
		}
	}
	return t
}

func (t processorTime) minus(u processorTime) processorTime {
	return processorTime{t.busy - u.busy, t.all - u.all}
}

func (t processorTime) share() float64 {
	if t.all <= 0 {
		return 0
	}
	return max(0, float64(t.busy)/float64(t.all))
}

// cpuName returns what the system calls the processor, as far as it says.
func cpuName() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // Linux has it
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
