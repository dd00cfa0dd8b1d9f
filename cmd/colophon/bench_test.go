package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"colophon/model/gpt2"
)

// The benchmarks start this program again, which is the test then.
func init() {
	if len(os.Args) > 1 && (os.Args[1] == "bench" || os.Args[1] == "up") {
		main()
		os.Exit(0)
	}
}

var tinyModel = filepath.Join("..", "..", "model", "gpt2", "testdata", "tiny")

func TestBenchEngine(t *testing.T) {
	out, progress, err := command(t, "", "bench", "engine", "--model", tinyModel, "--threads", "2", "--json")
	if err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	var r struct {
		Machine map[string]any
		Rows    []map[string]any
		Mixed   []map[string]any
		Agree   []map[string]any `json:"agreement"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	positive := func(what map[string]any, names ...string) {
		t.Helper()
		for _, name := range names {
			if v, ok := what[name].(float64); !ok || !(v > 0) {
				t.Errorf("%s is %v in %v", name, what[name], what)
			}
		}
	}
	positive(r.Machine, "read_gb_s", "fma_gflop_s", "int8_gop_s")
	if r.Machine["cpu"] == "" || r.Machine["threads"] != 2.0 {
		t.Errorf("machine %v", r.Machine)
	}
	var got, want []string
	for _, row := range r.Rows {
		positive(row, "tok_s", "roofline")
		if _, err := os.Stat("/proc/self/status"); err == nil {
			positive(row, "rss_mb")
		}
		key, _ := json.Marshal([]any{row["phase"], row["weights"], row["batch"], row["prompt"]})
		got = append(got, string(key))
	}
	for _, phase := range []string{`["decode",%,1,16]`, `["decode",%,4,16]`, `["decode",%,8,16]`, `["decode",%,16,16]`, `["prefill",%,1,64]`} {
		for _, weights := range []string{`"f32"`, `"f16"`, `"int8"`} {
			want = append(want, strings.Replace(phase, "%", weights, 1))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("rows %v,\nwant %v", got, want)
	}
	if len(r.Mixed) != 3 || len(r.Agree) != 2 {
		t.Errorf("mixed %v, agreement %v", r.Mixed, r.Agree)
	}
	for _, m := range r.Mixed {
		positive(m, "step_ms", "longest_wait_ms", "ratio", "prompt_ms")
	}
	for _, a := range r.Agree {
		if kl, ok := a["kl"].(float64); !ok || !(kl >= 0 && kl < 0.1) || a["tokens"] != 64.0 {
			t.Errorf("agreement %v", a)
		}
	}
}

func TestBenchEngineRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"--model", "no/such/directory"},
		{"--threads", "-1"},
		{"--threads", "1000000"},
		{"--weights", "f64"},
		{"--json", "--markdown"},
	} {
		_, _, err := command(t, "", append([]string{"bench", "engine"}, args...)...)
		if _, ok := errors.AsType[*usageError](err); !ok {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// onWrite calls itself when something is written.
type onWrite func(p string)

func (f onWrite) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

func TestBenchEngineEndsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := onWrite(func(p string) {
		if strings.Contains(p, "load") { // the other process is at work
			cancel()
		}
	})
	var out bytes.Buffer
	err := run(ctx, []string{"bench", "engine", "--weights", "f32"}, noEnvironment, strings.NewReader(""), &out, seen)
	if !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("%v and %q", err, &out)
	}
}

// What bench engine starts does not outlive it.
func TestBenchMeasureEndsWithItsInput(t *testing.T) {
	out, _, err := command(t, "", "bench", "measure", "--model", "opticks", "--weights", "f32")
	if !errors.Is(err, context.Canceled) || out != "" {
		t.Errorf("%v and %q", err, out)
	}
}

// The limits of the published shape, worked out by hand: 123.5 million weights
// are read for a token, and 84.9 million multiplied for one of a prompt.
func TestFloor(t *testing.T) {
	limits := benchLimits{ReadGB: 28.5, FMAGFLOP: 195, Int8GOP: 368}
	for _, c := range []struct {
		row  benchRow
		want float64 // tokens per second
	}{
		{benchRow{Phase: "decode", Weights: "f32", Batch: 1}, 57.7},
		{benchRow{Phase: "decode", Weights: "f16", Batch: 1}, 115.4},
		{benchRow{Phase: "decode", Weights: "int8", Batch: 1}, 230.7},
		{benchRow{Phase: "decode", Weights: "f32", Batch: 1, Context: 1000}, 50.2}, // 74 MB of keys and values
		{benchRow{Phase: "decode", Weights: "f32", Batch: 4}, 230.7},
		{benchRow{Phase: "decode", Weights: "f16", Batch: 16}, 789.3}, // 195 / 0.247
		{benchRow{Phase: "prefill", Weights: "f16", Prompt: 128}, 1127},
		{benchRow{Phase: "prefill", Weights: "int8", Prompt: 128}, 2102},
	} {
		c.row.benchLimits = limits
		got := 1 / floor(c.row, gpt2.Published())
		if math.Abs(got/c.want-1) > 0.01 {
			t.Errorf("%+v: %g tokens/s, want %g", c.row, got, c.want)
		}
	}
	if n := parameters(gpt2.Published()); n != 124439808 {
		t.Errorf("%d parameters", n)
	}
}

func TestDivergence(t *testing.T) {
	// (3/4, 1/4) from (1/2, 1/2)
	even, uneven := []float32{7, 7}, []float32{float32(math.Log(3)), 0}
	if got, want := divergence(uneven, even), 0.75*math.Log(1.5)+0.25*math.Log(0.5); math.Abs(got-want) > 1e-6 {
		t.Errorf("%g, want %g", got, want)
	}
	if got := divergence(uneven, []float32{float32(math.Log(3)) + 80, 80}); !(got >= 0 && got < 1e-6) {
		t.Errorf("%g between equals", got)
	}
}

func TestProcessors(t *testing.T) {
	begin := processors()
	if begin.all == 0 {
		t.Skip("this system does not say")
	}
	for start := time.Now(); time.Since(start) < 100*time.Millisecond; {
		continue
	}
	took := processors().minus(begin)
	if !(took.busy > 0 && took.busy <= took.all && took.share() > 0 && took.share() <= 1) {
		t.Errorf("%+v", took)
	}
	if s := (processorTime{-1, 5}).share(); s != 0 {
		t.Errorf("a share of %g", s)
	}
}

func TestMedian(t *testing.T) {
	if got := median([]time.Duration{5, 1, 9, 2, 3}); got != 3 {
		t.Errorf("%d", got)
	}
}

func TestBenchReportForPeople(t *testing.T) {
	limits := benchLimits{28.53, 195.2, 368}
	r := benchReport{
		Machine: benchMachine{CPU: "A Processor", Threads: 2, Go: "go1"},
		Model:   benchModel{"gpt2", 124439808},
	}
	r.add(benchRun{Weights: "f16", Kernel: "portable/1", Elsewhere: 0.25, LeftOut: []string{"f16: 16 streams"}, Rows: []benchRow{
		{Phase: "prefill", Batch: 1, Prompt: 128, TokS: 800, FirstTokenMS: 161.2, RSSMB: 400, benchLimits: limits},
		{Phase: "decode", Batch: 1, Prompt: 64, Context: 100, TokS: 100, StepMS: 10.04, benchLimits: limits},
	}}, gpt2.Published())
	var text, markdown strings.Builder
	if err := errors.Join(r.text(&text), r.markdown(&markdown)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"A Processor, 2 threads", "28.5 GB/s", "195 GFLOP/s", "f16: 16 streams", "portable/1", "took up to 25 %"} {
		if !strings.Contains(text.String(), want) || !strings.Contains(markdown.String(), want) {
			t.Errorf("%q is not in\n%s\nand\n%s", want, &text, &markdown)
		}
	}
	for _, want := range []string{"| f16 | 1 | 100 | 100 | 28.5 | 88 % | 10.0 | - |", "| f16 | 128 | 800 | 195 | 71 % | 161 | 400 |"} {
		if !strings.Contains(markdown.String(), want) {
			t.Errorf("%q is not in\n%s", want, &markdown)
		}
	}
	for _, not := range []string{"Agreement", "beside"} {
		if strings.Contains(markdown.String(), not) {
			t.Errorf("there is a section without rows:\n%s", &markdown)
		}
	}
}
