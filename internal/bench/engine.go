// Package bench measures the engine and the service, and compares each with its limit.
// The limit of the engine is the speed of the machine's memory and processors at that
// moment. The limit of the service is the speed of its engine alone.
//
// [Engine] starts a process for each weight format, and the process calls [Measure].
// [Service] starts a process for the measured service. Callers provide the commands of
// these processes. The package uses no flag and no environment variable. When a
// function returns, no process and no file that it created remains. This also holds
// after an error.
//
// A report is encoded as JSON. The Document of a report is the same report for people.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"colophon/model/gpt2"
	"colophon/model/kernel"
)

// Model is the model to measure. The zero Model has random weights in the shape of the
// published GPT-2 124M.
type Model struct {
	Name  string // the name in reports
	From  string // the value of `colophon up --model`
	Files fs.FS  // config.json, model.safetensors, vocab.json and merges.txt
}

const randomName = "random weights in the shape of GPT-2 124M"

// open returns the model's name and weights. The caller closes the weights.
func (m Model) open() (string, *gpt2.Checkpoint, error) {
	if m.Files == nil {
		return randomName, gpt2.Random(gpt2.Published(), 1), nil
	}
	ck, err := gpt2.ReadCheckpoint(m.Files)
	if err != nil {
		return "", nil, fmt.Errorf("load model %s: %w", m.From, err)
	}
	return m.Name, ck, nil
}

// Options are the options of Engine and Measure. Engine and Measure must get the same
// options.
type Options struct {
	Model    Model
	Threads  int       // threads that compute; 0 means one for each processor
	Quick    bool      // fewer rows and shorter runs
	Progress io.Writer // receives a line for each step
}

func (o Options) threads() int {
	if o.Threads == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return o.Threads
}

// engine starts an engine without a tokenizer.
func (o Options) engine(weights kernel.Format) (*gpt2.Engine, error) {
	_, ck, err := o.Model.open()
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	e, err := gpt2.New(ck, nil, gpt2.Options{Threads: o.threads(), Sequences: maxStreams, Weights: weights})
	if err != nil {
		return nil, fmt.Errorf("load %s weights: %w", weights, err)
	}
	return e, nil
}

// Engine measures the engine with each weight format. child returns a command that
// calls Measure with the command's standard input and output. Each format has its own
// process, so the peak memory of a process is the memory of one engine. A quick run
// leaves out the agreement of the formats.
func Engine(ctx context.Context, o Options, weights []kernel.Format, child func(context.Context, kernel.Format) *exec.Cmd) (*EngineReport, error) {
	name, ck, err := o.Model.open()
	if err != nil {
		return nil, err
	}
	r := &EngineReport{Model: engineModel{name, parameters(ck.Config)}, Rows: []engineRow{}, Mixed: []mixedRow{}, Agreement: []agreementRow{}}
	if err := ck.Close(); err != nil {
		return nil, err
	}
	var runs []engineRun
	for _, format := range weights {
		run, err := measureInChild(child(ctx, format), o.Progress)
		if err := errors.Join(ctx.Err(), err); err != nil {
			return nil, fmt.Errorf("measure %s weights: %w", format, err)
		}
		runs = append(runs, run)
	}
	if !o.Quick {
		if r.Agreement, err = o.agreement(ctx, weights); err != nil {
			return nil, err
		}
	}
	r.Machine = engineMachine{CPU: cpuName(), Threads: o.threads(), Go: goVersion()}
	for _, run := range runs {
		r.add(run, ck.Config)
	}
	return r, nil
}

// add adds the rows of one engine.
func (r *EngineReport) add(run engineRun, c gpt2.Config) {
	r.Machine.Elsewhere = max(r.Machine.Elsewhere, run.Elsewhere)
	for _, row := range run.Rows {
		row.Weights, row.Kernel = run.Weights, run.Kernel
		row.Roofline = row.TokS * minTime(row, c)
		row.ProductsShare = minProductsTime(row, c) * 1e3 / row.ProductsMS
		r.Rows = append(r.Rows, row)
	}
	var all []limits
	for _, row := range r.Rows {
		all = append(all, row.limits)
	}
	r.Machine.limits = medianLimits(all)
	slices.SortStableFunc(r.Rows, func(a, b engineRow) int { return strings.Compare(a.Phase, b.Phase) })
	if run.Mixed != nil {
		r.Mixed = append(r.Mixed, *run.Mixed)
	}
	r.LeftOut = append(r.LeftOut, run.LeftOut...)
}

func parameters(c gpt2.Config) int {
	sum := 0
	for _, shape := range c.Tensors() {
		n := 1
		for _, d := range shape {
			n *= d
		}
		sum += n
	}
	return sum
}
