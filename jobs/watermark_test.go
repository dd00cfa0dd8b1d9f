package jobs_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/migrations"
	"colophon/model/watermark"
	"colophon/test/apitest"
)

// markedRequest is request with a watermark.
func markedRequest() jobs.Request {
	r := request
	r.Watermark = true
	return r
}

// key returns the owner's watermark key. It must exist.
func (f *fixture) key(owner uuid.UUID) watermark.Key {
	f.t.Helper()
	key, found, err := f.store.FindWatermarkKey(f.t.Context(), owner)
	if err != nil || !found {
		f.t.Fatalf("watermark key: found %v, %v", found, err)
	}
	return key
}

// markedText returns the text of an uninterrupted job with the key's mark.
func (f *fixture) markedText(j events.Job) string {
	f.t.Helper()
	p := j.Params
	p.Choose = f.key(j.Owner).Chooser(p.Seed, newEngine().Encode(j.Prompt))
	return newEngine().text(j.Prompt, p)
}

func TestMarkedJobNamesItsKey(t *testing.T) {
	t.Parallel()
	f, e := newFixture(t), newEngine()
	long := request
	long.MaxNewTokens = 120
	plain := f.submit(long)
	if _, found, err := f.store.FindWatermarkKey(t.Context(), f.owner); found || err != nil {
		t.Errorf("a job without a watermark has made a key: %v, %v", found, err)
	}
	long.Watermark = true
	j := f.submit(long)
	key := f.key(f.owner)
	if want := (events.Watermark{Key: key.ID(), Parameters: watermark.Parameters}); j.Watermark != want {
		t.Errorf("accepted with %+v, want %+v", j.Watermark, want)
	}
	cold := markedRequest()
	cold.Temperature = 0
	unmarked := f.submit(cold)
	if unmarked.Watermark != (events.Watermark{}) {
		t.Errorf("temperature 0: %+v, want no watermark", unmarked.Watermark)
	}
	f.work(e)
	plain, j, unmarked = f.until(plain, final), f.until(j, final), f.until(unmarked, final)
	if want := f.markedText(j); j.State != events.Completed || j.Text != want || j.Text == plain.Text {
		t.Errorf("%s %q, want %q, without a mark %q", j.State, j.Text, want, plain.Text)
	}
	stranger := f.register()
	if _, err := f.store.WatermarkKey(t.Context(), stranger); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		key    watermark.Key
		tokens []int
		want   watermark.Result
	}{
		"the marked text":                       {key, j.Tokens, watermark.Found},
		"the text without a mark":               {key, plain.Tokens, watermark.NotFound},
		"the marked text with a stranger's key": {f.key(stranger), j.Tokens, watermark.NotFound},
	} {
		if result, _, err := c.key.Detect(t.Context(), c.tokens); err != nil || result != c.want {
			t.Errorf("%s: %s, %v, want %s", what, result, err, c.want)
		}
	}
	if want := e.text(unmarked.Prompt, unmarked.Params); unmarked.Text != want {
		t.Errorf("temperature 0: %q, want %q", unmarked.Text, want)
	}
	if wrong := f.check(); wrong != 0 {
		t.Errorf("%d rows of the history view differ from the events", wrong)
	}
}

// A service that marks all texts leaves clients no choice.
func TestServiceMarksAllJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue.Watermark = true
	if j := f.submit(request); j.Watermark.Key != f.key(f.owner).ID() {
		t.Errorf("%+v", j.Watermark)
	}
	cold := request
	cold.Temperature = 0
	if j := f.submit(cold); j.Watermark != (events.Watermark{}) {
		t.Errorf("temperature 0: %+v", j.Watermark)
	}
}

// TestStoppedMarkedJobsEndWithTheSameText stops a worker while its jobs are at different
// tokens. Another worker, with a store of its own, continues them.
func TestStoppedMarkedJobsEndWithTheSameText(t *testing.T) {
	t.Parallel()
	f, first := newFixture(t), newEngine()
	gate := make(chan struct{}) // never closed, so the jobs stop here
	at := []int{1, 2, 3, 4, 5, 8, 9, 30, 39}
	var running []events.Job
	for i, k := range at {
		r := markedRequest()
		r.Prompt = strings.Repeat("p", 50*(i+1)) // the prompt's length tells the model which job it runs
		first.pause[len(r.Prompt)+k] = gate
		running = append(running, f.submit(r))
	}
	stop := f.workSlots(first, len(at))
	for _, j := range running {
		f.until(j, tokens(1))
	}
	stop()
	f.store = f.newStore()
	f.workSlots(newEngine(), len(at))
	for i, j := range running {
		j = f.until(j, final)
		if want := f.markedText(j); j.State != events.Completed || j.Text != want || j.Attempts != 2 {
			t.Errorf("stopped at token %d: %s %q after %d starts, want %q", at[i], j.State, j.Text, j.Attempts, want)
		}
		f.mustBeEqual("continued marked job", j, newEngine())
	}
}

// TestTwoProcessesMakeOneWatermarkKey accepts the first marked jobs of an owner in two
// processes at once.
func TestTwoProcessesMakeOneWatermarkKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	queues := []*jobs.Queue{f.queue}
	store := f.store
	f.store = f.newStore()
	queues = append(queues, f.newQueue(jobs.Limits{}))
	f.store = store
	type accepted struct {
		job events.Job
		err error
	}
	results := make(chan accepted)
	for i := range 8 {
		go func() {
			j, err := queues[i%2].Submit(t.Context(), f.owner, markedRequest())
			results <- accepted{j, err}
		}()
	}
	keys := map[string]bool{}
	for range 8 {
		a := <-results
		if a.err != nil {
			t.Error(a.err)
		}
		keys[a.job.Watermark.Key] = true
	}
	if len(keys) != 1 || !keys[f.key(f.owner).ID()] {
		t.Errorf("keys %v, want one", keys)
	}
}

