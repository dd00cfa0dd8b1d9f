// Command train makes the model of package opticks. It reads Newton's Opticks from Go's
// source tree and learns a vocabulary. Then it trains a small GPT-2 with GoMLX and
// writes the files of a Hugging Face checkpoint.
//
//	GOEXPERIMENT=simd go run ./model/opticks/train -out model/opticks
//
// Without GOEXPERIMENT=simd, the command is several times slower. An interrupted run
// resumes at its last checkpoint. Two runs, interrupted or not, differ only by
// rounding.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"colophon/model/gomlx"
	"colophon/model/gpt2"
)

// The recipe is part of the command, so the command alone defines how the model is
// made.
const (
	batch      = 8   // number of rows in a step; each row has Context tokens
	bpeDropout = 0.1 // probability of BPE-dropout, on every second row until the cool-down
	evalEvery  = 100 // number of steps between checkpoints, and between evaluations on held-out text
)

var config = gpt2.Config{Vocab: 2048, Context: 256, Embd: 192, Layers: 4, Heads: 3, Inner: 768, Epsilon: 1e-5, EOS: 2047}

var recipe = gomlx.Recipe{
	Steps: 2400, WarmUp: 100, CoolDown: 600, Period: 2800, Rate: 2e-3, LastRate: 0.05,
	Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.3, Clip: 1,
	Dropout: 0.25, Average: 0.99, Seed: 1704,
}

func main() {
	out := flag.String("out", "model/opticks", "`directory` for the model's files")
	work := flag.String("checkpoints", filepath.Join(os.TempDir(), "opticks"), "`directory` for checkpoints, from which an interrupted run resumes")
	stop := flag.Bool("export", false, "write the model's files from the best weights so far, without more training")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *out, *work, *stop); err != nil {
		fmt.Fprintln(os.Stderr, "train:", err)
		os.Exit(1)
	}
}

// run trains the model and exports it. If stop is true, it only exports.
func run(ctx context.Context, out, work string, stop bool) error {
	training, sections, err := corpus(ctx)
	if err != nil {
		return err
	}
	bpe, err := learn(strings.Join(training, ""), config.Vocab)
	if err != nil {
		return err
	}
	trainer, err := gomlx.NewTrainer(config, recipe)
	if err != nil {
		return err
	}
	defer trainer.Close()
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	test, best := newHeldOut(bpe, sections), filepath.Join(work, "best")
	if !stop {
		if err := train(ctx, trainer, newRows(bpe, training), test, work, best); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		fmt.Printf("interrupted at step %d; the same command resumes there\n", trainer.Steps())
		return nil
	}
	if err := load(trainer, best); err != nil {
		return err
	}
	return export(out, trainer, bpe, test, sections)
}

// train runs the recipe to its end or until ctx is done. Whenever the loss on held-out
// text is the lowest so far, it saves the weights in the file best.
func train(ctx context.Context, trainer *gomlx.Trainer, rows *rows, test *heldOut, work, best string) error {
	checkpoint, lowest := filepath.Join(work, "checkpoint"), math.Inf(1)
	if err := load(trainer, best); err == nil {
		if lowest, err = test.loss(trainer, trainer.Weights()); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := load(trainer, checkpoint); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Printf("%d training tokens, %d held-out tokens (%d bytes), step %d of %d\n",
		rows.tokens, test.size(), test.bytes, trainer.Steps(), recipe.Steps)

	started, first, mean := time.Now(), trainer.Steps(), 0.0
	for trainer.Steps() < recipe.Steps && ctx.Err() == nil {
		tokens, targets := rows.batch(trainer.Steps())
		loss, err := trainer.Step(tokens, targets)
		if err != nil {
			return err
		}
		step := trainer.Steps()
		mean += (loss - mean) / min(50, float64(step-first))
		if step%10 == 0 {
			perStep := time.Since(started) / time.Duration(step-first)
			fmt.Printf("step %d/%d  loss %.4f  %.0f tokens/s  %v left\n", step, recipe.Steps, mean,
				batch*float64(config.Context)/perStep.Seconds(), (perStep * time.Duration(recipe.Steps-step)).Round(time.Second))
		}
		if step%evalEvery != 0 && step != recipe.Steps {
			continue
		}
		nats, err := test.loss(trainer, trainer.Weights())
		if err != nil {
			return err
		}
		fmt.Printf("step %d/%d  held-out %.4f nats/token, %.4f bits/byte\n", step, recipe.Steps, nats, test.bitsPerByte(nats))
		if nats < lowest {
			lowest = nats
			if err := save(trainer, best); err != nil {
				return err
			}
		}
		if err := save(trainer, checkpoint); err != nil {
			return err
		}
	}
	return save(trainer, checkpoint)
}

// corpus returns the text of the Opticks from the source tree of the go command in
// PATH.
func corpus(ctx context.Context) (training, heldOut []string, err error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "src", "testdata", "Isaac.Newton-Opticks.txt"))
	if err != nil {
		return nil, nil, fmt.Errorf("read the Opticks from Go's source tree: %w", err)
	}
	list, err := paragraphs(string(text))
	if err != nil {
		return nil, nil, err
	}
	training, heldOut = divide(list)
	return training, heldOut, nil
}

// load restores the trainer from a checkpoint file.
func load(t *gomlx.Trainer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.Load(f)
}

// save writes a checkpoint to a temporary file and renames the file to name. So a crash
// leaves the previous checkpoint intact.
func save(t *gomlx.Trainer, name string) error {
	f, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	if err := errors.Join(t.Save(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".part", name)
}
