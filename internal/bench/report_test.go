package bench

import (
	"errors"
	"strings"
	"testing"

	"colophon/model/gpt2"
)

func TestReportHasItsRowsInTextAndMarkdown(t *testing.T) {
	machine := limits{28.53, 195.2, 368}
	r := EngineReport{
		Machine: engineMachine{CPU: "A Processor", Threads: 2, Go: "go1"},
		Model:   engineModel{"gpt2", 124439808},
	}
	r.add(engineRun{Weights: "f16", Kernel: "portable/1", Elsewhere: 0.25, LeftOut: []string{"f16: 16 streams"}, Rows: []engineRow{
		{Phase: "prefill", Batch: 1, Prompt: 128, TokS: 800, FirstTokenMS: 161.2, RSSMB: 400, limits: machine},
		{Phase: "decode", Batch: 1, Prompt: 64, Context: 100, TokS: 100, StepMS: 10.04, limits: machine},
	}}, gpt2.Published())
	var text, markdown strings.Builder
	if err := errors.Join(r.Document().Text(&text), r.Document().Markdown(&markdown)); err != nil {
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
			t.Errorf("a section has no rows:\n%s", &markdown)
		}
	}
}
