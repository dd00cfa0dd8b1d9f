package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"colophon/api"
	"colophon/events/ledger"
	"colophon/internal/database"
	"colophon/internal/datadir"
	"colophon/internal/httpd"
	"colophon/internal/install"
	"colophon/internal/limit"
	"colophon/internal/policy"
	"colophon/internal/webhook"
	"colophon/jobs"
	"colophon/model"
	"colophon/model/catalog"
)

type upCmd struct {
	processFlags
	listenFlags `group:"HTTP:" set:"rate_limits=memory"`
	workFlags
	installFlags
}

type installFlags struct {
	InstallPostgres bool `help:"Install PostgreSQL with the package manager of the system if this machine lacks it. The commands are shown first. Without the flag, up asks on a terminal ($COLOPHON_INSTALL_POSTGRES)."`
}

type apiCmd struct {
	processFlags
	listenFlags `group:"HTTP:" set:"rate_limits=shared"` // shared, because several api processes may serve the same clients
}

type workerCmd struct {
	processFlags
	workFlags
}

// processFlags are the flags of every process of the service.
type processFlags struct {
	databaseFlags `group:"Database:"`
	modelFlags    `group:"Model:"`
	policyFlags
	webhookFlags `group:"Webhooks:"`
	retentionFlags
	adminFlags
	stopFlags
	productionFlags
}

type policyFlags struct {
	Policy string `placeholder:"FILE" help:"File of a text policy that replaces the built-in one. Each line is name NAME, word WORD, remove CHARACTERS or a # comment. The file is read again when it changes, and on SIGHUP ($COLOPHON_POLICY)."`
}

// webhookFlags say which receivers of webhooks are allowed. Processes that serve HTTP check the
// URLs of new webhooks, and workers check again when they send.
type webhookFlags struct {
	WebhookHTTP    bool `help:"Allow http URLs of webhooks, whose messages everybody on the way can read ($COLOPHON_WEBHOOK_HTTP)."`
	WebhookPrivate bool `help:"Allow webhooks to loopback addresses and private networks, which lets every user send requests to services there ($COLOPHON_WEBHOOK_PRIVATE)."`
}

func (f *webhookFlags) receivers() webhook.Policy {
	return webhook.Policy{HTTP: f.WebhookHTTP, Private: f.WebhookPrivate}
}

// faults names the flags that are insecure in production.
func (f *webhookFlags) faults() (faults []string) {
	if f.WebhookHTTP {
		faults = append(faults, "--webhook-http: messages are sent without encryption: use https URLs")
	}
	if f.WebhookPrivate {
		faults = append(faults, "--webhook-private: users reach services in private networks: use receivers with public addresses")
	}
	return faults
}

type stopFlags struct {
	Grace grace `default:"20s" help:"Time that a stopping process may take to finish; a second signal ends it at once ($COLOPHON_GRACE)."`
}

type workFlags struct {
	Slots slots `default:"8" help:"Number of jobs to run at the same time, 1 to 256 ($COLOPHON_SLOTS)."`
	prefixFlags
	Speculate    bool  `default:"true" negatable:"" help:"Guess the next tokens of a text from its earlier ones, and compute them in advance where that is faster. Texts are the same with and without; the times at which tokens come tell more about them with it ($COLOPHON_SPECULATE)."`
	WebhookSlots uint8 `group:"Webhooks:" default:"16" help:"Number of messages to webhooks to send at the same time, up to 255. With 0 this process sends none and makes no connections for them; other workers send them ($COLOPHON_WEBHOOK_SLOTS)."`
	logFlags     `group:"Log:"`
}

// slots is the value of --slots, a number of jobs from 1 to 256.
type slots int

func (s *slots) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > 256 {
		return errors.New("want a number from 1 to 256")
	}
	*s = slots(n)
	return nil
}

// grace is the value of --grace, a duration from one second to ten minutes.
type grace struct{ time.Duration }

// defaultGrace is the grace period of commands without the flag.
var defaultGrace = grace{20 * time.Second}

