package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResultsAreRead(t *testing.T) {
	t.Parallel()
	r, err := read([]byte(`{"Action":"run","Test":"TestA"}
{"Action":"attr","Test":"TestA/a_case","Key":"found","Value":"index 7|8"}
{"Action":"pass","Test":"TestA/a_case"}
{"Action":"pass","Test":"TestA"}
{"Action":"output","Test":"BenchmarkB","Output":"BenchmarkB\n"}
{"Action":"output","Test":"BenchmarkB","Output":"BenchmarkB-2   \t"}
{"Action":"output","Test":"BenchmarkB","Output":"       1\t2000 ns/op\t 44300 events/s\t 63.5 MiB\n"}
{"Action":"pass","Test":"BenchmarkB"}
{"Action":"output","Output":"PASS\n"}
{"Action":"pass"}
`))
	r.output = ""
	want := result{
		passed: 1, subtests: 1,
		attributes: []attribute{{"TestA/a_case", "found", "index 7|8"}},
		benchmarks: []benchmark{{"BenchmarkB-2", []string{"44300 events/s", "63.5 MiB"}}},
	}
	if err != nil || !cmp.Equal(r, want, cmp.AllowUnexported(result{}, attribute{}, benchmark{})) {
		t.Fatalf("%+v, %v, want %+v", r, err, want)
	}
	var b strings.Builder
	r.print(&b)
	for _, line := range []string{"1 test with 1 case.", `| a case | found | index 7\|8 |`, "| BenchmarkB-2 | 44300 events/s, 63.5 MiB |"} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("%q is missing:\n%s", line, b.String())
		}
	}
	for _, out := range []string{`{"Action":"skip","Test":"TestA"}`, `no JSON`} {
		if _, err := read([]byte(out)); err == nil {
			t.Errorf("%s: no error", out)
		}
	}
}

// A proof whose tests were renamed must not pass as shown.
func TestProofWithoutATestIsAnError(t *testing.T) {
	t.Parallel()
	_, err := report(context.Background(), []proof{{title: "Nothing", args: []string{"-run", "TestThatNobodyWrote", "."}}})
	if err == nil || !strings.Contains(err.Error(), "no test has run") {
		t.Errorf("%v", err)
	}
}

// TestEveryProofHasItsTests searches the tests of each proof. Each part of a pattern must be
// the beginning of the name of a test or a benchmark.
func TestEveryProofHasItsTests(t *testing.T) {
	t.Parallel()
	for _, p := range proofs {
		files, err := filepath.Glob(filepath.Join("../..", p.dir, p.args[len(p.args)-1], "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no tests in %s, %v", p.title, p.args[len(p.args)-1], err)
		}
		var code strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(text)
		}
		for i := 0; i+1 < len(p.args); i += 2 {
			kind := map[string]string{"-run": "func ", "-bench": "func Benchmark"}[p.args[i]]
			if kind == "" || p.args[i+1] == "^$" {
				continue
			}
			for name := range strings.SplitSeq(p.args[i+1], "|") {
				if !strings.Contains(code.String(), "\n"+kind+name) {
					t.Errorf("%s: no test begins with %s", p.title, name)
				}
			}
		}
	}
}