// TestMarkedJobNeedsItsKey changes what a queued job needs. A job whose key is gone fails. A
// job with another scheme waits for another build.
func TestMarkedJobNeedsItsKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.submit(markedRequest())
	stranger := f.register()
	other, err := f.queue.Submit(t.Context(), stranger, markedRequest())
	if err != nil {
		t.Fatal(err)
	}
	scheme := events.JobAccepted{Prompt: "prompt", Model: "fake", PromptTokens: 6, Params: j.Params, Watermark: events.Watermark{Key: j.Watermark.Key, Parameters: "another/1"}}
	later, err := f.store.AppendJob(t.Context(), events.Job{ID: uuid.Must(uuid.NewV7()), Owner: f.owner}, scheme)
	if err != nil {
		t.Fatal(err)
	}
	// The queue entry of another job becomes the entry of this one.
	f.db.Damage(t, `update `+migrations.RiverJobs+` set args = jsonb_build_object('job', $1::text) where args->>'job' = $2`, later.ID.String(), f.submit(request).ID.String())
	f.db.Damage(t, `update owner_keys set watermark = null, watermark_master_key_id = null where owner = $1`, f.owner)
	if _, err := f.store.WatermarkKey(t.Context(), stranger); err != nil {
		t.Fatal(err)
	}
	var log apitest.Log
	f.workSlots(newEngine(), 8, func(w *jobs.Worker) { w.LogTo(slog.NewTextHandler(&log, nil)) })
	if j = f.until(j, final); j.State != events.Failed || j.Reason != "the watermark key that the job was accepted with is gone" || len(j.Tokens) != 0 {
		t.Errorf("without the key: %s, %q", j.State, j.Reason)
	}
	if other = f.until(other, final); other.State != events.Completed {
		t.Errorf("another owner: %s, %q", other.State, other.Reason)
	}
	f.untilPutBack(later, 1)
	if !strings.Contains(log.String(), "job needs another watermark, put back") || !strings.Contains(log.String(), "another/1") {
		t.Errorf("the log does not say why the job waits:\n%s", &log)
	}
	if now, err := f.store.Job(t.Context(), later.ID); err != nil || now.State != events.Queued {
		t.Errorf("with another scheme: %s, %v", now.State, err)
	}
}

// TestMarkedJobWaitsForAReadableKey damages an owner's stored watermark key. The job must wait
// like one whose texts cannot be read, and run when the key is back.
func TestMarkedJobWaitsForAReadableKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	j := f.submit(markedRequest())
	damage := func() {
		f.db.Damage(t, `update owner_keys set watermark = set_byte(watermark, 20, get_byte(watermark, 20) # 255) where owner = $1`, f.owner)
	}
	damage()
	var log apitest.Log
	f.workSlots(newEngine(), 1, func(w *jobs.Worker) { w.LogTo(slog.NewTextHandler(&log, nil)) })
	f.untilPutBack(j, 2)
	if text := log.String(); !strings.Contains(text, "job unreadable, put back") || !strings.Contains(text, "the owner's watermark key cannot be opened") {
		t.Errorf("the log does not say why the job waits:\n%s", text)
	}
	damage() // undoes the damage
	if j = f.until(j, final); j.State != events.Completed {
		t.Errorf("with the key back: %s, %q", j.State, j.Reason)
	}
}

// TestReplayOfAMarkedTextNeedsItsKey replays a marked job with its key, without it, and with
// another one.
func TestReplayOfAMarkedTextNeedsItsKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.work(newEngine())
	j := f.until(f.submit(markedRequest()), final)
	f.mustBeEqual("marked job", j, newEngine())
	stored := f.stored(j)

	changed := slices.Clone(stored)
	for i, e := range changed {
		if a, ok := e.Fact.(events.JobAccepted); ok {
			a.Watermark = events.Watermark{}
			changed[i].Fact = a
		}
	}
	if d := replay(t, f.replayer(4, newEngine()), changed).Difference; d == nil || d.Token < 4 {
		t.Errorf("executed without the mark: %v, want a difference after the third token", d)
	}

	if _, err := f.store.WatermarkKey(t.Context(), f.register()); err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{
		`update owner_keys set watermark = null, watermark_master_key_id = null where owner = $1`,
		``, // a new key
	} {
		if change != "" {
			f.db.Damage(t, change, f.owner)
		} else if key, err := f.store.WatermarkKey(t.Context(), f.owner); err != nil || key.ID() == j.Watermark.Key {
			t.Fatalf("a new key: %s, %v", key.ID(), err)
		}
		result := replay(t, f.replayer(4, newEngine()), stored)
		if result.Difference != nil || result.Equal != 0 || len(result.Unknown) != 1 || !strings.Contains(result.Unknown[0], "watermark key "+j.Watermark.Key) {
			t.Errorf("without the key: %+v", result)
		}
	}
	f.db.Damage(t, `update owner_keys set watermark = '\x00' where owner = $1`, f.owner)
	if _, err := f.replayer(4, newEngine()).Job(t.Context(), stored); !errors.Is(err, vault.ErrUnreadable) {
		t.Errorf("a damaged key: %v, want ErrUnreadable", err)
	}
}
