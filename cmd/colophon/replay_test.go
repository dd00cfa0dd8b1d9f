package main

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/events/ledger"
	"colophon/internal/pg/pgtest"
	"colophon/internal/vault"
	"colophon/migrations"
	"colophon/model/catalog"
	"colophon/model/opticks"
	"colophon/test/apitest"
)

// replayed is a service that has stopped, and the commands that look at its jobs.
type replayed struct {
	t    *testing.T
	db   *pgtest.DB
	data []string // flags
	dir  string
}

// serve runs the service until fn returns.
func (r *replayed) serve(fn func(url string), flags ...string) {
	r.t.Helper()
	s := serveWith(r.t, r.data, "up", append(flags, "--no-rate-limits")...)
	fn(s.url)
	if err := s.stop(); err != nil {
		r.t.Fatal(err)
	}
}

// generateJobs returns the ids of jobs that have been completed.
func generateJobs(c apitest.Client, n int) (ids []string) {
	c.T.Helper()
	for range n {
		var job struct{ ID string }
		c.Do("POST", "/generate", `{"prompt":"In a very dark Chamber","max_new_tokens":30}`).Must(c.T, 200).Into(c.T, &job)
		ids = append(ids, job.ID)
	}
	return ids
}

// want runs replay and compares its status and its output.
func (r *replayed) want(wanted int, says string, args ...string) {
	r.t.Helper()
	out, _, err := command(r.t, "", slices.Concat([]string{"replay"}, args, r.data)...)
	got := 0
	if err != nil {
		got, out = status(err), out+err.Error()
	}
	if got != wanted || !strings.Contains(out, says) {
		r.t.Errorf("replay %q: status %d, %q, want %d, %q", args, got, out, wanted, says)
	}
}

// store returns a store with the service's keys.
func (r *replayed) store() *events.Store {
	r.t.Helper()
	key, err := vault.ParseMasterKey(strings.TrimSpace(string(mustRead(r.t, filepath.Join(r.dir, "master.key")))))
	if err != nil {
		r.t.Fatal(err)
	}
	v, err := vault.New(key)
	if err != nil {
		r.t.Fatal(err)
	}
	return events.NewStore(r.db.App, v, slog.New(slog.DiscardHandler))
}

// reseal writes a job's stream again, with other facts, as somebody can who has all rights in
// the database and the master key. The new stream is readable, and in the log.
func (r *replayed) reseal(id string, change func(events.Fact) events.Fact) {
	r.t.Helper()
	store, job := r.store(), uuid.MustParse(id)
	stored, err := store.Read(r.t.Context(), events.JobStream(job), 0)
	if err != nil {
		r.t.Fatal(err)
	}
	var facts []events.Fact
	for _, e := range stored {
		facts = append(facts, change(e.Fact))
	}
	r.db.Damage(r.t, `delete from events where stream = $1`, events.JobStream(job))
	r.db.Damage(r.t, `delete from history where job = $1`, job)
	if _, err := store.AppendJob(r.t.Context(), events.Job{ID: job, Owner: stored[0].Owner}, facts...); err != nil {
		r.t.Fatal(err)
	}
	r.want(0, "The last events have no index in the log yet.", "--all")
	r.sequence()
}

