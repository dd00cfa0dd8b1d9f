package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"colophon/internal/pg"
	"colophon/model"
	"colophon/model/catalog"
	"colophon/model/gpt2"
	"colophon/model/kernel"
)

type benchServiceCmd struct {
	Model    string        `help:"The built-in model opticks, or a directory in the Hugging Face layout of GPT-2; without it, random weights in the shape of the published one ($COLOPHON_MODEL)."`
	Weights  kernel.Format `default:"f16" help:"How the engine keeps the weights: f32, f16 or int8 ($COLOPHON_WEIGHTS)."`
	PGBin    string        `name:"pg-bin" var:"PGBIN" type:"path" help:"Directory of initdb and postgres ($PGBIN)."`
	Quick    bool          `help:"Shorter runs, for a first look ($COLOPHON_QUICK)."`
	JSON     bool          `name:"json" xor:"format" help:"Print JSON."`
	Markdown bool          `xor:"format" help:"Print Markdown."`
}

// The work: what each caller asks for, over and over.
const (
	benchPromptTokens = 32
	benchNewTokens    = 64
	benchStreams      = 8   // callers that the engine alone has
	historyRecords    = 100 // that GET /history returns
	watchTokens       = 800 // of the texts that many follow
)

// benchService measures one service, in a process of its own, and one engine,
// in this one. At no time do both have something to do.
type benchService struct {
	engine *gpt2.Engine
	server *benchServer
	client *benchClient
	prompt string
	err    io.Writer

	lasts    time.Duration // of a run
	burst    int           // requests at once
	watchers int
}

// Run prints the report; what is under way goes to standard error. All that it
// starts and writes is gone when it returns.
func (c *benchServiceCmd) Run(ctx context.Context, t *terminal) (err error) {
	dir, err := os.MkdirTemp("", "colophon-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another user
		return err
	}
	name := c.Model
	if c.Model == "" {
		name = "random weights in the shape of GPT-2 124M"
		fmt.Fprintln(t.err, "write", name)
		c.Model = filepath.Join(dir, "gpt2")
		if err := errors.Join(os.Mkdir(c.Model, 0o755), gpt2.WriteRandom(c.Model, 1)); err != nil {
			return err
		}
	}
	source, err := catalog.Find(c.Model)
	if err != nil {
		return asUsage(err)
	}
	engine, err := gpt2.Load(source.Files, gpt2.Options{Weights: c.Weights, Sequences: benchStreams})
	if err != nil {
		return fmt.Errorf("load model %s: %w", c.Model, err)
	}
	defer engine.Close()
	cluster, err := pg.Start(ctx, filepath.Join(dir, "postgres"), pg.Options{Bin: c.PGBin})
	if err != nil {
		return fmt.Errorf("start Postgres: %w", err)
	}
	defer func() { err = errors.Join(err, cluster.Stop(context.WithoutCancel(ctx))) }()
	server, err := c.serve(ctx, dir, cluster.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	b := &benchService{engine: engine, server: server, prompt: madeUpPrompt(engine.Encode), err: t.err,
		lasts: 10 * time.Second, burst: 200, watchers: 1000}
	if c.Quick {
		b.lasts, b.burst, b.watchers = time.Second, 40, 100
	}
	if b.client, err = newBenchClient(ctx, server.url, b.watchers+b.burst); err != nil {
		return err
	}
	r, err := b.run(ctx, cluster.URL())
	if err != nil {
		return err
	}
	r.Machine = serviceMachine{CPU: cpuName(), Threads: runtime.GOMAXPROCS(0), Go: fmt.Sprintf("%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)}
	r.Model, r.Weights = name, c.Weights.String()
	switch {
	case c.JSON:
		return json.NewEncoder(t.out).Encode(r)
	case c.Markdown:
		return r.markdown(t.out)
	}
	return r.text(t.out)
}

// madeUpPrompt returns a text of benchPromptTokens tokens.
func madeUpPrompt(encode func(string) []int) string {
	rnd := rand.New(rand.NewPCG(1, 2))
	text := ""
	for len(encode(text)) < benchPromptTokens {
		const letters = "abcdefghijklmnopqrstuvwxyz      "
		text += string(letters[rnd.IntN(len(letters))])
	}
	return text
}

// A benchServer is a running `colophon up`.
type benchServer struct {
	url string
	cmd *exec.Cmd
	log string // the name of its file
}

// serve starts this program as a service.
func (c *benchServiceCmd) serve(ctx context.Context, dir, database string) (*benchServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program to start it again: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &benchServer{log: log.Name()}
	// Not ctx, which would kill it: stop lets it end as any other.
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), self, "up", "--model", c.Model, "--weights", c.Weights.String(),
		"--listen", "127.0.0.1:0", "--no-rate-limits", "--max-streams", "0", "--data", filepath.Join(dir, "data"))
	s.cmd.Env = append(os.Environ(), "DATABASE_URL="+database)
	s.cmd.Stderr = log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			s.url = url
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return s, nil
		}
	}
	return nil, errors.Join(errors.New("the service did not start"), s.stop())
}

