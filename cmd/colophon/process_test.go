package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"colophon/internal/pg"
	"colophon/internal/pg/pgtest"
	"colophon/model/gpt2"
	"colophon/model/opticks"
)

// asProgram makes this test binary the program itself, in the processes that
// tests start.
const asProgram = "COLOPHON_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		go func() { // not to outlive the test, whatever ends that
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(3)
		}()
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a running command of the program.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string // of one that serves
	worker string // the name of one that works

	mu    sync.Mutex
	log   bytes.Buffer
	ended chan struct{}
}

var workerName = regexp.MustCompile(`msg=working worker=(\S+)`)

// start runs a command until the test ends, and returns once it serves or works.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(exe, args...), ended: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p
	if _, err := p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.ended
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("log of %s:\n%.20000s", strings.Join(args, " "), p.log.String())
		}
	})
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if at, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
				p.url = at
				close(ready)
			} else if strings.HasPrefix(lines.Text(), "working ") {
				close(ready)
			}
		}
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	select {
	case <-ready:
	case <-p.ended:
		t.Fatalf("%v ended at its start", args)
	case <-time.After(time.Minute):
		t.Fatalf("%v did not start", args)
	}
	if args[0] == "worker" {
		p.worker = workerName.FindStringSubmatch(p.logged("msg=working"))[1]
	}
	return p
}

// logged waits until the log has a text, and returns the log.
func (p *process) logged(text string) (log string) {
	p.t.Helper()
	eventually(p.t, "the log says "+text, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		log = p.log.String()
		return strings.Contains(log, text)
	})
	return log
}

// Write takes the log.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// exit waits for the process's end and returns its status, -1 for a signal.
func (p *process) exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("%v still runs after %s", p.cmd.Args[1:], within)
		return 0
	}
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// postgres is a Postgres that a test may restart.
type postgres struct {
	t       *testing.T
	dir     string
	cluster *pg.Cluster
}

func newPostgres(t *testing.T) *postgres {
	t.Helper()
	p := &postgres{t: t, dir: filepath.Join(pgtest.Dir(t), "postgres")}
	p.start()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *postgres) start() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if p.cluster, err = pg.Start(ctx, p.dir, pg.Options{Bin: os.Getenv("PGBIN")}); err != nil {
		p.t.Fatal(err)
	}
}

// stop disconnects everybody and leaves everything on disk.
func (p *postgres) stop() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.cluster.Stop(ctx); err != nil {
		p.t.Error(err)
	}
}

// crash ends it as a crash would: the next start recovers.
func (p *postgres) crash() {
	p.t.Helper()
	for _, pid := range p.pids()[:1] {
		_ = syscall.Kill(pid, syscall.SIGQUIT)
	}
	<-p.cluster.Exited()
}

// pids are the server's processes, itself first.
func (p *postgres) pids() []int {
	p.t.Helper()
	file, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err != nil {
		p.t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(file), "\n")
	first, err := strconv.Atoi(line)
	if err != nil {
		p.t.Fatal(err)
	}
	pids := []int{first}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", first, first))
	for field := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// members are the processes of one service over one Postgres.
type members struct {
	t   *testing.T
	pg  *postgres
	env []string
}

// newMembers prepares a service with a model that takes its time.
func newMembers(t *testing.T) *members {
	t.Helper()
	m := &members{t: t, pg: newPostgres(t)}
	m.env = []string{
		"DATABASE_URL=" + m.pg.cluster.URL(),
		"COLOPHON_DATA=" + t.TempDir(),
		"COLOPHON_MODEL=" + deepModel(t),
	}
	var log bytes.Buffer
	env := func(name string) (string, bool) {
		for _, e := range m.env {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
	if err := run(t.Context(), []string{"migrate"}, env, strings.NewReader(""), &log, &log); err != nil {
		t.Fatalf("migrate: %v\n%s", err, log.String())
	}
	return m
}

// query asks Postgres, as its owner.
func (m *members) query(sql string, results ...any) {
	m.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, m.pg.cluster.URL())
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql).Scan(results...); err != nil {
		m.t.Fatalf("%s: %v", sql, err)
	}
}

func (m *members) api() *process {
	return start(m.t, m.env, "api", "--listen", "127.0.0.1:0", "--no-rate-limits")
}

func (m *members) worker() *process { return start(m.t, m.env, "worker") }

// client registers a user and signs in.
func (m *members) client(p *process, name string) client {
	return newUser(m.t, &service{url: p.url}, name)
}

// long is a job of at least a second.
func long(seed int) string { return sized(seed, 500) }

func sized(seed, tokens int) string {
	return fmt.Sprintf(`{"prompt":"The nature of light","max_new_tokens":%d,"temperature":1.5,"top_k":0,"seed":%d}`, tokens, seed)
}

// undisturbed returns the texts of jobs that nothing happens to.
func undisturbed(c client, bodies ...string) map[string]string {
	c.T.Helper()
	texts := map[string]string{}
	ids := map[string]string{}
	for _, body := range bodies {
		ids[body] = c.Submit(body)
	}
	for body, id := range ids {
		texts[body] = c.end(id).Completion
	}
	return texts
}

// end polls a job until it has ended, whatever happens to the service meanwhile.
func (c client) end(id string) job {
	c.T.Helper()
	var j job
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		a := c.Do("GET", "/jobs/"+id, "")
		if a.Status == 503 {
			continue
		}
		a.Must(c.T, 200).Into(c.T, &j)
		switch j.State {
		case "completed", "failed", "cancelled":
			return j
		}
	}
	c.T.Fatalf("job %s is still %s", id, j.State)
	return j
}

