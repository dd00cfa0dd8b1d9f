package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colophon/internal/bench"
	"colophon/model/catalog"
)

// The benchmarks start their own program again. In a test, that program is the test
// binary, so init runs the command.
func init() {
	if len(os.Args) > 1 && (os.Args[1] == "bench" || os.Args[1] == "up") {
		main()
		os.Exit(0)
	}
}

var tinyModel = filepath.Join("..", "..", "model", "gpt2", "testdata", "tiny")

func TestBenchEngineReportsEveryRow(t *testing.T) {
	t.Parallel()
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
	positive := func(row map[string]any, names ...string) {
		t.Helper()
		for _, name := range names {
			if v, ok := row[name].(float64); !ok || !(v > 0) {
				t.Errorf("%s is %v in %v", name, row[name], row)
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

func TestBenchEngineRefusesWrongFlags(t *testing.T) {
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

// onWrite is a writer that calls a function with the written text.
type onWrite func(p string)

func (f onWrite) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

func TestBenchEngineStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := onWrite(func(p string) {
		if strings.Contains(p, "load") { // the child process has started to load the model
			cancel()
		}
	})
	var out bytes.Buffer
	err := run(ctx, []string{"bench", "engine", "--weights", "f32"}, noEnvironment, strings.NewReader(""), &out, seen)
	if !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("%v and %q", err, &out)
	}
}

// TestBenchMeasureStopsWhenItsInputEnds ends the standard input of `bench measure`. This input
// is a pipe from its parent process, `bench engine`, so the child does not outlive the parent.
func TestBenchMeasureStopsWhenItsInputEnds(t *testing.T) {
	out, _, err := command(t, "", "bench", "measure", "--model", "opticks", "--weights", "f32")
	if !errors.Is(err, context.Canceled) || out != "" {
		t.Errorf("%v and %q", err, out)
	}
}

func TestBenchServiceReportsEveryLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than five seconds")
	}
	t.Parallel()
	out, progress, err := command(t, "", "bench", "service", "--quick", "--model", catalog.BuiltIn, "--json")
	if err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	var r bench.ServiceReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var callers []int
	for _, row := range r.Rows {
		callers = append(callers, row.Callers)
		if !(row.TokS > 0 && row.Share > 0 && row.FirstP50MS > 0 && row.FirstP99MS >= row.FirstP50MS && row.Jobs > 0) {
			t.Errorf("row %+v", row)
		}
	}
	if !slices.Equal(callers, []int{8, 16, 8, 16}) || len(r.Alone) != 2 {
		t.Errorf("rows for %v callers, the engine alone %v", callers, r.Alone)
	}
	if b := r.Burst; b.Requests != 40 || !(b.TokS > 0) || b.OutOfOrder >= b.Requests {
		t.Errorf("burst %+v", b)
	}
	if w := r.Watch; w.Clients != 100 || w.Jobs != 8 || w.Messages == 0 || w.Listening != 1 || w.P99MS < w.P50MS {
		t.Errorf("watch %+v", w)
	}
	if len(r.Calls) != 8 {
		t.Errorf("calls %+v", r.Calls)
	}
	for _, c := range r.Calls {
		if !(c.P50MS > 0 && c.P99MS >= c.P50MS) || c.Busy != (c.TokS > 0) {
			t.Errorf("call %+v", c)
		}
	}
	var text, markdown strings.Builder
	if err := r.Document().Text(&text); err != nil || !strings.Contains(text.String(), "POST /token") {
		t.Errorf("%v\n%s", err, &text)
	}
	if err := r.Document().Markdown(&markdown); err != nil || !strings.Contains(markdown.String(), "| POST /token | busy |") {
		t.Errorf("%v\n%s", err, &markdown)
	}
}