func (g *grace) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Second || d > 10*time.Minute {
		return errors.New("want a duration from 1s to 10m, such as 20s")
	}
	g.Duration = d
	return nil
}

// roles are the tasks of a process of the service.
type roles struct {
	listen *listenFlags // flags for HTTP; nil if the process serves no HTTP
	work   *workFlags   // flags for jobs; nil if the process runs no jobs

	// install provides the programs of a private Postgres. nil means that they must exist.
	install func(context.Context) error
}

// alone reports whether the process is the whole service.
func (r roles) alone() bool { return r.listen != nil && r.work != nil }

func (c *upCmd) roles() roles     { return roles{listen: &c.listenFlags, work: &c.workFlags} }
func (c *apiCmd) roles() roles    { return roles{listen: &c.listenFlags} }
func (c *workerCmd) roles() roles { return roles{work: &c.workFlags} }

func (c *upCmd) Run(ctx context.Context, t *terminal, known catalog.Releases, log *slog.Logger) error {
	r := c.roles()
	if c.DatabaseURL == "" {
		r.install = func(ctx context.Context) error { return c.install(ctx, t) }
	}
	return c.run(ctx, r, t, known, log)
}

// install installs PostgreSQL if it is missing and the user consents.
func (c *upCmd) install(ctx context.Context, t *terminal) error {
	// Standard output is for the line that says when the service is ready.
	err := install.New(c.options(nil).ClusterDir(), c.PGBin, t.in, t.err).Ensure(ctx, c.InstallPostgres)
	if errors.Is(err, install.ErrNoConsent) {
		err = fmt.Errorf("%w\nwith --install-postgres, `colophon up` runs the commands above", err)
	}
	return err
}

func (c *apiCmd) Run(ctx context.Context, t *terminal, known catalog.Releases, log *slog.Logger) error {
	return c.run(ctx, c.roles(), t, known, log)
}

func (c *workerCmd) Run(ctx context.Context, t *terminal, known catalog.Releases, log *slog.Logger) error {
	return c.run(ctx, c.roles(), t, known, log)
}

