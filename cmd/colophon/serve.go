package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"colophon/api"
	"colophon/internal/httpd"
	"colophon/internal/limit"
	"colophon/internal/policy"
	"colophon/jobs"
)

type upCmd struct {
	databaseFlags
	modelFlags
	policyFlags
	listenFlags `embed:"" set:"rate_limits=memory"`
	workFlags
	adminFlags
	stopFlags
	productionFlags
}

type apiCmd struct {
	databaseFlags
	modelFlags
	policyFlags
	listenFlags `embed:"" set:"rate_limits=shared"` // there may be several
	adminFlags
	stopFlags
	productionFlags
}

type workerCmd struct {
	databaseFlags
	modelFlags
	policyFlags
	workFlags
	adminFlags
	stopFlags
	productionFlags
}

type stopFlags struct {
	Grace grace `default:"20s" help:"How long a process that is told to stop may take to bring what it does to an end; told again, it stops at once ($COLOPHON_GRACE)."`
}

// grace is a flag: from a second to ten minutes.
type grace struct{ time.Duration }

// defaultGrace is the grace of commands that bring nothing to an end.
var defaultGrace = grace{20 * time.Second}

// UnmarshalText reads a duration.
func (g *grace) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Second || d > 10*time.Minute {
		return errors.New("the grace is a time from 1s to 10m, such as 20s")
	}
	g.Duration = d
	return nil
}

type workFlags struct {
	Slots int `default:"8" help:"How many jobs to run at once ($COLOPHON_SLOTS)."`
}

// Run serves and works in one process.
func (c *upCmd) Run(ctx context.Context, t *terminal, known catalog, log *slog.Logger) error {
	if err := c.check(known, log); err != nil {
		return err
	}
	rules, err := c.rules(log)
	if err != nil {
		return err
	}
	secured, err := c.settings(c.Data, log)
	if err != nil {
		return err
	}
	if secured.reload != nil {
		defer onHangup(ctx, secured.reload)()
	}
	source, err := c.find(ctx, c.library(c.Data, known, t))
	if err != nil {
		return err
	}
	return c.with(ctx, log, true, c.Grace, func(ctx context.Context, b *base) error {
		defer rules.watch(ctx, lookEvery)()
		f, err := c.listen(ctx, secured.config, log)
		if err != nil {
			return err
		}
		defer f.close()
		servers := httpd.NewServers(ctx, log)
		if err := c.adminFlags.serve(ctx, servers, b.metrics.Handler(), log); err != nil {
			return err
		}
		engine, err := source.engine(&c.modelFlags)
		if err != nil {
			return err
		}
		stop, err := b.work(ctx, engine, rules.now, c.Slots)
		if err != nil {
			return err
		}
		defer stop()
		m := jobs.Model{Name: engine.Info().Name, Context: engine.Info().Context, Encode: engine.Encode}
		return b.serve(ctx, servers, f, secured.challenges, m, rules.now, &c.listenFlags, t.out, true)
	})
}

// Run serves HTTP only; it needs the model's tokenizer and not its weights.
func (c *apiCmd) Run(ctx context.Context, t *terminal, known catalog, log *slog.Logger) error {
	if err := c.check(log); err != nil {
		return err
	}
	rules, err := c.rules(log)
	if err != nil {
		return err
	}
	secured, err := c.settings(c.Data, log)
	if err != nil {
		return err
	}
	if secured.reload != nil {
		defer onHangup(ctx, secured.reload)()
	}
	source, err := c.find(ctx, c.library(c.Data, known, t))
	if err != nil {
		return err
	}
	m, err := source.describe()
	if err != nil {
		return err
	}
	return c.with(ctx, log, false, c.Grace, func(ctx context.Context, b *base) error {
		defer rules.watch(ctx, lookEvery)()
		f, err := c.listen(ctx, secured.config, log)
		if err != nil {
			return err
		}
		defer f.close()
		servers := httpd.NewServers(ctx, log)
		if err := c.adminFlags.serve(ctx, servers, b.metrics.Handler(), log); err != nil {
			return err
		}
		return b.serve(ctx, servers, f, secured.challenges, m, rules.now, &c.listenFlags, t.out, false)
	})
}

// Run works until it is told to stop.
func (c *workerCmd) Run(ctx context.Context, t *terminal, known catalog, log *slog.Logger) error {
	if err := c.check(known, log); err != nil {
		return err
	}
	rules, err := c.rules(log)
	if err != nil {
		return err
	}
	source, err := c.find(ctx, c.library(c.Data, known, t))
	if err != nil {
		return err
	}
	return c.with(ctx, log, false, c.Grace, func(ctx context.Context, b *base) error {
		defer rules.watch(ctx, lookEvery)()
		engine, err := source.engine(&c.modelFlags)
		if err != nil {
			return err
		}
		stop, err := b.work(ctx, engine, rules.now, c.Slots)
		if err != nil {
			return err
		}
		defer stop()
		servers := httpd.NewServers(ctx, log)
		if err := c.adminFlags.serve(ctx, servers, b.metrics.Handler(), log); err != nil {
			return err
		}
		defer servers.Close()
		fmt.Fprintf(t.out, "working with %s\n", engine.Info().Name)
		select {
		case err := <-servers.Failed():
			return fmt.Errorf("serve: %w", err)
		case <-ctx.Done():
		}
		b.log.Info("stopping: no further job is taken up; a second signal ends the process at once", "cause", context.Cause(ctx), "grace", c.Grace.Duration)
		return nil
	})
}

