package bench

import (
	"fmt"
	"slices"
	"strings"
)

// EngineReport is the result of Engine. Times are in milliseconds.
type EngineReport struct {
	Machine   engineMachine  `json:"machine"`
	Model     engineModel    `json:"model"`
	Rows      []engineRow    `json:"rows"`
	Mixed     []mixedRow     `json:"mixed"`
	Agreement []agreementRow `json:"agreement"`
	LeftOut   []string       `json:"left_out,omitempty"` // rows not measured for lack of time
}

type engineMachine struct {
	CPU     string `json:"cpu"`
	Threads int    `json:"threads"`
	limits         // the median of each limit over the rows
	Go      string `json:"go"`

	// Elsewhere is the largest share of the processors that other processes took
	// during a run.
	Elsewhere float64 `json:"elsewhere"`
}

type engineModel struct {
	Name       string `json:"name"`
	Parameters int    `json:"parameters"`
}

func (r *EngineReport) decode() table {
	t := table{{"weights", "streams", "context", "tok/s", "GB/s read", "share of limit", "step ms", "peak MB"}}
	for _, row := range r.Rows {
		if row.Phase == "decode" {
			t = append(t, []string{row.Weights, fmt.Sprint(row.Batch), fmt.Sprint(row.Context), digits(row.TokS), digits(row.ReadGB),
				percent(row.Roofline), digits(row.StepMS), megabytes(row.RSSMB)})
		}
	}
	return t
}

func (r *EngineReport) prefill() table {
	t := table{{"weights", "prompt", "tok/s", "G/s computed", "share of limit", "first token ms", "peak MB"}}
	for _, row := range r.Rows {
		if row.Phase == "prefill" {
			t = append(t, []string{row.Weights, fmt.Sprint(row.Prompt), digits(row.TokS), digits(peak(row)), percent(row.Roofline),
				digits(row.FirstTokenMS), megabytes(row.RSSMB)})
		}
	}
	return t
}

// parts returns a table that shows the time of each part of a prompt and of one stream's
// step. It also shows the speed of the products as a share of their own limit.
func (r *EngineReport) parts() table {
	t := table{{"weights", "what", "ms", "products", "attention", "rows", "between", "products, share of limit"}}
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
	t := table{{"weights", "streams", "prompt", "median step ms", "longest step ms", "wait ms, 95 %", "ratio", "longest wait ms", "ratio", "prompt ms"}}
	for _, m := range r.Mixed {
		t = append(t, []string{m.Weights, fmt.Sprint(m.Streams), fmt.Sprint(m.Prompt), digits(m.StepMS), digits(m.LongestUsualMS),
			digits(m.P95WaitMS), digits(m.P95WaitMS / m.StepMS), digits(m.LongestWaitMS), digits(m.Ratio), digits(m.PromptMS)})
	}
	return t
}

func (r *EngineReport) agreement() table {
	t := table{{"weights", "tokens", "mean KL", "largest KL", "same most likely token"}}
	for _, a := range r.Agreement {
		t = append(t, []string{a.Weights, fmt.Sprint(a.Tokens), fmt.Sprintf("%.2g", a.KL), fmt.Sprintf("%.2g", a.MaxKL), percent(a.Top1)})
	}
	return t
}

// Document returns the report for people.
func (r *EngineReport) Document() Document {
	d := newDocument("engine", r.heading(),
		section{"Decode", "A step computes the next token of every stream. The limit of one stream is the time to read the weights, keys and values from memory. The limit of several streams is the longer of that time and the time of the arithmetic. Loops that do nothing else measure memory and arithmetic after every eighth step. An int8 weight counts as one byte, without its share of a scale. Sampling is not included.", r.decode()},
		section{"Prefill", "The table has the time from a prompt to the logits of the next token, and to the first token sampled from them. The limit is the time of the arithmetic. Loops that do nothing else measure it after every prompt, with the fastest instructions of the processor: in float32 for f32 and f16, in int8 for int8.", r.prefill()},
		section{"Time of one stream by part", "The table has the mean times of a step and of a prompt. Products are the matrix products with the weights, with biases, GELU and residual sums. Rows is the work on one token at a time, mostly normalisation. Between is the time in which only the caller works. The last column compares the products alone with their limit: reading the weights and scales for a step, and the arithmetic for a prompt. The other parts use less of the memory's bandwidth and of the arithmetic units.", r.parts()},
		section{"A long prompt beside running streams", "Running streams wait for their tokens while a long prompt is computed. The table compares these waits with the median step before the prompt. The longest step before the prompt shows the jitter of the machine.", r.mixed()},
		section{"Agreement with f32", "The distribution of the next token is compared with that of f32 weights, along a text sampled with f32. The table has the Kullback-Leibler divergence in nats, and the share of tokens with the same most likely successor. Random weights give nearly flat distributions, in which tiny differences change the most likely token.", r.agreement()},
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
		fmt.Sprintf("limits, measured between steps and prompts (medians): reads %s GB/s, computes %s GFLOP/s in float32 and %s GOP/s in int8",
			digits(m.ReadGB), digits(m.FMAGFLOP), digits(m.Int8GOP)),
		fmt.Sprintf("%s, %s million parameters", r.Model.Name, digits(float64(r.Model.Parameters)/1e6)),
	}
	const disturbing = 0.05
	if m.Elsewhere > disturbing {
		lines = append(lines, fmt.Sprintf("other processes took up to %s of the processors: the engine is faster without them", percent(m.Elsewhere)))
	}
	return lines
}
