package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"

	"colophon/events"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/model"
)

// options configure a run. Only PGBin and Progress may be zero.
type options struct {
	Program string       // path of the program
	Purego  string       // path of the program with portable Go instead of assembly
	Engine  model.Engine // generates the expected texts; has the same model as the workers
	Logs    string       // directory for the logs of all processes
	PGBin   string       // directory of initdb and postgres, see pg.Options

	Jobs    int           // number of jobs to submit
	Kills   int           // number of kills; plan adds the other faults
	For     time.Duration // duration of the fault injection
	Workers int
	APIs    int
	Seed    uint64

	Progress func(status) // called about every second, by one goroutine
}

// status is the progress of a run.
type status struct {
	Stage    string
	Elapsed  time.Duration
	Jobs     int // number of jobs to submit
	Accepted int
	Followed int            // jobs that a client has followed to the end
	Faults   int            // number of planned faults
	Injected map[string]int // faults so far by kind
}

const (
	// settleTimeout bounds the time from the last fault to the end of all jobs.
	settleTimeout = time.Minute

	// usualDelay is the one-way delay between Postgres and the processes. It makes jobs
	// of the small model take seconds, as with a large model.
	usualDelay = 10 * time.Millisecond

	// usersPerRun is the number of accounts that share the jobs.
	usersPerRun = 8

	slots = 8 // jobs that a worker runs at a time
)

// run is the state of one run.
type run struct {
	options
	dir      string // directory of the private Postgres servers
	key      string // master key, in base64
	begin    time.Time
	postgres *postgres
	nodes    map[string]*node
	stranger *node
	pooler   *pooler   // nil if no process is behind a pooler
	classes  [2]string // kernel classes of the builds; empty if unknown

	reference *reference // nil if all workers have the released build
	users     []*user
	http      *http.Transport
	count     counters
	faultLog  faultLog
	planned   []fault

	mu         sync.Mutex
	stage      string
	seen       []observation
	violations []Violation    // found during the run
	altered    map[string]int // version of the event that a fault has altered, by job id
}

// perform makes one run and returns its report, which contains the violations. An error
// means that the run did not complete.
func perform(ctx context.Context, o options) (_ *Report, err error) {
	r := &run{options: o, begin: time.Now(), nodes: map[string]*node{}, altered: map[string]int{}, stage: "starting"}
	r.classes[released] = o.Engine.Info().Kernel
	r.planned = plan(o.Seed, o.Kills, o.Workers, o.APIs, o.For)
	ctx, cancel := context.WithTimeoutCause(ctx, o.For*3/2+settleTimeout+time.Minute, errors.New("the run took too long"))
	defer cancel()
	if r.dir, err = os.MkdirTemp("/tmp", "colophon-chaos-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if err := os.Chmod(r.dir, 0o711); err != nil { // if root starts Postgres, the server runs under another account
		return nil, err
	}
	ended, reported := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reported)
		r.reportProgress(ended)
	}()
	defer func() { close(ended); <-reported }()
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.start(ctx); err != nil {
		return nil, withCause(ctx, fmt.Errorf("start the service: %w", err))
	}
	r.setStage("running")
	if err := r.injectFaults(ctx); err != nil {
		return nil, withCause(ctx, err)
	}
	r.setStage("checking")
	report, err := r.check(ctx)
	if err != nil {
		return nil, withCause(ctx, err)
	}
	return report, nil
}

// withCause joins err with the reason why ctx ended.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return errors.Join(cause, err)
	}
	return err
}

func (r *run) setStage(stage string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stage = stage
}

// reportProgress calls Progress every second until ended is closed.
func (r *run) reportProgress(ended <-chan struct{}) {
	if r.Progress == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		r.mu.Lock()
		stage := r.stage
		r.mu.Unlock()
		r.Progress(status{
			Stage: stage, Elapsed: time.Since(r.begin), Jobs: r.Jobs, Faults: len(r.planned), Injected: r.faultLog.counts(),
			Accepted: int(r.count.accepted.Load()), Followed: int(r.count.followed.Load()),
		})
	}
}

// addViolation adds a violation that was found during the run.
func (r *run) addViolation(v Violation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, v)
}

// note adds a note with the time since the start of the run.
func (r *run) note(format string, args ...any) {
	r.faultLog.mu.Lock()
	defer r.faultLog.mu.Unlock()
	r.faultLog.notes = append(r.faultLog.notes, time.Since(r.begin).Truncate(time.Millisecond).String()+" "+fmt.Sprintf(format, args...))
}