// onHangup calls fn on each SIGHUP, which otherwise ends the process, until ctx is done
// or stop is called.
func onHangup(ctx context.Context, fn func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	var running sync.WaitGroup
	running.Go(func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				fn()
			}
		}
	})
	return func() { cancel(); running.Wait() }
}

type migrateCmd struct{ databaseFlags }

// Run migrates and is done.
func (c *migrateCmd) Run(ctx context.Context, t *terminal, log *slog.Logger) (err error) {
	db, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close(context.WithoutCancel(ctx))) }()
	if err := db.migrate(ctx); err != nil {
		return err
	}
	fmt.Fprintln(t.out, "the database is up to date")
	return nil
}

// work starts a worker and returns what stops it.
func (b *base) work(ctx context.Context, engine engine, rules func() *policy.Rules, slots int) (stop func(), err error) {
	var worker *jobs.Worker
	err = patiently(ctx, b.log, func() (err error) {
		if worker, err = jobs.NewWorker(b.pool, b.store, engine, rules, slots, quiet(b.log)); err != nil {
			return err
		}
		return worker.Start(ctx)
	})
	if err != nil {
		return nil, err
	}
	b.log.Info("working", "worker", worker.Name(), "model", engine.Info().Name, "policy", rules().Version(), "slots", slots)
	return func() {
		ctx, cancel := context.WithTimeout(b.last, b.grace.Duration)
		defer cancel()
		begin := time.Now()
		if err := worker.Stop(ctx); err != nil {
			b.log.Error("the worker did not stop in time; its jobs will be taken up again", "err", err)
			return
		}
		b.log.Info("the worker has stopped; what it was doing is others' now", "took", time.Since(begin))
	}, nil
}

// serve answers HTTP until ctx is done.
func (b *base) serve(ctx context.Context, servers *httpd.Servers, at *endpoints, challenges http.Handler, m jobs.Model, rules func() *policy.Rules, f *listenFlags, out io.Writer, teach bool) error {
	accounts, err := b.accounts(ctx, f.NoRateLimits)
	if err != nil {
		return err
	}
	queue, err := jobs.NewQueue(b.pool, b.store, m, rules, f.capacity(), quiet(b.log))
	if err != nil {
		return err
	}
	limits, err := f.limits(b.pool)
	if err != nil {
		return err
	}
	o := api.Options{
		Store: b.store, Queue: queue, Auth: accounts, Ready: b.pool.Ping, Stopping: ctx, Log: b.log,
		Limits: limits, TrustedProxies: f.trusted(), CORSOrigins: f.CORSOrigins, Observe: b.metrics.Request,
		MaxStreams: int(f.MaxStreams), MaxAllStreams: maxAllStreams, Local: at.public.IsLocal(),
	}
	handler, err := api.New(o)
	if err != nil {
		return err
	}
	tending, rest := context.WithCancel(context.WithoutCancel(ctx))
	var tended sync.WaitGroup
	defer tended.Wait()
	defer rest()
	tended.Go(func() { queue.Run(tending) })
	tended.Go(func() { limit.Collect(tending, b.pool, b.log) })
	tended.Go(func() { accounts.Run(tending, b.log) })
	servers.Serve(at.public, handler)
	if at.redirect != nil {
		redirect, err := api.NewRedirect(o, at.public.Port(), challenges)
		if err != nil {
			return err
		}
		servers.Serve(at.redirect, redirect)
	}
	fmt.Fprintf(out, "ready %s\n", at.public.URL())
	if teach {
		fmt.Fprintf(out, lesson, at.public.URL())
	}
	select {
	case err := <-servers.Failed():
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	b.log.Info("stopping: no further request is accepted; a second signal ends the process at once", "cause", context.Cause(ctx), "grace", b.grace.Duration)
	// A worker in this process stops after this, and needs time as well.
	answering, cancel := context.WithTimeout(b.last, b.grace.Duration/2)
	defer cancel()
	if err := servers.Shutdown(answering); err != nil {
		b.log.Warn("some requests were not answered in time; their connections are cut", "err", err)
	}
	return nil
}

// lesson is what `up` prints to begin with.
const lesson = `
Open %[1]s in a browser, read %[1]s/docs, or paste this:

  base=%[1]s
  curl -s $base/users -H 'Content-Type: application/json' -d '{"username":"isaac","password":"opticks-1704"}'
  access=$(curl -s $base/token -d username=isaac -d password=opticks-1704 | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  curl -s $base/generate -H "Authorization: Bearer $access" -H 'Content-Type: application/json' -d '{"prompt":"The nature of light"}'
  curl -s $base/history -H "Authorization: Bearer $access"

`
