package bench

import "fmt"

// A ServiceReport is the result of Service. Times are in milliseconds.
type ServiceReport struct {
	Machine serviceMachine `json:"machine"`
	Model   string         `json:"model"`
	Weights string         `json:"weights"`
	Alone   []float64      `json:"engine_alone_tok_s"` // with 8 sequences, once before each round of rows
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

// A serviceRow is a number of callers, of which each submits and follows one job
// after the other.
type serviceRow struct {
	Callers    int     `json:"callers"`
	Jobs       int     `json:"jobs"`
	TokS       float64 `json:"tok_s"`
	Share      float64 `json:"share"` // of what the engine alone did just before
	FirstP50MS float64 `json:"first_token_p50_ms"`
	FirstP99MS float64 `json:"first_token_p99_ms"`
}

// A serviceBurst is a number of requests at the same moment.
type serviceBurst struct {
	Requests   int     `json:"requests"`
	Seconds    float64 `json:"seconds"`
	TokS       float64 `json:"tok_s"`
	OutOfOrder int     `json:"out_of_order"` // the most positions by which a job started before or after its turn
}

// A serviceWatch is a number of clients that follow running jobs.
type serviceWatch struct {
	Clients     int     `json:"clients"`
	Jobs        int     `json:"jobs"`
	Messages    int     `json:"messages"`
	P50MS       float64 `json:"behind_p50_ms"` // from the event's time to its arrival at the client
	P99MS       float64 `json:"behind_p99_ms"`
	Listening   int     `json:"listening_connections"`
	KBPerClient float64 `json:"kb_per_client"` // growth of the process's memory, in 1e3 bytes
}

// A serviceCall is a call that needs no model.
type serviceCall struct {
	Call      string  `json:"call"`
	Busy      bool    `json:"engine_busy"`
	PerSecond float64 `json:"per_second"`
	P50MS     float64 `json:"p50_ms"`
	P99MS     float64 `json:"p99_ms"`
	TokS      float64 `json:"tok_s"` // of the engine meanwhile, if it is busy
}

func (r *ServiceReport) heading() []string {
	lines := []string{
		fmt.Sprintf("%s, %d threads, %s; service, Postgres and clients share them", r.Machine.CPU, r.Machine.Threads, r.Machine.Go),
		fmt.Sprintf("%s, %s weights", r.Model, r.Weights),
	}
	for i, tokS := range r.Alone {
		lines = append(lines, fmt.Sprintf("the engine alone, round %d: %s tok/s with %d sequences of %d and %d tokens", i+1, digits(tokS), engineStreams, promptTokens, newTokens))
	}
	return lines
}

// Document returns the report for people.
func (r *ServiceReport) Document() Document {
	rows := table{{"callers", "jobs", "tok/s", "of the engine alone", "first token ms, median", "99 %"}}
	for _, row := range r.Rows {
		rows = append(rows, []string{fmt.Sprint(row.Callers), fmt.Sprint(row.Jobs), digits(row.TokS), percent(row.Share), digits(row.FirstP50MS), digits(row.FirstP99MS)})
	}
	calls := table{{"call", "engine", "per second", "ms, median", "99 %", "tok/s meanwhile"}}
	for _, c := range r.Calls {
		engine, tokS := "idle", "-"
		if c.Busy {
			engine, tokS = "busy", digits(c.TokS)
		}
		calls = append(calls, []string{c.Call, engine, digits(c.PerSecond), digits(c.P50MS), digits(c.P99MS), tokS})
	}
	return newDocument("service", r.heading(),
		section{"Texts", fmt.Sprintf("Each caller submits a job with a prompt of %d tokens, follows it by SSE until its %d new tokens are there, and submits the next, over connections that are kept alive. Two rounds, each beside what the engine alone makes of the same work just before, without HTTP and database.", promptTokens, newTokens), rows},
		section{"Many at once", "All are submitted at the same moment and followed to their ends. Out of order is by how many places, at most, one started before or after its turn.", table{
			{"requests", "seconds", "tok/s", "out of order"},
			{fmt.Sprint(r.Burst.Requests), digits(r.Burst.Seconds), digits(r.Burst.TokS), fmt.Sprint(r.Burst.OutOfOrder)}}},
		section{"Clients that follow", "From the moment an event was made to the moment a client has read it. The memory is what the service's process grew by, a client.", table{
			{"clients", "jobs", "messages", "ms behind, median", "99 %", "listening connections", "kB a client"},
			{fmt.Sprint(r.Watch.Clients), fmt.Sprint(r.Watch.Jobs), fmt.Sprint(r.Watch.Messages), digits(r.Watch.P50MS), digits(r.Watch.P99MS), fmt.Sprint(r.Watch.Listening), digits(r.Watch.KBPerClient)}}},
		section{"Calls without a model", "Four callers, one call after the other; where the engine is busy, eight more have texts generated meanwhile.", calls},
	)
}
