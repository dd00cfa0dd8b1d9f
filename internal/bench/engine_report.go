package bench

import (
	"fmt"
	"slices"
	"strings"
)

// An EngineReport is the result of Engine. Times are in milliseconds.
type EngineReport struct {
	Machine   engineMachine  `json:"machine"`
	Model     engineModel    `json:"model"`
	Rows      []engineRow    `json:"rows"`
	Mixed     []mixedRow     `json:"mixed"`
	Agreement []agreementRow `json:"agreement"`
	LeftOut   []string       `json:"left_out,omitempty"` // rows for which no time was left
}

type engineMachine struct {
	CPU     string `json:"cpu"`
	Threads int    `json:"threads"`
	limits         // the medians over the rows
	Go      string `json:"go"`

	// Elsewhere is the largest share of the processors that other processes of
	// the machine took during a run.
	Elsewhere float64 `json:"elsewhere"`
}

type engineModel struct {
	Name       string `json:"name"`
	Parameters int    `json:"parameters"`
}

func (r *EngineReport) decode() table {
	t := table{{"weights", "streams", "context", "tok/s", "GB/s read", "of the limit", "step ms", "peak MB"}}
	for _, row := range r.Rows {
		if row.Phase == "decode" {
			t = append(t, []string{row.Weights, fmt.Sprint(row.Batch), fmt.Sprint(row.Context), digits(row.TokS), digits(row.ReadGB),
				percent(row.Roofline), digits(row.StepMS), megabytes(row.RSSMB)})
		}
	}
	return t
}

func (r *EngineReport) prefill() table {
	t := table{{"weights", "prompt", "tok/s", "G/s computed", "of the limit", "first token ms", "peak MB"}}
	for _, row := range r.Rows {
		if row.Phase == "prefill" {
			t = append(t, []string{row.Weights, fmt.Sprint(row.Prompt), digits(row.TokS), digits(peak(row)), percent(row.Roofline),
				digits(row.FirstTokenMS), megabytes(row.RSSMB)})
		}
	}
	return t
}

// where shows the parts of a prompt's time and of one stream's step, and how near
// the products with the weights alone are to their limit.
func (r *EngineReport) where() table {
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

func (r *EngineReport) mixed() table {
	t := table{{"weights", "streams", "prompt", "usual step ms", "longest of them", "wait ms, 95 %", "ratio", "longest wait ms", "ratio", "prompt ms"}}
	for _, m := range r.Mixed {
		t = append(t, []string{m.Weights, fmt.Sprint(m.Streams), fmt.Sprint(m.Prompt), digits(m.StepMS), digits(m.UsualLongestMS),
			digits(m.MostMS), digits(m.MostMS / m.StepMS), digits(m.LongestMS), digits(m.Ratio), digits(m.PromptMS)})
	}
	return t
}

func (r *EngineReport) agreement() table {
	t := table{{"weights", "tokens", "mean KL", "largest KL", "same first choice"}}
	for _, a := range r.Agreement {
		t = append(t, []string{a.Weights, fmt.Sprint(a.Tokens), fmt.Sprintf("%.2g", a.KL), fmt.Sprintf("%.2g", a.MostKL), percent(a.Top1)})
	}
	return t
}

// Document returns the report for people.
func (r *EngineReport) Document() Document {
	d := newDocument("engine", r.heading(),
		section{"Decode", "A step computes the next token of every stream. The limit is reading the weights and the keys and values as fast as the weights were read after every eighth step, by loops that do nothing else; or, with several streams, computing as fast as loops did that do nothing else, whichever takes longer. A weight of int8 is one byte there, without its share of a scale. Sampling is not counted.", r.decode()},
		section{"Prefill", "From a prompt to the logits of the token after it; the first token is sampled from those. The limit is computing as fast as loops did after every prompt that do nothing else: with float32 for f32 and f16, with int8 for int8, with the densest instructions that the processor has.", r.prefill()},
		section{"Where the time of one stream goes", "On average, of a step and of a prompt. Products are those with the weights, with biases, GELU and residual sums; rows is what is done to a token at a time, normalising above all; between is the caller's turn. Of the limit: the products by themselves, against reading the weights, scales included, or against computing. What they miss of the rest is time in which memory, or the multipliers, have less to do.", r.where()},
		section{"A long prompt beside running streams", "The longest that any of the streams waits for a token while the prompt is computed, against the median step before it came. The longest step before it came says what the rest of the machine did to a step meanwhile.", r.mixed()},
		section{"Agreement with f32", "The Kullback-Leibler divergence, in nats, of the distribution of the next token from that of f32 weights, and how often both have the same most likely token, along a text sampled with f32. Where the weights are random the distributions are nearly flat, and the first choice hangs on next to nothing.", r.agreement()},
	)
	d.leftOut = r.LeftOut
	return d
}

func (r *EngineReport) kernels() []string {
	var all []string
	for _, row := range r.Rows {
		all = append(all, row.Kernel)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *EngineReport) heading() []string {
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