// start starts Postgres and the nodes, and registers the users.
func (r *run) start(ctx context.Context) (err error) {
	if err := os.MkdirAll(r.Logs, 0o755); err != nil {
		return err
	}
	if r.Workers > 1 {
		if r.reference, err = startReference(r.Purego, r.dir, r.PGBin, r.Logs); err != nil {
			return err
		}
	}
	r.key = newMasterKey()
	if r.postgres, err = startPostgres(ctx, r.dir, r.PGBin, r.Logs); err != nil {
		return err
	}
	if err := r.migrate(ctx); err != nil {
		return err
	}
	if err := r.addPooler(ctx); err != nil {
		return err
	}
	sockets, err := r.postgres.sockets()
	if err != nil {
		return err
	}
	env := []string{"COLOPHON_MASTER_KEY=" + r.key, "COLOPHON_DATA=" + r.dir}
	for i := range r.APIs {
		args := []string{"api", "--listen", "127.0.0.1:0", "--no-rate-limits"}
		if err := r.addNode(ctx, "api", i+1, args, env, sockets); err != nil {
			return err
		}
	}
	args := []string{"worker", fmt.Sprintf("--slots=%d", slots)}
	for i := range r.Workers {
		if err := r.addNode(ctx, "worker", i+1, args, env, sockets); err != nil {
			return err
		}
		if buildOf(i+1) == portable {
			r.nodes[fmt.Sprintf("worker-%d", i+1)].path = r.Purego
		}
	}
	env = []string{"COLOPHON_MASTER_KEY=" + newMasterKey(), "COLOPHON_DATA=" + r.dir}
	if r.stranger, err = r.newNode(ctx, stranger, args, env, sockets); err != nil {
		return err
	}
	if err := r.startNodes(ctx); err != nil {
		return err
	}
	var bases []string
	for i := range r.APIs {
		bases = append(bases, "http://"+r.nodes[fmt.Sprintf("api-%d", i+1)].clients[0].Addr())
	}
	r.http = &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}
	for i := range usersPerRun {
		u, err := newUser(ctx, fmt.Sprintf("user-%d", i+1), bases, r.http, &r.count)
		if err != nil {
			return err
		}
		r.users = append(r.users, u)
	}
	return nil
}

// migrate creates the schema and the triggers, and prepares the database for changes of
// its clock.
func (r *run) migrate(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, r.Program, "migrate")
	cmd.Env = []string{"DATABASE_URL=" + r.postgres.clusters[r.postgres.primary].URL()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w: %s", err, out)
	}
	if _, err := r.postgres.pool.Exec(ctx, triggers); err != nil {
		return fmt.Errorf("create the triggers: %w", err)
	}
	if err := pgtest.SetClock(ctx, r.postgres.pool, 0); err != nil { // must run before the service connects
		return err
	}
	return nil
}

// addNode adds a node to the run. It does not start the node's process.
func (r *run) addNode(ctx context.Context, kind string, number int, args, env []string, sockets [2]string) error {
	n, err := r.newNode(ctx, fmt.Sprintf("%s-%d", kind, number), args, env, sockets)
	if err != nil {
		return err
	}
	r.nodes[n.name] = n
	if r.pooler != nil && behindPooler(number) {
		n.pooler, err = n.addDatabase(ctx, r.pooler.socket())
	}
	return err
}

func (r *run) newNode(ctx context.Context, name string, args, env []string, sockets [2]string) (*node, error) {
	n, err := newNode(ctx, name, r.Program, r.Logs, args, env, sockets)
	if err == nil {
		n.note, n.addViolation = r.note, r.addViolation
	}
	return n, err
}

// startNodes starts the processes of all nodes.
func (r *run) startNodes(ctx context.Context) error {
	errs := make(chan error, len(r.nodes))
	for _, n := range r.nodes {
		go func() { errs <- n.start(ctx) }()
	}
	var err error
	for range r.nodes {
		err = errors.Join(err, <-errs)
	}
	return err
}

// close ends all processes of the run.
func (r *run) close() error {
	var wg sync.WaitGroup
	for _, n := range r.nodes {
		wg.Go(n.close)
	}
	if r.stranger != nil {
		wg.Go(r.stranger.close)
	}
	wg.Wait()
	if r.http != nil {
		r.http.CloseIdleConnections()
	}
	if r.pooler != nil {
		r.pooler.close()
	}
	var errs []error
	if r.reference != nil {
		errs = append(errs, r.reference.close())
	}
	if r.postgres != nil {
		errs = append(errs, r.postgres.close())
	}
	return errors.Join(errs...)
}

func newMasterKey() string {
	key := make([]byte, vault.MasterKeySize)
	_, _ = rand.Read(key) // rand.Read never fails
	return base64.StdEncoding.EncodeToString(key)
}

// openStore returns a store over the service's database.
func (r *run) openStore() (*events.Store, error) {
	key, err := base64.StdEncoding.DecodeString(r.key)
	if err != nil {
		return nil, err
	}
	v, err := vault.New(key)
	if err != nil {
		return nil, err
	}
	return events.NewStore(r.postgres.pool, v, slog.New(slog.DiscardHandler)), nil
}