// told is an event as the tests look at it.
type told struct {
	Version   int
	Type      string
	Worker    string
	FromToken int `json:"from_token"`
	Attempt   int
	Tokens    []int
	at        time.Time // when it was heard
}

// watch follows a job to its end and sends what it hears.
func (c client) watch(id string) <-chan told {
	heard := make(chan told, 1000)
	stream := c.Stream(c.T.Context(), "/jobs/"+id+"/events")
	go func() {
		defer close(heard)
		for m, err := range stream {
			if err != nil || m.Data == "" {
				continue // what is waited for does not come
			}
			e := told{at: time.Now()}
			if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
				c.T.Errorf("event %q: %v", m.Data, err)
			}
			heard <- e
		}
	}()
	return heard
}

// next returns the first event that is heard and wanted.
func next(t *testing.T, heard <-chan told, wanted func(told) bool) told {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case e, ok := <-heard:
			if !ok {
				t.Fatal("the stream ended before what was waited for")
			}
			if wanted(e) {
				return e
			}
		case <-timeout:
			t.Fatal("never heard what was waited for")
		}
	}
}

func advanced(e told) bool { return e.Type == "job.advanced" }

// deepModel writes a model whose texts take seconds: the built-in one, with its
// layers many times over and room for longer texts.
func deepModel(t *testing.T) string {
	t.Helper()
	const times, positions = depth, 1024
	files := opticks.Files()
	dir := t.TempDir()
	read := func(name string) []byte {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var config map[string]any
	if err := json.Unmarshal(read("config.json"), &config); err != nil {
		t.Fatal(err)
	}
	layers := int(config["n_layer"].(float64))
	config["n_layer"], config["n_ctx"], config["n_positions"] = times*layers, positions, positions
	changed, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	write("config.json", changed)
	write("vocab.json", read("vocab.json"))
	write("merges.txt", read("merges.txt"))

	ck, err := gpt2.ReadCheckpoint(files)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	deep := ck.Config
	deep.Layers, deep.Context = times*layers, positions
	var tensors []gpt2.Tensor
	for name, shape := range deep.Tensors() {
		from := name
		if rest, ok := strings.CutPrefix(name, "h."); ok {
			number, rest, _ := strings.Cut(rest, ".")
			layer, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			from = fmt.Sprintf("h.%d.%s", layer%layers, rest)
		}
		values, err := ck.Tensor(from)
		if err != nil {
			t.Fatal(err)
		}
		if name == "wpe.weight" {
			values = slices.Repeat(values, positions/ck.Config.Context)
		}
		x, err := gpt2.NewTensor(name, "F16", shape, values)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, x)
	}
	var file bytes.Buffer
	if err := gpt2.WriteSafetensors(&file, tensors); err != nil {
		t.Fatal(err)
	}
	write("model.safetensors", file.Bytes())
	return dir
}

var errNever = errors.New("it never happened")

// eventually waits for what announces itself to nobody.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, errNever)
		}
	}
}
