package jobs_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/model"
	"colophon/model/catalog"
	"colophon/model/gpt2"
	"colophon/model/kernel"
	"colophon/model/opticks"
)

// newOpticks returns the small model on a number of threads.
func newOpticks(t testing.TB, threads int) *gpt2.Engine {
	t.Helper()
	e, err := gpt2.Load(opticks.Files(), gpt2.Options{Name: opticks.Name, Weights: kernel.F16, Threads: threads, Sequences: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// workOpticks starts a worker with 16 slots for the small model, and returns its queue.
func (f *fixture) workOpticks(e *gpt2.Engine, options ...func(*jobs.Worker)) *jobs.Queue {
	f.t.Helper()
	m := jobs.Model{Name: opticks.Name, Weights: e.Info().Digest(), Context: e.Info().Context, Vocab: e.Info().Vocab, Encode: e.Encode}
	q, err := jobs.NewQueue(f.db.App, f.store, m, policy.Default, jobs.Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.t.Fatal(err)
	}
	w, err := jobs.NewWorker(f.db.App, f.store, e, policy.Default, 16, slog.New(slog.DiscardHandler))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, set := range options {
		set(w)
	}
	if err := w.Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			f.t.Errorf("stop the worker: %v", err)
		}
	})
	return q
}

// opticksJobs runs jobs of the small model, with random parameters.
func (f *fixture) opticksJobs(e *gpt2.Engine, n int, rnd *rand.Rand) []events.Job {
	f.t.Helper()
	q := f.workOpticks(e)
	prompts := []string{"Light", "In a very dark Chamber, at a round hole", "The Colours of the Rays", "Qu. 1. Do not Bodies act upon Light at a distance"}
	submitted := make([]events.Job, n)
	for i := range submitted {
		r := jobs.Request{
			Prompt: prompts[rnd.IntN(len(prompts))], MaxNewTokens: 1 + rnd.IntN(120), TopP: 1, Seed: new(rnd.Uint64N(jobs.MaxSeed)),
			Temperature: []float64{0, 0.5, 0.8, 1, 1.4}[rnd.IntN(5)], TopK: []int{0, 0, 1, 40}[rnd.IntN(4)],
		}
		if rnd.IntN(3) == 0 {
			r.TopP = 0.9
		}
		if rnd.IntN(4) == 0 {
			r.Stop = []string{". ", "light of the"}
		}
		if rnd.IntN(3) == 0 {
			r.PresencePenalty, r.RepetitionPenalty, r.LogitBias, r.MinTokens = 0.5, 1.2, map[int]float64{13: -5}, min(r.MaxNewTokens, 20)
		}
		if rnd.IntN(2) == 0 {
			r.Logprobs = new(rnd.IntN(model.MaxLogprobs + 1))
		}
		var err error
		if submitted[i], err = q.Submit(f.t.Context(), f.owner, r); err != nil {
			f.t.Fatal(err)
		}
	}
	for i := range submitted {
		submitted[i] = f.until(submitted[i], final)
	}
	return submitted
}

// TestJobsReplayEqualOnAnyThreads runs jobs of the small model and replays them on engines
// with other numbers of threads, in batches of many sizes, with prefills of many sizes. All
// must be equal. COLOPHON_TEST_REPLAYS sets the number of jobs, 24 by default.
func TestJobsReplayEqualOnAnyThreads(t *testing.T) {
	t.Parallel()
	n := 24
	if set, err := strconv.Atoi(os.Getenv("COLOPHON_TEST_REPLAYS")); err == nil {
		n = set
	}
	f := newFixture(t)
	rnd := rand.New(rand.NewPCG(2026, 9))
	began := time.Now()
	ran := f.opticksJobs(newOpticks(t, 2), n, rnd)
	took := time.Since(began)
	began = time.Now()
	var tokens, equal atomic.Int64
	reasons := map[string]int{}
	for nth, threads := range []int{1, 2, 4} {
		e := newOpticks(t, threads)
		for part, together := range []int{1, 3, 8, 16} {
			var running errgroup.Group
			running.SetLimit(together)
			for i, j := range ran {
				if i%3 != nth || i/3%4 != part {
					continue
				}
				reasons[j.FinishReason]++
				ahead := []int{1, 2, 7, jobs.ReplayAhead, 64}[rnd.IntN(5)]
				running.Go(func() error {
					result, err := replayer(ahead, e).Job(t.Context(), f.stored(j))
					if err != nil || result.Difference != nil || result.Unknown != nil || result.Equal != len(j.Tokens) {
						return fmt.Errorf("job %d on %d threads, %d ahead: %+v, %v, %q, %w", i, threads, ahead, j.Params, result.Difference, result.Unknown, err)
					}
					equal.Add(1)
					tokens.Add(int64(len(j.Tokens)))
					return nil
				})
			}
			if err := running.Wait(); err != nil {
				t.Error(err)
			}
		}
	}
	if equal.Load() != int64(n) {
		t.Errorf("%d of %d jobs are equal", equal.Load(), n)
	}
	t.Attr("equal", fmt.Sprintf("%d jobs with %d tokens (ended by %v), run in %v, replayed in %v", n, tokens.Load(), reasons, took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond)))
}

