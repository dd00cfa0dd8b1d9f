package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/kernel"
)

// engineRun is the result of Measure. Rows and LeftOut are in the order of measurement.
type engineRun struct {
	Weights string
	Kernel  string // the fingerprint of the arithmetic
	Rows    []engineRow
	Mixed   *mixedRow // nil if it was left out
	LeftOut []string  // rows not measured for lack of time

	// Elsewhere is the share of the processors that other processes took during the
	// run.
	Elsewhere float64 `json:"-"`
}

// measureInChild runs a command that calls Measure, and returns the result.
func measureInChild(cmd *exec.Cmd, progress io.Writer) (run engineRun, err error) {
	cmd.Stderr = progress
	in, err := cmd.StdinPipe() // if this process ends, the system closes the pipe
	if err != nil {
		return run, err
	}
	defer in.Close()
	begin := readProcessorTime()
	out, err := cmd.Output()
	elsewhere := readProcessorTime().minus(begin)
	if err != nil {
		return run, err
	}
	if err := json.Unmarshal(out, &run); err != nil {
		return run, err
	}
	elsewhere.busy -= cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	run.Elsewhere = elsewhere.share()
	return run, nil
}

// Measure measures one engine and writes the result to out, for Engine. It returns an
// error when in ends, because then the process that called Engine has ended.
func Measure(ctx context.Context, o Options, weights kernel.Format, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	b := &engineBench{weights: weights.String(), progress: o.Progress, limit: 3 * time.Second, steps: 128}
	b.progressf("load")
	e, err := o.engine(weights)
	if err != nil {
		return err
	}
	defer e.Close()
	b.pool = kernel.NewPool(o.threads())
	defer b.pool.Close()
	b.engine, b.info, b.end = e, e.Info(), time.Now().Add(45*time.Second)
	if o.Quick {
		b.limit, b.steps, b.end = 700*time.Millisecond, 24, time.Now().Add(5*time.Second)
	}
	run, err := b.run(ctx, o.Quick)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(run)
}

// engineBench measures one engine.
type engineBench struct {
	engine   *gpt2.Engine
	pool     *kernel.Pool // reads the engine's weights with as many threads as the engine
	info     model.Info
	weights  string
	progress io.Writer
	limit    time.Duration // approximate time for a row
	steps    int           // maximum number of decode steps for a row
	end      time.Time     // no row begins after this time
}

func (b *engineBench) progressf(format string, args ...any) {
	fmt.Fprintf(b.progress, "%s: %s\n", b.weights, fmt.Sprintf(format, args...))
}

// maxStreams is the maximum number of concurrent sequences.
const maxStreams = 16

// minContext is the smallest context of a model that can be measured, in tokens.
const minContext = 32

// run makes all measurements of an engine. It measures one stream first, so that this
// row's peak memory includes no other row.
func (b *engineBench) run(ctx context.Context, quick bool) (engineRun, error) {
	run := engineRun{Weights: b.weights, Kernel: b.info.Kernel}
	room := b.info.Context
	if room < minContext {
		return run, fmt.Errorf("the model's context has %d tokens, want at least %d", room, minContext)
	}
	type row struct {
		what    string
		n       int
		measure func(context.Context, int) (engineRow, error)
	}
	rows := []row{{"a prompt of %d", min(128, room), b.prefill}, {"%d stream", 1, b.decode}}
	if !quick && room > 128 {
		rows = append(rows, row{"a prompt of %d", min(512, room), b.prefill})
	}
	if !quick {
		rows = append(rows, row{"%d streams", 4, b.decode})
	}
	rows = append(rows, row{"%d streams", 8, b.decode})
	if !quick {
		rows = append(rows, row{"%d streams", maxStreams, b.decode})
	}
	for _, r := range rows {
		what := fmt.Sprintf(r.what, r.n)
		if b.late(&run, what) {
			continue
		}
		row, err := r.measure(ctx, r.n)
		if err != nil {
			return run, fmt.Errorf("%s: %w", what, err)
		}
		row.RSSMB = memoryOf(os.Getpid(), peakMemory)
		run.Rows = append(run.Rows, row)
		b.progressf("%s: %.1f tokens/s", what, row.TokS)
	}
	if quick || b.late(&run, "a long prompt beside streams") {
		return run, nil
	}
	var err error
	run.Mixed, err = b.mixed(ctx)
	return run, err
}

// late reports whether no more rows may begin. If so, it records the row as left out.
func (b *engineBench) late(run *engineRun, what string) bool {
	late := time.Now().After(b.end)
	if late {
		run.LeftOut = append(run.LeftOut, b.weights+": "+what)
		b.progressf("%s: no time left", what)
	}
	return late
}
