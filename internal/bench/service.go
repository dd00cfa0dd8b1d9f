package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"colophon/client"
	"colophon/internal/pg"
	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/kernel"
)

// ServiceOptions are what Service measures.
type ServiceOptions struct {
	Model    Model
	Weights  kernel.Format
	Quick    bool      // shorter runs
	PGBin    string    // directory of initdb and postgres; empty to look for it
	Progress io.Writer // what is being measured, in lines
}

// A Setup is what the service to measure runs on. All of it is removed after the
// measurement.
type Setup struct {
	Model    string // what `colophon up --model` takes
	Database string // the URL of an empty database
	Data     string // the data directory, which does not exist yet
}

// The size of the work.
const (
	promptTokens   = 32  // in a caller's job
	newTokens      = 64  // in a caller's job
	engineStreams  = 8   // callers of the engine alone
	historyRecords = 100 // in an answer of GET /history
	watchTokens    = 800 // in a text that many clients follow
)

// A serviceBench measures one service in a process of its own, and one engine in
// this process. They never work at the same time.
type serviceBench struct {
	engine   *gpt2.Engine
	server   *server
	database string // its URL
	user     user
	prompt   string
	progress io.Writer

	lasts    time.Duration // of a load
	burst    int           // requests at once
	watchers int           // clients that follow
}

// Service measures a service and the engine that it uses. up returns a command
// that serves without limits on a free port of the loopback. The command prints
// "ready" and its URL, and ends without an error on SIGTERM.
func Service(ctx context.Context, o ServiceOptions, up func(context.Context, Setup) *exec.Cmd) (r *ServiceReport, err error) {
	dir, err := os.MkdirTemp("", "colophon-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another user
		return nil, err
	}
	name := o.Model.From
	if o.Model.Files == nil {
		name = randomName
		fmt.Fprintln(o.Progress, "write", name)
		weights := filepath.Join(dir, "gpt2")
		if err := errors.Join(os.Mkdir(weights, 0o755), gpt2.WriteRandom(weights, 1)); err != nil {
			return nil, err
		}
		o.Model = Model{From: weights, Files: os.DirFS(weights)}
	}
	engine, err := gpt2.Load(o.Model.Files, gpt2.Options{Weights: o.Weights, Sequences: engineStreams})
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", o.Model.From, err)
	}
	defer engine.Close()
	cluster, err := pg.Start(ctx, filepath.Join(dir, "postgres"), pg.Options{Bin: o.PGBin})
	if err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	defer func() { err = errors.Join(err, cluster.Stop(context.WithoutCancel(ctx))) }()
	setup := Setup{Model: o.Model.From, Database: cluster.URL(), Data: filepath.Join(dir, "data")}
	// The service does not get the cancellation of ctx, which would kill it: stop ends it.
	server, err := serve(up(context.WithoutCancel(ctx), setup), filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	b := &serviceBench{engine: engine, server: server, database: cluster.URL(), prompt: arbitraryPrompt(engine.Encode), progress: o.Progress,
		lasts: 10 * time.Second, burst: 200, watchers: 1000}
	if o.Quick {
		b.lasts, b.burst, b.watchers = time.Second, 40, 100
	}
	if b.user, err = newUser(ctx, server.url, b.watchers+b.burst); err != nil {
		return nil, err
	}
	r = &ServiceReport{Model: name, Weights: o.Weights.String(),
		Machine: serviceMachine{CPU: cpuName(), Threads: runtime.GOMAXPROCS(0), Go: goVersion()}}
	return r, b.run(ctx, r)
}

// arbitraryPrompt returns an arbitrary text of promptTokens tokens.
func arbitraryPrompt(encode func(string) []int) string {
	rnd := rand.New(rand.NewPCG(1, 2))
	text := ""
	for len(encode(text)) < promptTokens {
		const letters = "abcdefghijklmnopqrstuvwxyz      "
		text += string(letters[rnd.IntN(len(letters))])
	}
	return text
}