// run serves HTTP, runs jobs, or does both, until ctx is done or a server fails.
//
// It first checks all settings that can be checked without a database. Then it starts, in
// this order: the listeners, the database, the watcher of the policy, the worker, HTTP.
// The listeners come first, so that an address in use is found before anything is
// changed. Clients that connect while the database starts and the weights load wait in
// the listener's backlog. The parts are stopped in the opposite order. HTTP may use half
// of the grace period, and the worker may use the rest.
func (f *processFlags) run(ctx context.Context, r roles, t *terminal, known catalog.Releases, log *slog.Logger) error {
	if err := f.check(r, known, log); err != nil {
		return err
	}
	rules, err := policy.NewWatcher(f.Policy, log)
	if err != nil {
		return &usageError{fmt.Errorf("--policy: %w", err)}
	}
	var tlsSetup tlsSettings
	if r.listen != nil {
		if tlsSetup, err = r.listen.settings(f.Data, log); err != nil {
			return err
		}
	}
	signing, err := r.signing(f.Data)
	if err != nil {
		return err
	}
	defer f.onHangup(ctx, rules, tlsSetup.reload)()
	source, err := f.find(ctx, f.Data, known, t)
	if err != nil {
		return err
	}
	template := ""
	if r.listen != nil {
		if template, err = r.listen.chatTemplate(source); err != nil {
			return err
		}
	}
	var m jobs.Model
	if r.work == nil {
		// The API needs only the tokenizer. The weights would take time and memory.
		tokenizer, config, err := source.Tokenizer()
		if err != nil {
			return err
		}
		weights, err := source.WeightsDigest()
		if err != nil {
			return err
		}
		m = jobs.Model{Name: source.Name, Weights: weights, Context: config.Context, Vocab: config.Vocab, Encode: tokenizer.Encode, Decode: tokenizer.Decode}
	}
	if r.alone() && f.DatabaseURL == "" {
		release, err := datadir.Hold(f.Data, "up --listen "+r.listen.Listen)
		if err != nil {
			return err
		}
		defer release()
	}
	var e *endpoints
	if r.listen != nil {
		if e, err = r.listen.listen(ctx, tlsSetup.config, log); err != nil {
			return err
		}
		defer e.close()
	}
	admin, err := f.adminFlags.listen(ctx)
	if err != nil {
		return err
	}
	if admin != nil {
		defer admin.Close()
	}
	if r.install != nil {
		if err := r.install(ctx); err != nil {
			return err
		}
	}
	o := f.options(log)
	o.Check = func(ctx context.Context, db *database.Database) error { return f.checkDatabase(ctx, r, db) }
	// A login that may migrate is one that --production refuses. So such a process never migrates.
	return with(ctx, o, r.alone() && !f.Production, f.Grace, func(ctx context.Context, b *base) error {
		defer background(ctx, rules.Run, b.WatchReplication, f.eraseOld(b))()
		servers := httpd.NewServers(ctx, log)
		defer servers.Close()
		if admin != nil {
			servers.Serve(admin, httpd.Admin(b.metrics.Handler()))
			log.Info("serving metrics and profiles", "url", admin.URL()+"/metrics")
		}
		if r.work != nil {
			o := f.loadOptions()
			o.Sequences, o.Prefixes, o.Speculate = int(r.work.Slots), r.work.bytes(), r.work.Speculate
			engine, err := source.Load(o)
			if err != nil {
				return err
			}
			stopSigning, err := b.sign(ctx, signing)
			if err != nil {
				return err
			}
			defer stopSigning()
			sender := webhook.NewSender(f.receivers())
			defer sender.Close()
			stop, err := b.work(ctx, engine, rules.Rules, r.work, sender)
			if err != nil {
				return err
			}
			defer stop()
			info := engine.Info()
			m = jobs.Model{Name: info.Name, Weights: info.Digest(), Context: info.Context, Vocab: info.Vocab, Encode: engine.Encode, Decode: engine.Decode}
		}
		if r.listen == nil {
			fmt.Fprintf(t.out, "working with %s\n", m.Name)
			return b.await(ctx, servers, "stopping, no further jobs taken; a second signal ends the process at once")
		}
		stop, err := b.serve(ctx, servers, e, tlsSetup.challenges, m, template, rules.Rules, r.listen, f.receivers())
		if err != nil {
			return err
		}
		defer stop()
		fmt.Fprintf(t.out, "ready %s\n", e.public.URL())
		if r.alone() {
			fmt.Fprintf(t.out, quickStart, e.public.URL())
		}
		if err := b.await(ctx, servers, "stopping, no further requests accepted; a second signal ends the process at once"); err != nil {
			return err
		}
		answering, cancel := context.WithTimeout(b.expired, b.grace.Duration/2)
		defer cancel()
		if err := servers.Shutdown(answering); err != nil {
			b.log.Warn("requests not answered in time, connections closed", "err", err)
		}
		return nil
	})
}

// onHangup makes SIGHUP reload the policy file and the certificate, until ctx is done or
// stop is called. If there are no such files, SIGHUP ends the process.
func (f *policyFlags) onHangup(ctx context.Context, rules *policy.Watcher, certificate func()) (stop func()) {
	if f.Policy == "" && certificate == nil {
		return func() {}
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return background(ctx, func(ctx context.Context) {
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				rules.Reload(ctx)
				if certificate != nil {
					certificate()
				}
			}
		}
	})
}