// stop ends the service and returns an error, with the end of its log, unless
// it ended well.
func (s *benchServer) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	err := s.cmd.Wait()
	if err == nil {
		return nil
	}
	const most = 2 << 10
	log, _ := os.ReadFile(s.log)
	return fmt.Errorf("the service ended with %w:\n%s", err, log[max(0, len(log)-most):])
}

// run measures everything.
func (b *benchService) run(ctx context.Context, database string) (*serviceReport, error) {
	r := &serviceReport{}
	// The engine alone before and after, as the machine is not the same twice.
	for range 2 {
		if err := b.throughput(ctx, r); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context, *serviceReport) error{
		b.many,
		func(ctx context.Context, r *serviceReport) error { return b.watch(ctx, r, database) },
		b.calls,
	} {
		if err := step(ctx, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// throughput measures the engine alone and then the service with 8 and with 16
// callers.
func (b *benchService) throughput(ctx context.Context, r *serviceReport) error {
	alone, err := b.alone(ctx)
	if err != nil {
		return fmt.Errorf("the engine alone: %w", err)
	}
	r.Alone = append(r.Alone, alone)
	fmt.Fprintf(b.err, "the engine alone: %.0f tokens/s\n", alone)
	for _, callers := range []int{benchStreams, 2 * benchStreams} {
		row, err := b.callers(ctx, callers)
		if err != nil {
			return fmt.Errorf("%d callers: %w", callers, err)
		}
		row.Share = row.TokS / alone
		r.Rows = append(r.Rows, row)
		fmt.Fprintf(b.err, "%d callers: %.0f tokens/s, %.0f %% of the engine alone, first token after %.0f ms (median)\n", callers, row.TokS, 100*row.Share, row.FirstP50MS)
	}
	return nil
}

// alone measures the engine without HTTP and database.
func (b *benchService) alone(ctx context.Context) (float64, error) {
	prompt := b.engine.Encode(b.prompt)
	return load{benchStreams, b.lasts}.run(ctx, func(ctx context.Context, _, call int, count func(int)) error {
		p := model.Params{MaxTokens: benchNewTokens, Temperature: 0.8, TopK: 40, TopP: 1, Seed: uint64(call)}
		_, err := model.Generate(ctx, b.engine, prompt, nil, p, func(d model.Delta) error {
			count(len(d.Tokens))
			return nil
		})
		return err
	})
}

// job returns what a caller asks for: as many tokens as there is room for.
func (b *benchService) job(seed, tokens int) benchJob {
	return benchJob{Prompt: b.prompt, MaxNewTokens: min(tokens, b.engine.Info().Context-benchPromptTokens), Seed: uint64(seed)}
}

// generate asks for a text and follows it to its end.
func (b *benchService) generate(ctx context.Context, job benchJob, first *latencies, count func(int)) error {
	begin := time.Now()
	id, err := b.client.submit(ctx, job)
	if err != nil {
		return err
	}
	waiting := true
	return b.client.follow(ctx, id, func(e benchEvent) {
		if len(e.Tokens) > 0 && waiting {
			first.add(time.Since(begin))
			waiting = false
		}
		count(len(e.Tokens))
	})
}

// callers measures the service.
func (b *benchService) callers(ctx context.Context, n int) (serviceRow, error) {
	var first latencies
	tokS, err := load{n, b.lasts}.run(ctx, func(ctx context.Context, _, call int, count func(int)) error {
		return b.generate(ctx, b.job(call, benchNewTokens), &first, count)
	})
	return serviceRow{Callers: n, TokS: tokS, FirstP50MS: first.percentile(0.5), FirstP99MS: first.percentile(0.99), Jobs: len(first.all)}, err
}

// many sends many requests at once.
func (b *benchService) many(ctx context.Context, r *serviceReport) error {
	type text struct {
		id      string
		started time.Time
	}
	texts := make([]text, b.burst)
	var tokens atomic.Int64
	begin := time.Now()
	err := together(b.burst, func(i int) error {
		id, err := b.client.submit(ctx, b.job(i, benchNewTokens))
		if err != nil {
			return err
		}
		texts[i].id = id
		return b.client.follow(ctx, id, func(e benchEvent) {
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
	accepted := slices.Sorted(slices.Values(ids())) // ids have the order of acceptance
	slices.SortFunc(texts, func(a, b text) int { return a.started.Compare(b.started) })
	r.Burst = serviceBurst{Requests: b.burst, Seconds: took.Seconds(), TokS: float64(tokens.Load()) / took.Seconds()}
	if r.Burst.OutOfOrder, err = outOfOrder(ids(), accepted); err != nil {
		return err
	}
	fmt.Fprintf(b.err, "%d requests at once: done after %.1f s, at most %d places out of order\n", b.burst, took.Seconds(), r.Burst.OutOfOrder)
	return nil
}
