package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

// testKilled uses OpenAI's SDKs with a service that has no worker at first, and whose processes
// of the API are killed in the middle of texts later.
func testKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	full := s.api(t, "--no-rate-limits", "--max-outstanding-jobs=1")
	g := newGo(t, s, "openai-go")
	node := append(s.env(t, "openai-node"), "LIMITED="+full.URL)
	for _, key := range []string{g.key, strings.TrimPrefix(node[0], "KEY=")} {
		g.user.As(key).Submit(`{"prompt":"A job that waits for a worker","max_new_tokens":1}`)
	}
	t.Run("idle", func(t *testing.T) { // it returns when the parallel parts have ended
		t.Run("node", func(t *testing.T) {
			t.Parallel()
			for _, file := range []string{"openai.js", "batches.js"} {
				scenarios(t, "openai", npmVersion(t, "openai"), file, append(node, "STAGE=idle")...)
			}
		})
		t.Run("batches", func(t *testing.T) {
			t.Parallel()
			g.cancelledBatch(t)
		})
		for _, f := range surfaces {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				g.idle(t, f, full.URL)
			})
		}
	})
	s.work()
	type process struct {
		URL string
		PID int
	}
	var doomed []process
	for range surfaces {
		p := s.api(t, "--no-rate-limits")
		doomed = append(doomed, process{p.URL, p.PID()})
	}
	list, err := json.Marshal(doomed)
	if err != nil {
		t.Fatal(err)
	}
	scenarios(t, "openai", npmVersion(t, "openai"), "openai.js", append(node, "STAGE=killed", "DOOMED="+string(list), "WORKER="+strconv.Itoa(s.worker.PID()))...)
	for _, f := range surfaces {
		g.killed(t, f)
	}
}

// idle runs the scenarios that need a service without a worker.
func (g *goSDK) idle(t *testing.T, f surface, full string) {
	g.scenario(t, f.name+": a client that leaves before the answer cancels the job", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		input := "A " + f.name + " client that leaves Go"
		done := make(chan error, 1)
		go func() {
			_, err := f.create(ctx, g.first, request{input: input, tokens: 1, options: plain})
			done <- err
		}()
		id := g.accepted(t, input)
		leave()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if job := g.ended(t, id); job.State != "cancelled" {
			t.Errorf("the job is %s", job.State)
		}
	})
	g.scenario(t, f.name+": the error 409 of a cancelled job is not retried", func(t *testing.T) {
		calls := 0
		input := "A " + f.name + " job that is cancelled"
		done := make(chan error, 1)
		go func() {
			_, err := f.create(t.Context(), sdk(g.apis[0].URL, g.key, counted(&calls)), request{input: input, tokens: 1, options: plain})
			done <- err
		}()
		g.user.Do("POST", "/jobs/"+g.accepted(t, input)+"/cancel", "").Must(t, 200)
		err := <-done
		refused(t, err, 409, "job_cancelled")
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
	g.scenario(t, f.name+": the error 429 of too many jobs is retried twice", func(t *testing.T) {
		calls := 0
		_, err := f.create(t.Context(), sdk(full, g.key, counted(&calls)), request{tokens: 1, options: plain})
		refused(t, err, 429, "too_many_jobs")
		if calls != 3 {
			t.Errorf("%d calls", calls)
		}
	})
}

// killed kills a process of the API in the middle of a text. The worker stops for that time, so
// that the text cannot end.
func (g *goSDK) killed(t *testing.T, f surface) {
	g.scenario(t, f.name+": a stream goes on at another process after a kill of the first", func(t *testing.T) {
		doomed := g.api(t, "--no-rate-limits")
		c := sdk(doomed.URL, g.key, option.WithMaxRetries(0))
		for seed := range int64(20) {
			r := request{input: fmt.Sprintf("Light %d", seed), tokens: long, seed: seed}
			streamed := r
			if f.name == "responses" {
				streamed.options = []option.RequestOption{option.WithJSONSet("background", true)}
			} else {
				streamed.options = []option.RequestOption{option.WithHeader("Idempotency-Key", fmt.Sprintf("%s-killed-%d", f.name, seed))}
			}
			broken := f.stream(t.Context(), c, streamed)
			first := broken.begin(t)
			g.worker.Freeze()
			if g.job(t, first.job).State != "running" {
				g.worker.Thaw()
				t.Logf("job %d was faster than the signal", seed)
				_ = broken.close()
				continue
			}
			doomed.Kill()
			g.worker.Thaw()
			got, err := broken.rest(first)
			if err == nil {
				t.Fatal("the stream ended well")
			}
			var more stream
			if f.name == "responses" {
				more = pieces(g.other.Responses.GetStreaming(t.Context(), "resp_"+got.job, responses.ResponseGetParams{StartingAfter: openai.Int(got.number)}), ofEvent)
			} else {
				more = f.stream(t.Context(), g.other, streamed)
				got = text{} // the stream with the same key begins again
			}
			if got, err = more.rest(got); err != nil {
				t.Fatal(err)
			}
			if got.job != first.job {
				t.Errorf("job %s went on as %s", first.job, got.job)
			}
			r.options = plain
			want, err := f.create(t.Context(), g.other, r)
			if err != nil || got.text != want.text || got.status != want.status {
				t.Errorf("%+v, %v, undisturbed %+v", got, err, want)
			}
			return
		}
		t.Error("every job was faster than the signal")
	})
}
