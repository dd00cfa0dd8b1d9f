// Command proofs runs the tests and benchmarks that show what the log proves, and prints the
// report docs/reports/evidence.md, which the task proofs writes:
//
//	go tool -modfile=tools/task.mod task proofs
//
// It runs them one after the other, with more data than the ordinary test run has. If one of
// them fails, or is skipped, it prints what they said and no report, and ends with status 1.
//
// A test reports a result as an attribute, see [testing.T.Attr], and a benchmark as a metric.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	text, err := report(ctx, proofs)
	if err != nil {
		fmt.Fprintln(os.Stderr, "proofs:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}

// proof is a claim, and the command that shows it.
type proof struct {
	title string
	says  string
	dir   string   // directory of the module; empty for the module of the service
	env   []string // variables that set the amount of data, in the form NAME=value
	args  []string // arguments of go test
}

// command returns the command as a reader would type it.
func (p proof) command() string {
	words := append([]string{}, p.env...)
	words = append(words, "go")
	if p.dir != "" {
		words = append(words, "-C", p.dir)
	}
	words = append(words, "test")
	for _, arg := range p.args {
		if strings.ContainsAny(arg, "|$^ ") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// run runs the command of a proof.
func (p proof) run(ctx context.Context) (result, error) {
	args := []string{"test", "-json", "-count=1", "-timeout=60m"}
	if p.dir != "" {
		args = append([]string{"-C", p.dir}, args...)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, p.args...)...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go test passes it on
	cmd.WaitDelay = time.Minute
	var said bytes.Buffer
	cmd.Stderr = &said
	begin := time.Now()
	out, failed := cmd.Output()
	r, err := read(out)
	switch {
	case failed != nil:
		return r, fmt.Errorf("%s: %w\n%s%s", p.command(), failed, said.Bytes(), r.output)
	case err != nil:
		return r, fmt.Errorf("%s: %w", p.command(), err)
	case r.passed == 0 && len(r.benchmarks) == 0:
		return r, fmt.Errorf("%s: no test has run", p.command())
	}
	r.took = time.Since(begin)
	return r, nil
}

func report(ctx context.Context, proofs []proof) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `# What the log proves, and how it was shown

This page is the output of `+"`go run ./tools/proofs`"+`, which runs the tests and benchmarks below. It was written on %s, on a
machine with %d processors (%s/%s, %s). Times depend on the machine, and on what else it does. [Receipts](../receipts.md)
has the format, and [the decisions](../adr/README.md) 29 to 37 the reasons.
`, time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, processor())
	for _, p := range proofs {
		fmt.Fprintf(os.Stderr, "%s\n", p.command())
		r, err := p.run(ctx)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n    %s\n\n", p.title, p.says, p.command())
		r.print(&b)
	}
	return b.String(), nil
}

// processor returns the name of the machine's processor, if the system tells it.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // absent on systems other than Linux
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}