// flipped returns the files of the small model with one byte flipped: the byte with the sign
// and the exponent of a weight of the last layer norm.
func flipped(t *testing.T) fs.FS {
	t.Helper()
	files := fstest.MapFS{}
	for _, name := range catalog.Files(opticks.Files()) {
		content, err := fs.ReadFile(opticks.Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: content}
	}
	content := files["model.safetensors"].Data
	header := binary.LittleEndian.Uint64(content)
	var tensors map[string]struct {
		DType   string   `json:"dtype"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(content[8:8+header], &tensors); err != nil {
		t.Fatal(err)
	}
	for name, tensor := range tensors {
		if strings.HasSuffix(name, "ln_f.weight") {
			size := map[string]int64{"F32": 4, "F16": 2, "BF16": 2}[tensor.DType]
			content[8+int64(header)+tensor.Offsets[0]+size-1] ^= 0x80
			return files
		}
	}
	t.Fatal("no weight to flip")
	return nil
}

// claims is an engine that claims to be another one.
type claims struct {
	model.Engine
	info model.Info
}

func (e claims) Info() model.Info { return e.info }

// TestFlippedWeightByteIsFound replays a job with weights in which one bit differs. The digest
// of the weights shows it before anything is computed. If the digest were not compared, the
// tokens would show it.
func TestFlippedWeightByteIsFound(t *testing.T) {
	t.Parallel()
	f, right := newFixture(t), newOpticks(t, 1)
	wrong, err := gpt2.Load(flipped(t), gpt2.Options{Name: opticks.Name, Weights: kernel.F16, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wrong.Close)
	ran := f.opticksJobs(right, 6, rand.New(rand.NewPCG(3, 3)))
	differ := 0
	for _, j := range ran {
		result := replay(t, replayer(jobs.ReplayAhead, wrong), f.stored(j))
		want := "the weights are " + right.Info().Weights + " on record, and " + wrong.Info().Weights + " here"
		if result.Equal != 0 || result.Difference != nil || len(result.Unknown) != 1 || result.Unknown[0] != want {
			t.Errorf("%+v, want unknown %q", result, want)
		}
		if replay(t, replayer(jobs.ReplayAhead, claims{wrong, right.Info()}), f.stored(j)).Difference != nil {
			differ++
		}
	}
	if differ == 0 {
		t.Errorf("none of %d texts differs", len(ran))
	}
}

// BenchmarkReplay replays a job of the small model. It decodes the text token by token, or
// computes several positions at once.
func BenchmarkReplay(b *testing.B) {
	f := newFixture(b)
	e := newOpticks(b, 2)
	var longest events.Job
	for _, j := range f.opticksJobs(e, 24, rand.New(rand.NewPCG(1, 1))) {
		if len(j.Tokens) > len(longest.Tokens) {
			longest = j
		}
	}
	stored := f.stored(longest)
	for _, ahead := range []int{1, 8, jobs.ReplayAhead, 128} {
		b.Run(fmt.Sprintf("ahead=%d", ahead), func(b *testing.B) {
			for b.Loop() {
				if result, err := replayer(ahead, e).Job(b.Context(), stored); err != nil || result.Difference != nil {
					b.Fatal(result, err)
				}
			}
			b.ReportMetric(float64(len(longest.Tokens)*b.N)/b.Elapsed().Seconds(), "tok/s")
		})
	}
}
