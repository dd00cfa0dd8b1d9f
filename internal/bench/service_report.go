package bench

import "fmt"

// ServiceReport is the result of Service. Times are in milliseconds.
type ServiceReport struct {
	Machine serviceMachine `json:"machine"`
	Model   string         `json:"model"`
	Weights string         `json:"weights"`
	Alone   []float64      `json:"engine_alone_tok_s"` // tokens per second of the engine alone, with 8 sequences, once before each round of rows
	Rows    []serviceRow   `json:"rows"`
	Burst   serviceBurst   `json:"burst"`
	Watch   serviceWatch   `json:"watch"`
	Calls   []serviceCall  `json:"calls"`
}

type serviceMachine struct {
	CPU     string `json:"cpu"`
	Threads int    `json:"threads"`
	Go      string `json:"go"`
}

// serviceRow is the result of a number of callers. Each caller submits a job, follows
// it to its end and then submits the next job.
type serviceRow struct {
	Callers    int     `json:"callers"`
	Jobs       int     `json:"jobs"`
	TokS       float64 `json:"tok_s"`
	Share      float64 `json:"share"` // speed as a share of the speed of the engine alone, which was measured just before
	FirstP50MS float64 `json:"first_token_p50_ms"`
	FirstP99MS float64 `json:"first_token_p99_ms"`
}

// serviceBurst is the result of concurrent requests.
type serviceBurst struct {
	Requests   int     `json:"requests"`
	Seconds    float64 `json:"seconds"`
	TokS       float64 `json:"tok_s"`
	OutOfOrder int     `json:"out_of_order"` // the largest number of positions by which a job started before or after its turn
}

// serviceWatch is the result of clients that follow running jobs.
type serviceWatch struct {
	Clients     int     `json:"clients"`
	Jobs        int     `json:"jobs"`
	Messages    int     `json:"messages"`
	P50MS       float64 `json:"behind_p50_ms"` // the time from the event to its arrival at the client
	P99MS       float64 `json:"behind_p99_ms"`
	Listening   int     `json:"listening_connections"`
	KBPerClient float64 `json:"kb_per_client"` // growth of the process's memory, in 1e3 bytes
}

// serviceCall is the result of a call that needs no model.
type serviceCall struct {
	Call      string  `json:"call"`
	Busy      bool    `json:"engine_busy"`
	PerSecond float64 `json:"per_second"`
	P50MS     float64 `json:"p50_ms"`
	P99MS     float64 `json:"p99_ms"`
	TokS      float64 `json:"tok_s"` // tokens per second of the engine during the calls, if it is busy
}

func (r *ServiceReport) heading() []string {
	lines := []string{
		fmt.Sprintf("%s, %d threads, %s; shared by the service, Postgres and the clients", r.Machine.CPU, r.Machine.Threads, r.Machine.Go),
		fmt.Sprintf("%s, %s weights", r.Model, r.Weights),
	}
	for i, tokS := range r.Alone {
		lines = append(lines, fmt.Sprintf("the engine alone, round %d: %s tok/s with %d sequences of %d prompt tokens and %d new tokens", i+1, digits(tokS), engineStreams, promptTokens, newTokens))
	}
	return lines
}

// Document returns the report for people.
func (r *ServiceReport) Document() Document {
	rows := table{{"callers", "jobs", "tok/s", "share of engine alone", "first token ms, median", "99 %"}}
	for _, row := range r.Rows {
		rows = append(rows, []string{fmt.Sprint(row.Callers), fmt.Sprint(row.Jobs), digits(row.TokS), percent(row.Share), digits(row.FirstP50MS), digits(row.FirstP99MS)})
	}
	calls := table{{"call", "engine", "per second", "ms, median", "99 %", "tok/s of the engine"}}
	for _, c := range r.Calls {
		engine, tokS := "idle", "-"
		if c.Busy {
			engine, tokS = "busy", digits(c.TokS)
		}
		calls = append(calls, []string{c.Call, engine, digits(c.PerSecond), digits(c.P50MS), digits(c.P99MS), tokS})
	}
	return newDocument("service", r.heading(),
		section{"Throughput", fmt.Sprintf("Each caller submits a job with a prompt of %d tokens, follows its events until its %d new tokens have arrived, and submits the next. Connections are kept alive. There are two rounds. Each is compared with the engine alone, which does the same work just before, without HTTP and database.", promptTokens, newTokens), rows},
		section{"Many requests at once", "All requests are submitted at the same time and followed to their ends. Out of order is the largest number of positions by which a job started before or after its turn.", table{
			{"requests", "seconds", "tok/s", "out of order"},
			{fmt.Sprint(r.Burst.Requests), digits(r.Burst.Seconds), digits(r.Burst.TokS), fmt.Sprint(r.Burst.OutOfOrder)}}},
		section{"Following clients", "The delay is the time from an event until a client has read it. The memory is the growth of the service's process per client.", table{
			{"clients", "jobs", "messages", "delay ms, median", "99 %", "listening connections", "kB per client"},
			{fmt.Sprint(r.Watch.Clients), fmt.Sprint(r.Watch.Jobs), fmt.Sprint(r.Watch.Messages), digits(r.Watch.P50MS), digits(r.Watch.P99MS), fmt.Sprint(r.Watch.Listening), digits(r.Watch.KBPerClient)}}},
		section{"Calls without a model", "Four callers repeat each call. In the rows with a busy engine, eight more callers generate texts at the same time.", calls},
	)
}
