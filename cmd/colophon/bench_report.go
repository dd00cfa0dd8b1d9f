package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"colophon/model/gpt2"
)

// A benchReport is what bench engine prints. Times are in milliseconds.
type benchReport struct {
	Machine   benchMachine     `json:"machine"`
	Model     benchModel       `json:"model"`
	Rows      []benchRow       `json:"rows"`
	Mixed     []benchMixed     `json:"mixed"`
	Agreement []benchAgreement `json:"agreement"`
	LeftOut   []string         `json:"left_out,omitempty"` // what there was no time for
}

type benchMachine struct {
	CPU         string `json:"cpu"`
	Threads     int    `json:"threads"`
	benchLimits        // the medians over the rows
	Go          string `json:"go"`

	// Elsewhere is the share of the processors that was taken meanwhile by
	// what else ran on the machine, at worst.
	Elsewhere float64 `json:"elsewhere"`
}

// benchLimits are what the machine could do at a moment.
type benchLimits struct {
	ReadGB   float64 `json:"read_gb_s"`   // of the weights, from memory
	FMAGFLOP float64 `json:"fma_gflop_s"` // of float32
	Int8GOP  float64 `json:"int8_gop_s"`
}

// medianLimits returns the median of each.
func medianLimits(all []benchLimits) benchLimits {
	middle := func(of func(benchLimits) float64) float64 {
		var values []float64
		for _, l := range all {
			values = append(values, of(l))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return benchLimits{
		middle(func(l benchLimits) float64 { return l.ReadGB }),
		middle(func(l benchLimits) float64 { return l.FMAGFLOP }),
		middle(func(l benchLimits) float64 { return l.Int8GOP }),
	}
}

type benchModel struct {
	Name       string `json:"name"`
	Parameters int    `json:"parameters"`
}

// A benchRow is one measurement. TokS are tokens of all streams together.
type benchRow struct {
	Phase        string  `json:"phase"` // decode or prefill
	Weights      string  `json:"weights"`
	Batch        int     `json:"batch"`  // streams
	Prompt       int     `json:"prompt"` // tokens of each that are computed first, or all
	Kernel       string  `json:"kernel"` // fingerprint of the arithmetic
	TokS         float64 `json:"tok_s"`
	Roofline     float64 `json:"roofline"`                 // share of what the machine's limits allow
	RSSMB        float64 `json:"rss_mb"`                   // most memory up to here, in 1e6 bytes
	StepMS       float64 `json:"step_ms,omitempty"`        // of decode: the median step
	Context      int     `json:"context,omitempty"`        // of decode: tokens in a sequence then
	FirstTokenMS float64 `json:"first_token_ms,omitempty"` // of prefill: until the first token is sampled
	benchLimits          // measured in turns with the steps or the prompts
	benchTimes           // of a step, or of a prompt
}

// benchTimes are what parts of a step or of a prompt took, on average.
type benchTimes struct {
	ProductsMS  float64 `json:"products_ms"` // with the weights
	AttentionMS float64 `json:"attention_ms"`
	RowsMS      float64 `json:"rows_ms"`    // normalising and the like
	BetweenMS   float64 `json:"between_ms"` // nothing computes: the caller's turn

	// ProductsShare is how near the products come to the limit by themselves.
	ProductsShare float64 `json:"products_share"`
}

// A benchMixed is what a long prompt does to streams that run.
type benchMixed struct {
	Weights   string  `json:"weights"`
	Streams   int     `json:"streams"`
	Prompt    int     `json:"prompt"`
	StepMS    float64 `json:"step_ms"`         // the median before
	MostMS    float64 `json:"p95_wait_ms"`     // what 95 % of the waits do not exceed while the prompt is computed
	LongestMS float64 `json:"longest_wait_ms"` // of any stream then
	Ratio     float64 `json:"ratio"`           // of these two
	PromptMS  float64 `json:"prompt_ms"`       // until the prompt is computed

	UsualLongestMS float64 `json:"longest_usual_ms"` // of any stream before: what the machine does by itself
}

// add adds what was measured of one engine.
func (r *benchReport) add(run benchRun, c gpt2.Config) {
	r.Machine.Elsewhere = max(r.Machine.Elsewhere, run.Elsewhere)
	for _, row := range run.Rows {
		row.Weights, row.Kernel = run.Weights, run.Kernel
		row.Roofline = row.TokS * floor(row, c)
		row.ProductsShare = productsFloor(row, c) * 1e3 / row.ProductsMS
		r.Rows = append(r.Rows, row)
	}
	var limits []benchLimits
	for _, row := range r.Rows {
		limits = append(limits, row.benchLimits)
	}
	r.Machine.benchLimits = medianLimits(limits)
	slices.SortStableFunc(r.Rows, func(a, b benchRow) int { return strings.Compare(a.Phase, b.Phase) })
	if run.Mixed != nil {
		r.Mixed = append(r.Mixed, *run.Mixed)
	}
	r.LeftOut = append(r.LeftOut, run.LeftOut...)
}

// sizes returns the numbers of weights that a token is multiplied with: those of
// all layers, and those to the vocabulary.
func sizes(c gpt2.Config) (blocks, output float64) {
	d := float64(c.Embd)
	return float64(c.Layers) * (4*d*d + 2*d*float64(c.Inner)), d * float64(c.Vocab)
}

// floor returns the seconds that a token of a row takes at least: what a step
// has to read, the weights once and the keys and values of every stream, over
// the bandwidth, or if that is more what it has to compute over the peak. One
// stream is held against the bandwidth alone and a prompt against the peak
// alone.
func floor(row benchRow, c gpt2.Config) float64 {
	blocks, output := sizes(c)
	values := float64(c.Layers * c.Embd) // of keys, and of values, a token
	if row.Phase == "prefill" {
		n := float64(row.Prompt)
		return (prefillProducts(row, c) + 4*values*n*(n+1)/2/row.FMAGFLOP/1e9) / n
	}
	batch, context := float64(row.Batch), float64(row.Context)
	weights := (blocks + output) * bytesPerWeight(row.Weights)
	read := (weights + batch*2*values*context*bytesPerValue(row.Weights)) / row.ReadGB
	compute := batch * (2*(blocks+output)/peak(row) + 4*values*context/row.FMAGFLOP)
	if row.Batch == 1 {
		compute = 0
	}
	return max(read, compute) / 1e9 / batch
}

// prefillProducts returns the seconds that a prompt's products with the weights
// take at least. The last token's logits are the only ones.
func prefillProducts(row benchRow, c gpt2.Config) float64 {
	blocks, output := sizes(c)
	return 2 * (blocks*float64(row.Prompt) + output) / peak(row) / 1e9
}

// productsFloor returns the seconds that the products of one stream's step, or
// of a prompt, take at least. Those of a step read the scales of int8 as well.
func productsFloor(row benchRow, c gpt2.Config) float64 {
	if row.Phase == "prefill" {
		return prefillProducts(row, c)
	}
	blocks, output := sizes(c)
	perWeight := bytesPerWeight(row.Weights)
	if row.Weights == "int8" {
		const scale, group = 2, 32 // bytes, and the weights that share it
		perWeight += scale / float64(group)
	}
	return (blocks + output) * perWeight / row.ReadGB / 1e9
}

// bytesPerWeight leaves out the scales of int8.
func bytesPerWeight(weights string) float64 {
	switch weights {
	case "int8":
		return 1
	case "f16":
		return 2
	}
	return 4
}

// bytesPerValue is the size of a number in the keys and values.
func bytesPerValue(weights string) float64 {
	if weights == "f32" {
		return 4
	}
	return 2
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

// A table is rows of cells under a header.
type table [][]string

func (r *benchReport) decode() table {
	t := table{{"weights", "streams", "context", "tok/s", "GB/s read", "of the limit", "step ms", "peak MB"}}
	for _, row := range r.Rows {
		if row.Phase == "decode" {
			t = append(t, []string{row.Weights, fmt.Sprint(row.Batch), fmt.Sprint(row.Context), digits(row.TokS), digits(row.ReadGB),
				percent(row.Roofline), digits(row.StepMS), memory(row.RSSMB)})
		}
	}
	return t
}

func (r *benchReport) prefill() table {
	t := table{{"weights", "prompt", "tok/s", "G/s computed", "of the limit", "first token ms", "peak MB"}}
	for _, row := range r.Rows {
		if row.Phase == "prefill" {
			t = append(t, []string{row.Weights, fmt.Sprint(row.Prompt), digits(row.TokS), digits(peak(row)), percent(row.Roofline),
				digits(row.FirstTokenMS), memory(row.RSSMB)})
		}
	}
	return t
}

// where says what bounds one stream, and a prompt: where the time goes, and how
// near the products with the weights are to the limit by themselves.
func (r *benchReport) where() table {
	t := table{{"weights", "what", "ms", "products", "attention", "rows", "between", "products, of the limit"}}
	for _, row := range r.Rows {
		if row.Batch > 1 {
			continue
		}
		what := "a step"
		if row.Phase == "prefill" {
			what = fmt.Sprintf("a prompt of %d", row.Prompt)
		}
		all := row.ProductsMS + row.AttentionMS + row.RowsMS + row.BetweenMS
		t = append(t, []string{row.Weights, what, digits(all), percent(row.ProductsMS / all), percent(row.AttentionMS / all),
			percent(row.RowsMS / all), percent(row.BetweenMS / all), percent(row.ProductsShare)})
	}
	return t
}

// peak returns the limit of computing that counts for a row, in 1e9 per second.
func peak(row benchRow) float64 {
	if row.Weights == "int8" {
		return row.Int8GOP
	}
	return row.FMAGFLOP
}

func (r *benchReport) mixed() table {
	t := table{{"weights", "streams", "prompt", "usual step ms", "longest of them", "wait ms, 95 %", "ratio", "longest wait ms", "ratio", "prompt ms"}}
	for _, m := range r.Mixed {
		t = append(t, []string{m.Weights, fmt.Sprint(m.Streams), fmt.Sprint(m.Prompt), digits(m.StepMS), digits(m.UsualLongestMS),
			digits(m.MostMS), digits(m.MostMS / m.StepMS), digits(m.LongestMS), digits(m.Ratio), digits(m.PromptMS)})
	}
	return t
}

func (r *benchReport) agreement() table {
	t := table{{"weights", "tokens", "mean KL", "largest KL", "same first choice"}}
	for _, a := range r.Agreement {
		t = append(t, []string{a.Weights, fmt.Sprint(a.Tokens), fmt.Sprintf("%.2g", a.KL), fmt.Sprintf("%.2g", a.MostKL), percent(a.Top1)})
	}
	return t
}

// digits writes a number with about three digits.
func digits(v float64) string {
	places := 0
	if v > 0 {
		places = max(0, 2-int(math.Floor(math.Log10(v))))
	}
	return fmt.Sprintf("%.*f", min(places, 3), v)
}

func percent(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) }

func memory(mb float64) string {
	if mb == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", mb)
}

// A section is a table with what is said about it.
type section struct {
	title, about string
	table        table
}

// writeSections writes what is buffered by w, for a tabwriter or as Markdown.
func writeSections(w io.Writer, sections []section, markdown bool) {
	for _, s := range sections {
		if !markdown {
			fmt.Fprintf(w, "\n%s\n", s.title)
			for _, cells := range s.table {
				fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
			}
			continue
		}
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n", s.title, s.about)
		for i, cells := range s.table {
			fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
			if i == 0 {
				fmt.Fprintf(w, "|%s\n", strings.Repeat(" --: |", len(cells)))
			}
		}
	}
}

func (r *benchReport) sections() []section {
	all := []section{
		{"Decode", "A step computes the next token of every stream. The limit is reading the weights and the keys and values as fast as the weights were read after every eighth step, by loops that do nothing else; or, with several streams, computing as fast as loops did that do nothing else, whichever takes longer. A weight of int8 is one byte there, without its share of a scale. Sampling is not counted.", r.decode()},
		{"Prefill", "From a prompt to the logits of the token after it; the first token is sampled from those. The limit is computing as fast as loops did after every prompt that do nothing else: with float32 for f32 and f16, with int8 for int8, with the densest instructions that the processor has.", r.prefill()},
		{"Where the time of one stream goes", "On average, of a step and of a prompt. Products are those with the weights, with biases, GELU and residual sums; rows is what is done to a token at a time, normalising above all; between is the caller's turn. Of the limit: the products by themselves, against reading the weights, scales included, or against computing. What they miss of the rest is time in which memory, or the multipliers, have less to do.", r.where()},
		{"A long prompt beside running streams", "The longest that any of the streams waits for a token while the prompt is computed, against the median step before it came. The longest step before it came says what the rest of the machine did to a step meanwhile.", r.mixed()},
		{"Agreement with f32", "The Kullback-Leibler divergence, in nats, of the distribution of the next token from that of f32 weights, and how often both have the same most likely token, along a text sampled with f32. Where the weights are random the distributions are nearly flat, and the first choice hangs on next to nothing.", r.agreement()},
	}
	return slices.DeleteFunc(all, func(s section) bool { return len(s.table) == 1 })
}

func (r *benchReport) kernels() []string {
	var all []string
	for _, row := range r.Rows {
		all = append(all, row.Kernel)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *benchReport) heading() []string {
	m := r.Machine
	lines := []string{
		fmt.Sprintf("%s, %d threads, kernels %s, %s", m.CPU, m.Threads, strings.Join(r.kernels(), " "), m.Go),
		fmt.Sprintf("limits, measured in turns with the rows (medians): reads %s GB/s, computes %s GFLOP/s of float32 and %s GOP/s of int8",
			digits(m.ReadGB), digits(m.FMAGFLOP), digits(m.Int8GOP)),
		fmt.Sprintf("%s, %s million parameters", r.Model.Name, digits(float64(r.Model.Parameters)/1e6)),
	}
	const disturbing = 0.05
	if m.Elsewhere > disturbing {
		lines = append(lines, fmt.Sprintf("other work took up to %s of the processors meanwhile: this is less than the engine can do", percent(m.Elsewhere)))
	}
	return lines
}

// text prints the report for a terminal.
func (r *benchReport) text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(r.heading(), "\n"))
	writeSections(w, r.sections(), false)
	if len(r.LeftOut) > 0 {
		fmt.Fprintf(w, "\nThere was no time for\n  %s\n", strings.Join(r.LeftOut, "\n  "))
	}
	return w.Flush()
}

// markdown prints the report for people who were not there.
func (r *benchReport) markdown(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# The engine, measured\n\nWritten by `colophon bench engine --markdown` on %s.\n\n", time.Now().UTC().Format(time.DateOnly))
	for _, line := range r.heading() {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	writeSections(&b, r.sections(), true)
	if len(r.LeftOut) > 0 {
		fmt.Fprintf(&b, "\nThere was no time for %s.\n", strings.Join(r.LeftOut, "; "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}
