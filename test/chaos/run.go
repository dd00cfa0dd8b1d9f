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
	"path/filepath"
	"sync"
	"time"

	"colophon/events"
	"colophon/internal/vault"
	"colophon/model"
)

// options say what to run, and how many faults to inject. All of them must be set but
// PGBin and Progress.
type options struct {
	Program string       // the program whose commands migrate, api and worker are run
	Engine  model.Engine // of the same model as the program's, for the undisturbed texts
	Logs    string       // directory for the logs of all processes
	PGBin   string       // directory of initdb and postgres, see pg.Options

	Jobs    int           // to submit, over the whole time
	Kills   int           // of processes; freezes, restarts and cuts are as many again and more
	For     time.Duration // over which the blows are dealt
	Workers int
	APIs    int
	Seed    uint64

	Progress func(status) // called about every second, by one goroutine
}

// status is the progress of a run.
type status struct {
	Stage    string // what it is doing
	Elapsed  time.Duration
	Jobs     int // to be submitted in all
	Accepted int
	Followed int            // seen to their end by their clients
	Blows    int            // to be dealt in all
	Dealt    map[string]int // by kind: kills, freezes, restarts, cuts
}

const (
	// restWithin is how long the service may take to end all jobs after the last blow.
	restWithin = time.Minute

	// usualDelay is the delay between Postgres and the processes, one way. It makes
	// jobs of a small model take seconds, as those of a large one do.
	usualDelay = 10 * time.Millisecond

	// usersPerRun is how many accounts share the jobs.
	usersPerRun = 8

	slots = 8 // of each worker
)

// run is a run under way.
type run struct {
	options
	dir      string // of the database
	key      string // master key, in base64
	begin    time.Time
	postgres *postgres
	members  map[string]*member
	users    []*user
	http     *http.Transport
	count    counters
	ledger   ledger
	planned  []blow

	mu    sync.Mutex
	stage string
	seen  []observation
	wrong []Violation // found during the run
}

// perform makes one run and reports on it. An error says that there is no result,
// because the run could not be made or ctx ended. Broken promises are in the
// report.
func perform(ctx context.Context, o options) (_ *Report, err error) {
	r := &run{options: o, begin: time.Now(), members: map[string]*member{}, stage: "starting"}
	r.planned = plan(o.Seed, o.Kills, o.Workers, o.APIs, o.For)
	// Nothing may hang longer than this.
	ctx, cancel := context.WithTimeoutCause(ctx, o.For*3/2+restWithin+time.Minute, errors.New("the run took too long"))
	defer cancel()
	if r.dir, err = os.MkdirTemp("/tmp", "colophon-chaos-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if err := os.Chmod(r.dir, 0o711); err != nil { // Postgres runs as another account, of root
		return nil, err
	}
	ended, reported := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reported)
		r.report(ended)
	}()
	defer func() { close(ended); <-reported }()
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.start(ctx); err != nil {
		return nil, withCause(ctx, fmt.Errorf("start the service: %w", err))
	}
	r.enter("running")
	if err := r.storm(ctx); err != nil {
		return nil, withCause(ctx, err)
	}
	r.enter("checking")
	report, err := r.check(ctx)
	if err != nil {
		return nil, withCause(ctx, err)
	}
	return report, nil
}

func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return errors.Join(cause, err)
	}
	return err
}

func (r *run) enter(stage string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stage = stage
}

// report calls Progress until the run has ended.
func (r *run) report(ended <-chan struct{}) {
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
			Stage: stage, Elapsed: time.Since(r.begin), Jobs: r.Jobs, Blows: len(r.planned), Dealt: r.ledger.counts(),
			Accepted: int(r.count.accepted.Load()), Followed: int(r.count.followed.Load()),
		})
	}
}

// violate keeps a violation that was found during the run.
func (r *run) violate(v Violation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, v)
}

// note keeps what a supervisor had to repair.
func (r *run) note(format string, args ...any) {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	r.ledger.notes = append(r.ledger.notes, time.Since(r.begin).Truncate(time.Millisecond).String()+" "+fmt.Sprintf(format, args...))
}

// start starts the database, the processes and the users.
func (r *run) start(ctx context.Context) (err error) {
	if err := os.MkdirAll(r.Logs, 0o755); err != nil {
		return err
	}
	key := make([]byte, vault.MasterKeySize)
	_, _ = rand.Read(key) // never fails
	r.key = base64.StdEncoding.EncodeToString(key)
	if r.postgres, err = startPostgres(ctx, r.dir, r.PGBin); err != nil {
		return err
	}
	if err := r.migrate(ctx); err != nil {
		return err
	}
	socket, err := r.postgres.socket()
	if err != nil {
		return err
	}
	env := []string{"COLOPHON_MASTER_KEY=" + r.key, "COLOPHON_DATA=" + r.dir}
	for i := range r.APIs {
		args := []string{"api", "--listen", "127.0.0.1:0", "--no-rate-limits"}
		if err := r.join(ctx, fmt.Sprintf("api-%d", i+1), args, env, socket); err != nil {
			return err
		}
	}
	for i := range r.Workers {
		args := []string{"worker", fmt.Sprintf("--slots=%d", slots)}
		if err := r.join(ctx, fmt.Sprintf("worker-%d", i+1), args, env, socket); err != nil {
			return err
		}
	}
	var bases []string
	for i := range r.APIs {
		bases = append(bases, "http://"+r.members[fmt.Sprintf("api-%d", i+1)].clients.Addr())
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

// migrate makes the schema and adds the instruments.
func (r *run) migrate(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, r.Program, "migrate")
	cmd.Env = []string{"DATABASE_URL=" + r.postgres.cluster.URL()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w: %s", err, out)
	}
	if _, err := r.postgres.pool.Exec(ctx, instruments); err != nil {
		return fmt.Errorf("put the instruments in: %w", err)
	}
	return nil
}

// join starts a member.
func (r *run) join(ctx context.Context, name string, args, env []string, socket string) error {
	m, err := newMember(ctx, name, r.Program, r.Logs, args, env, socket)
	r.members[name] = m
	if err != nil {
		return err
	}
	m.note, m.violate = r.note, r.violate
	m.database.Delay(usualDelay)
	return m.start(ctx)
}

// close ends everything that start started.
func (r *run) close() error {
	var wg sync.WaitGroup
	for _, m := range r.members {
		wg.Go(m.close)
	}
	wg.Wait()
	if r.http != nil {
		r.http.CloseIdleConnections()
	}
	if r.postgres == nil {
		return nil
	}
	err := r.postgres.close()
	// Its last two logs: each start begins a new one.
	for _, name := range []string{"log.1", "log"} {
		text, _ := os.ReadFile(filepath.Join(r.dir, "postgres", name)) // there may be only one
		err = errors.Join(err, os.WriteFile(filepath.Join(r.Logs, "postgres."+name), text, 0o600))
	}
	return err
}

// open returns a store over the service's database.
func (r *run) open() (*events.Store, error) {
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