// background runs functions until ctx is done or stop is called. stop waits until all
// functions have returned.
func background(ctx context.Context, fns ...func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, fn := range fns {
		running.Go(func() { fn(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

// await waits until a server fails or ctx is done. If a server fails, await returns the
// server's error. If ctx is done, await logs message and returns nil.
func (b *base) await(ctx context.Context, servers *httpd.Servers, message string) error {
	select {
	case err := <-servers.Failed():
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		b.log.Info(message, "cause", context.Cause(ctx), "grace", b.grace.Duration)
		return nil
	}
}

// work starts a worker. The returned function stop waits until the worker has handed over
// its jobs, but no longer than the grace period.
func (b *base) work(ctx context.Context, e model.Engine, rules func() *policy.Rules, f *workFlags, sender *webhook.Sender) (stop func(), err error) {
	var worker *jobs.Worker
	err = database.Retry(ctx, b.log, func() (err error) {
		if worker, err = jobs.NewWorker(b.Direct, b.store, e, rules, int(f.Slots), b.log); err != nil {
			return err
		}
		worker.SharePrefixes = f.SharePrefixes
		if f.WebhookSlots > 0 {
			if err := worker.Deliver(sender, int(f.WebhookSlots), b.metrics.Delivery); err != nil {
				return err
			}
		}
		return worker.Start(ctx)
	})
	if err != nil {
		return nil, err
	}
	stopPrefixes := b.watchPrefixes(context.WithoutCancel(ctx), e)
	sequencer := ledger.NewSequencer(b.Direct, b.log)
	sequencer.Grown = b.store.LogGrew
	stopSequencer := background(context.WithoutCancel(ctx), sequencer.Run)
	b.log.Info("working", "worker", worker.Name(), "model", e.Info().Name, "policy", rules().Version(), "slots", f.Slots, "webhook_slots", f.WebhookSlots)
	return func() {
		defer stopSequencer() // after the worker's last events
		defer stopPrefixes()
		ctx, cancel := context.WithTimeout(b.expired, b.grace.Duration)
		defer cancel()
		begin := time.Now()
		if err := worker.Stop(ctx); err != nil {
			b.log.Error("worker not stopped in time, its jobs continue elsewhere when their leases expire", "err", err)
			return
		}
		b.log.Info("worker stopped, its jobs handed over", "took", time.Since(begin))
	}, nil
}

// serve starts to answer HTTP requests. The returned function stop ends the background
// work for HTTP. The caller calls stop after the shutdown of the servers.
func (b *base) serve(ctx context.Context, servers *httpd.Servers, e *endpoints, challenges http.Handler, m jobs.Model, chatTemplate string, rules func() *policy.Rules, f *listenFlags, receivers webhook.Policy) (stop func(), err error) {
	accounts, err := b.accounts(ctx, f.NoRateLimits)
	if err != nil {
		return nil, err
	}
	queue, err := jobs.NewQueue(b.Pool, b.store, m, rules, f.jobLimits(), b.log)
	if err != nil {
		return nil, err
	}
	queue.Watermark = f.Watermark
	limits, err := f.rateLimits(b.Pool)
	if err != nil {
		return nil, err
	}
	o := api.Options{
		Store: b.store, Queue: queue, Detector: jobs.NewDetector(b.store, m.Encode), Model: m, ChatTemplate: chatTemplate, Auth: accounts, Ready: b.ready, Stopping: ctx, Log: b.log,
		Limits: limits, TrustedProxies: f.trusted(), CORSOrigins: f.CORSOrigins, Observe: b.metrics.Request,
		MaxStreams: int(f.MaxStreams), MaxAllStreams: maxAllStreams, Local: e.public.IsLocal(),
		Ledger: ledger.NewLog(b.Pool), PrivateLog: f.LogPrivate, Webhooks: receivers,
	}
	handler, err := api.New(o)
	if err != nil {
		return nil, err
	}
	batches, err := api.NewBatches(o)
	if err != nil {
		return nil, err
	}
	var redirect http.Handler
	if e.redirect != nil {
		if redirect, err = api.NewRedirect(o, e.public.Port(), challenges); err != nil {
			return nil, err
		}
	}
	// The background work continues after ctx is done, because the last requests still
	// need it.
	stop = background(context.WithoutCancel(ctx),
		func(ctx context.Context) { queue.Run(ctx) },
		batches.Run,
		func(ctx context.Context) { limit.RemoveOld(ctx, b.Pool, b.log) },
		func(ctx context.Context) { accounts.Run(ctx, b.log) },
	)
	servers.Serve(e.public, handler)
	if redirect != nil {
		servers.Serve(e.redirect, redirect)
		b.log.Info("redirecting HTTP to HTTPS", "url", e.redirect.URL())
	}
	return stop, nil
}
