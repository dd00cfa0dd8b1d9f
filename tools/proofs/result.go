package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// result is what a run of go test has reported.
type result struct {
	took       time.Duration
	passed     int // number of tests that passed, without subtests
	subtests   int // number of subtests that passed
	attributes []attribute
	benchmarks []benchmark
	output     string // what the command has printed
}

// attribute is a result that a test reports.
type attribute struct{ test, key, value string }

// benchmark has the metrics of a benchmark.
type benchmark struct {
	name    string
	metrics []string // in the form "44300 events/s"
}

// event is a line of go test -json.
type event struct {
	Action, Test, Key, Value, Output string
}

// read reads the output of go test -json. A skipped test is an error, because it shows
// nothing.
func read(out []byte) (r result, err error) {
	var line strings.Builder // of a benchmark, which comes in pieces
	var output strings.Builder
	defer func() { r.output = output.String() }()
	scan := bufio.NewScanner(bytes.NewReader(out))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		var e event
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			return r, fmt.Errorf("read the output of go test: %w", err)
		}
		output.WriteString(e.Output)
		_, subtest, _ := strings.Cut(e.Test, "/")
		switch {
		case e.Action == "skip" && e.Test != "":
			err = fmt.Errorf("%s was skipped", e.Test)
		case e.Action == "pass" && subtest != "":
			r.subtests++
		case e.Action == "pass" && strings.HasPrefix(e.Test, "Test"):
			r.passed++
		case e.Action == "attr":
			r.attributes = append(r.attributes, attribute{e.Test, e.Key, e.Value})
		case e.Action == "output" && strings.HasPrefix(e.Output, "Benchmark"), e.Action == "output" && line.Len() > 0:
			line.WriteString(e.Output)
			if strings.HasSuffix(e.Output, "\n") {
				if b, ok := readBenchmark(line.String()); ok {
					r.benchmarks = append(r.benchmarks, b)
				}
				line.Reset()
			}
		}
	}
	return r, errors.Join(err, scan.Err())
}

// readBenchmark reads the result of a benchmark: its name, the number of rounds, and pairs
// of a value and a unit. The time of a round is left out, because the metrics say more.
func readBenchmark(line string) (benchmark, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || len(fields)%2 != 0 {
		return benchmark{}, false
	}
	b := benchmark{name: fields[0]}
	for i := 2; i < len(fields); i += 2 {
		if value, unit := fields[i], fields[i+1]; unit != "ns/op" {
			b.metrics = append(b.metrics, value+" "+unit)
		}
	}
	return b, true
}

// print prints the result as Markdown.
func (r result) print(w io.Writer) {
	if r.passed > 0 {
		fmt.Fprintf(w, "Passed in %.0f s: %s.\n", r.took.Seconds(), count(r.passed, r.subtests))
	} else {
		fmt.Fprintf(w, "Took %.0f s, with the preparation of the data.\n", r.took.Seconds())
	}
	if len(r.attributes) > 0 {
		fmt.Fprint(w, "\n| test | | result |\n|---|---|---|\n")
	}
	for _, a := range r.attributes {
		_, name, _ := strings.Cut(a.test, "/")
		if name == "" {
			name = a.test
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", cell(name), cell(a.key), cell(a.value))
	}
	if len(r.benchmarks) > 0 {
		fmt.Fprint(w, "\n| benchmark | result |\n|---|---|\n")
	}
	for _, b := range r.benchmarks {
		fmt.Fprintf(w, "| %s | %s |\n", b.name, strings.Join(b.metrics, ", "))
	}
}

func count(tests, cases int) string {
	s := number(tests, "test")
	if cases > 0 {
		s += " with " + number(cases, "case")
	}
	return s
}

func number(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

// cell returns s as the content of a cell of a table. Names of subtests have underscores
// for spaces.
func cell(s string) string {
	return strings.NewReplacer("_", " ", "|", `\|`).Replace(s)
}
