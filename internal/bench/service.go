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

// ServiceOptions are the options of Service.
type ServiceOptions struct {
	Model    Model
	Weights  kernel.Format
	Quick    bool      // makes the runs shorter
	PGBin    string    // directory of initdb and postgres; if empty, Service searches for it
	Progress io.Writer // receives a line for each step
}

// Setup is the environment of the measured service. Service removes it afterwards.
type Setup struct {
	Model    string // the value of `colophon up --model`
	Database string // URL of an empty database
	Data     string // data directory, which does not exist yet
}

// These constants set the size of the work.
const (
	promptTokens   = 32  // tokens of the prompt in a caller's job
	newTokens      = 64  // new tokens of a caller's job
	engineStreams  = 8   // concurrent sequences when the engine is measured alone
	historyRecords = 100 // records in a response of GET /history
	watchTokens    = 800 // tokens of a text that many clients follow
)

// serviceBench measures one service in a process of its own, and one engine in this
// process. The service and the engine never work at the same time.
type serviceBench struct {
	engine   *gpt2.Engine
	server   *server
	database string // URL of the service's database
	user     user
	prompt   string
	progress io.Writer

	duration  time.Duration // duration of a load
	burstSize int           // concurrent requests of a burst
	watchers  int           // number of clients that follow jobs
}

// Service measures a service and the engine that it uses. up returns a command that
// runs the service without limits, on a free port of the loopback. The command prints a
// line with "ready" and the service's URL. On SIGTERM, the command ends without an
// error.
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
	// If up got ctx itself, the end of ctx would kill the service before stop ends it.
	server, err := serve(up(context.WithoutCancel(ctx), setup), filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	b := &serviceBench{engine: engine, server: server, database: cluster.URL(), prompt: arbitraryPrompt(engine.Encode), progress: o.Progress,
		duration: 10 * time.Second, burstSize: 200, watchers: 1000}
	if o.Quick {
		b.duration, b.burstSize, b.watchers = time.Second, 40, 100
	}
	if b.user, err = newUser(ctx, server.url, b.watchers+b.burstSize); err != nil {
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

// run makes all measurements.
func (b *serviceBench) run(ctx context.Context, r *ServiceReport) error {
	// There are two rounds, because the machine's speed varies. Each round also
	// measures the engine alone.
	for range 2 {
		if err := b.throughput(ctx, r); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context, *ServiceReport) error{b.burst, b.watch, b.calls} {
		if err := step(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// throughput first measures the engine alone. Then it measures the service with 8
// callers and with 16 callers.
func (b *serviceBench) throughput(ctx context.Context, r *ServiceReport) error {
	alone, err := b.alone(ctx)
	if err != nil {
		return fmt.Errorf("measure the engine alone: %w", err)
	}
	r.Alone = append(r.Alone, alone)
	fmt.Fprintf(b.progress, "the engine alone: %.0f tokens/s\n", alone)
	for _, callers := range []int{engineStreams, 2 * engineStreams} {
		row, err := b.callers(ctx, callers)
		if err != nil {
			return fmt.Errorf("measure %d callers: %w", callers, err)
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
	return load{engineStreams, b.duration}.run(ctx, func(ctx context.Context, _, call int, count func(int)) error {
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

// generate submits a job and follows it to its end. It adds the time until the first
// token to first, and passes each event's number of tokens to count.
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
	tokS, err := load{n, b.duration}.run(ctx, func(ctx context.Context, _, call int, count func(int)) error {
		return b.generate(ctx, b.job(call, newTokens), &first, count)
	})
	return serviceRow{Callers: n, TokS: tokS, FirstP50MS: first.percentile(0.5), FirstP99MS: first.percentile(0.99), Jobs: len(first.all)}, err
}

// burst measures many concurrent requests.
func (b *serviceBench) burst(ctx context.Context, r *ServiceReport) error {
	type text struct {
		id      string
		started time.Time
	}
	texts := make([]text, b.burstSize)
	var tokens atomic.Int64
	begin := time.Now()
	err := together(b.burstSize, func(i int) error {
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
		return fmt.Errorf("measure %d concurrent requests: %w", b.burstSize, err)
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
	r.Burst = serviceBurst{Requests: b.burstSize, Seconds: took.Seconds(), TokS: float64(tokens.Load()) / took.Seconds()}
	if r.Burst.OutOfOrder, err = outOfOrder(ids(), accepted); err != nil {
		return err
	}
	fmt.Fprintf(b.progress, "%d concurrent requests: done after %.1f s, at most %d positions out of order\n", b.burstSize, took.Seconds(), r.Burst.OutOfOrder)
	return nil
}