// run measures everything.
func (b *serviceBench) run(ctx context.Context, r *ServiceReport) error {
	// Two rounds, each with the engine alone, because the machine's speed varies.
	for range 2 {
		if err := b.throughput(ctx, r); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context, *ServiceReport) error{b.many, b.watch, b.calls} {
		if err := step(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// throughput measures the engine alone, and then the service with 8 and with 16
// callers.
func (b *serviceBench) throughput(ctx context.Context, r *ServiceReport) error {
	alone, err := b.alone(ctx)
	if err != nil {
		return fmt.Errorf("the engine alone: %w", err)
	}
	r.Alone = append(r.Alone, alone)
	fmt.Fprintf(b.progress, "the engine alone: %.0f tokens/s\n", alone)
	for _, callers := range []int{engineStreams, 2 * engineStreams} {
		row, err := b.callers(ctx, callers)
		if err != nil {
			return fmt.Errorf("%d callers: %w", callers, err)
		}
		row.Share = row.TokS / alone
		r.Rows = append(r.Rows, row)
		fmt.Fprintf(b.progress, "%d callers: %.0f tokens/s, %.0f %% of the engine alone, first token after %.0f ms (median)\n", callers, row.TokS, 100*row.Share, row.FirstP50MS)
	}
	return nil
}

// alone returns the tokens per second of the engine without HTTP and database.
func (b *serviceBench) alone(ctx context.Context) (float64, error) {
	prompt := b.engine.Encode(b.prompt)
	return load{engineStreams, b.lasts}.run(ctx, func(ctx context.Context, _, call int, count func(int)) error {
		p := model.Params{MaxTokens: newTokens, Temperature: 0.8, TopK: 40, TopP: 1, Seed: uint64(call)}
		_, err := model.Generate(ctx, b.engine, prompt, nil, p, func(d model.Delta) error {
			count(len(d.Tokens))
			return nil
		})
		return err
	})
}

// job returns a caller's job, with fewer tokens if the model's context is shorter.
func (b *serviceBench) job(seed, tokens int) client.JobRequest {
	chosen := uint64(seed)
	return client.JobRequest{Prompt: b.prompt, MaxNewTokens: min(tokens, b.engine.Info().Context-promptTokens), Seed: &chosen}
}

// generate submits a job and follows it to its end. It adds the time until the
// first token to first, and passes the number of tokens of each event to count.
func (b *serviceBench) generate(ctx context.Context, job client.JobRequest, first *latencies, count func(int)) error {
	begin := time.Now()
	id, err := b.user.submit(ctx, job)
	if err != nil {
		return err
	}
	waiting := true
	return b.user.follow(ctx, id, func(e client.Event) {
		if len(e.Tokens) > 0 && waiting {
			first.add(time.Since(begin))
			waiting = false
		}
		count(len(e.Tokens))
	})
}

// callers measures the service with n callers.
func (b *serviceBench) callers(ctx context.Context, n int) (serviceRow, error) {
	var first latencies
	tokS, err := load{n, b.lasts}.run(ctx, func(ctx context.Context, _, call int, count func(int)) error {
		return b.generate(ctx, b.job(call, newTokens), &first, count)
	})
	return serviceRow{Callers: n, TokS: tokS, FirstP50MS: first.percentile(0.5), FirstP99MS: first.percentile(0.99), Jobs: len(first.all)}, err
}

// many measures many requests at the same moment.
func (b *serviceBench) many(ctx context.Context, r *ServiceReport) error {
	type text struct {
		id      string
		started time.Time
	}
	texts := make([]text, b.burst)
	var tokens atomic.Int64
	begin := time.Now()
	err := together(b.burst, func(i int) error {
		id, err := b.user.submit(ctx, b.job(i, newTokens))
		if err != nil {
			return err
		}
		texts[i].id = id
		return b.user.follow(ctx, id, func(e client.Event) {
			if e.Type == "job.started" {
				texts[i].started = e.At
			}
			tokens.Add(int64(len(e.Tokens)))
		})
	})
	if err != nil {
		return fmt.Errorf("%d requests at once: %w", b.burst, err)
	}
	took := time.Since(begin)
	ids := func() (ids []string) {
		for _, t := range texts {
			ids = append(ids, t.id)
		}
		return ids
	}
	accepted := slices.Sorted(slices.Values(ids())) // ids sort in the order of acceptance
	slices.SortFunc(texts, func(a, b text) int { return a.started.Compare(b.started) })
	r.Burst = serviceBurst{Requests: b.burst, Seconds: took.Seconds(), TokS: float64(tokens.Load()) / took.Seconds()}
	if r.Burst.OutOfOrder, err = outOfOrder(ids(), accepted); err != nil {
		return err
	}
	fmt.Fprintf(b.progress, "%d requests at once: done after %.1f s, at most %d places out of order\n", b.burst, took.Seconds(), r.Burst.OutOfOrder)
	return nil
}