// sequence gives all events an index, which a service that stops leaves to the next process.
func (r *replayed) sequence() {
	r.t.Helper()
	if _, err := ledger.NewSequencer(r.db.App, slog.New(slog.DiscardHandler)).Pass(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// TestReplayTellsByItsStatus runs jobs on a service, changes their record and the weights, and
// replays them.
func TestReplayTellsByItsStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := pgtest.New(t, migrations.Up)
	r := &replayed{t: t, db: db, dir: dir, data: []string{"--data", dir, "--database-url", db.URL}}
	var ids []string
	var erased apitest.Client
	r.serve(func(url string) {
		ids = generateJobs(newUser(t, url, "isaac"), 3)
		erased = newUser(t, url, "robert")
		ids = append(ids, generateJobs(erased, 1)...)
	})
	r.sequence()
	r.want(0, "30 of 30 are equal", ids[0])
	r.want(0, "30 of 30 are equal", ids[0], "--decode")
	r.want(0, "4 jobs have ended, and all of them were replayed", "--all")
	r.want(2, "no job was compared", "--all", "--sample", "1e-300")
	r.want(2, "0 jobs have ended", "--all", "--since", "2999-12-31")
	r.want(0, "4  equal", "--all", "--since", "2020-01-01T00:00:00Z")

	// Other weights and rules are named.
	r.want(2, "the weights are sha256:", ids[0], "--model", r.otherWeights())
	r.want(2, "4  cannot be compared", "--all", "--model", r.otherWeights())
	rules := filepath.Join(dir, "rules")
	if err := os.WriteFile(rules, []byte("name other\nword chamber\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(2, "on record, and \"other/", ids[0], "--policy", rules)

	// A service with another format of weights, and an erased account.
	r.serve(func(url string) {
		ids = append(ids, generateJobs(signIn(t, url, "isaac"), 1)...)
		signIn(t, url, "robert").Do("DELETE", "/users/me", `{"password":"`+password+`"}`)
		eventually(t, "the account is erased", func() bool {
			var n int
			err := db.Owner.QueryRow(t.Context(), `select count(*) from events where stream = $1 and type = 'job.accepted' and sealed is null`, "job/"+ids[3]).Scan(&n)
			return err == nil && n == 1
		})
	}, "--weights", "int8")
	r.sequence()
	r.want(0, "/int8", ids[4])
	r.want(2, "the prompt and the text were erased", ids[3])
	r.want(0, "1  erased, so there is nothing left to compare", "--all")

	// A changed record is refuted, with the position of the first token.
	token := 0
	r.reseal(ids[1], func(f events.Fact) events.Fact {
		if a, ok := f.(events.JobAdvanced); ok {
			if token < 12 && token+len(a.Tokens) >= 12 {
				a.Tokens = slices.Clone(a.Tokens)
				a.Tokens[11-token]++
			}
			token += len(a.Tokens)
			return a
		}
		return f
	})
	r.want(1, "refuted: job "+ids[1]+": token 12 differs", ids[1])
	r.want(1, "token 12 differs", ids[1], "--decode")
	r.want(1, "differs\t"+ids[1]+"\ttoken 12 differs\n", "--all")
	db.Damage(t, `update events set payload = set_byte(payload, 20, get_byte(payload, 20) # 1) where stream = $1 and version = 2`, "job/"+ids[2])
	r.want(1, "event 2 is damaged", ids[2])
	r.want(1, "refuted: 2 of 5 jobs differ", "--all")
	db.Damage(t, `update owner_keys set wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)`)
	r.want(2, "the owner's key cannot be opened", ids[0])
}

// otherWeights returns a directory with the small model, of whose weights one bit differs.
func (r *replayed) otherWeights() string {
	r.t.Helper()
	dir := r.t.TempDir()
	for _, name := range catalog.Files(opticks.Files()) {
		content, err := fs.ReadFile(opticks.Files(), name)
		if err != nil {
			r.t.Fatal(err)
		}
		if name == "model.safetensors" {
			content[len(content)-1] ^= 1
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	return dir
}

// TestReplayRefusesWrongUsage starts replay with arguments that make no sense. None of them
// may open a database.
func TestReplayRefusesWrongUsage(t *testing.T) {
	t.Parallel()
	r := &replayed{t: t, data: []string{"--data", t.TempDir(), "--database-url", "postgres://127.0.0.1:1/none"}}
	const job = "01a22e2b-beff-7641-bca1-2955fb6a8b14"
	for _, args := range [][]string{
		{}, {"x"}, {job, "--all"}, {job, "--sample", "0.5"}, {job, "--since", "2026-01-01"},
		{"--all", "--sample", "0"}, {"--all", "--sample", "1.5"}, {"--all", "--sample", "NaN"}, {"--all", "--sample", "x"}, {"--all", "--since", "yesterday"},
		{job, "--model", "nothing"}, {job, "--policy", "/dev/null"}, {job, "--unknown"}, {job, job},
	} {
		r.want(64, "", args...)
	}
}

// The variant of the network follows the format of the weights on record. It does not choose
// the format, and a difference is found by the engine's Info.
func TestReplayReadsTheFormatBeforeTheVariant(t *testing.T) {
	source, err := catalog.Find(catalog.BuiltIn)
	if err != nil {
		t.Fatal(err)
	}
	engines := &replayEngines{source: source}
	defer engines.close()
	for weights, want := range map[string]string{"sha256:0a/int8+relu": "/int8", "sha256:0a/f32": "/f32", "sha256:0a/f32+gelu+unscaled": "/f32"} {
		e, err := engines.get(t.Context(), events.JobStarted{Weights: weights})
		if err != nil || !strings.HasSuffix(e.Info().Weights, want) {
			t.Errorf("%s: %v", weights, err)
		}
	}
	if _, err := engines.get(t.Context(), events.JobStarted{Weights: "sha256:0a/relu"}); err == nil {
		t.Error("a format that does not exist is read")
	}
}
