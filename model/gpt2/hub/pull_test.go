package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPullLeavesACompleteModel(t *testing.T) {
	weights, err := os.ReadFile("../testdata/tiny/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	bubble(t, weights, func(t *testing.T, h *fakeHub) {
		models := filepath.Join(t.TempDir(), "a", "b")
		o := h.options()
		var last, total int64
		o.Progress = func(done, of int64) {
			if done < last || done > of {
				t.Errorf("%d after %d of %d bytes", done, last, of)
			}
			last, total = done, of
		}
		o.Note = func(text string) { t.Errorf("note %q", text) }
		// The directory of the model must not exist before the model is complete.
		h.answers = []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			if _, err := os.Stat(h.release.Dir(models)); !os.IsNotExist(err) {
				t.Errorf("the model's directory exists too early: %v", err)
			}
			h.good(w, r)
		}}
		if err := Pull(t.Context(), models, h.release, o); err != nil {
			t.Fatal(err)
		}
		if err := h.complete(models); err != nil {
			t.Error(err)
		}
		if total != h.release.Size() || last != total {
			t.Errorf("progress ended with %d of %d", last, total)
		}
		if err := h.release.Present(t.Context(), os.DirFS(h.release.Dir(models))); err != nil {
			t.Error(err)
		}
		for _, r := range h.requests {
			if r.Header.Get("Accept-Encoding") != "identity" {
				t.Errorf("%s: Accept-Encoding allows compression, which breaks ranges", r.URL.Path)
			}
		}
		n := len(h.requests)
		last = 0
		if err := Pull(t.Context(), models, h.release, o); err != nil || n != 4 || len(h.requests) != n {
			t.Errorf("a second pull: %v, %d requests after %d", err, len(h.requests)-n, n)
		}
	})
}

// After any faults in any order, the model must be either absent or complete. A further
// pull without faults must complete the model.
func TestPullSurvivesFaults(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		weights := rapid.SliceOfN(rapid.Byte(), 1, 400).Draw(rt, "weights")
		other := rapid.SliceOfN(rapid.Byte(), len(weights), len(weights)).Draw(rt, "other")
		type step struct {
			fault string
			at    int
			stops bool // whether the context of the pull is cancelled after this request
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				rapid.SampledFrom([]string{"cut", "cut", "cut", "stall", "500", "429", "no ranges", "other ranges", "other file", "416", "longer", "shorter", "not found"}).Draw(rt, "fault"),
				rapid.IntRange(0, len(weights)).Draw(rt, "at"),
				rapid.IntRange(0, 4).Draw(rt, "stops") == 0,
			}
		}), 0, 12).Draw(rt, "steps")
		var problem error
		bubble(t, weights, func(t *testing.T, h *fakeHub) {
			models := t.TempDir()
			var stop context.CancelFunc
			for _, s := range steps {
				var answer http.HandlerFunc
				switch s.fault {
				case "cut":
					answer = cut(s.at, h.good)
				case "stall":
					answer = stall(s.at, h.good)
				case "500":
					answer = code(500)
				case "429":
					answer = code(429, "Retry-After", "7")
				case "no ranges":
					answer = cut(s.at, func(w http.ResponseWriter, r *http.Request) {
						r.Header.Del("Range")
						h.good(w, r)
					})
				case "other ranges":
					answer = func(w http.ResponseWriter, r *http.Request) {
						if r.Header.Get("Range") != "" {
							r.Header.Set("Range", fmt.Sprintf("bytes=%d-", min(s.at, len(weights)-1)))
							r.Header.Del("If-Range")
						}
						h.good(w, r)
					}
				case "other file": // another file of the same size
					answer = cut(s.at, func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("ETag", `"other"`)
						serve(w, r, other)
					})
				case "416":
					answer = code(416)
				case "longer":
					answer = body(append(slices.Clone(weights), 0))
				case "shorter":
					answer = body(weights[:s.at])
				case "not found":
					answer = code(404)
				}
				h.answers = append(h.answers, func(w http.ResponseWriter, r *http.Request) {
					if s.stops {
						defer stop()
					}
					answer(w, r)
				})
			}
			for n := 0; ; n++ {
				var ctx context.Context
				ctx, stop = context.WithCancel(t.Context())
				err := Pull(ctx, models, h.release, h.options())
				stop()
				if err == nil {
					break
				}
				if _, err := os.Stat(h.release.Dir(models)); !os.IsNotExist(err) {
					problem = fmt.Errorf("an incomplete model exists: %v", err)
					return
				}
				if n == len(steps) {
					problem = fmt.Errorf("pull %d: %v", n+1, err)
					return
				}
			}
			problem = h.complete(models)
		})
		if problem != nil {
			rt.Fatal(problem)
		}
	})
}

func TestConfigIsVerifiedByItsContent(t *testing.T) {
	for name, bad := range map[string]string{
		"another network": `{"model_type":"gpt2","vocab_size":37,"n_positions":150,"n_embd":27,"n_layer":2,"n_head":3}`,
		"no network":      `{}`,
		"huge":            strings.Repeat(" ", maxConfig) + `{}`,
	} {
		bubble(t, numbers(10), func(t *testing.T, h *fakeHub) {
			good := h.files["config.json"].Data
			h.files["config.json"].Data = []byte(bad)
			models := t.TempDir()
			if err := Pull(t.Context(), models, h.release, h.options()); err == nil || !strings.Contains(err.Error(), "config") {
				t.Errorf("%s: %v", name, err)
			}
			h.files["config.json"].Data = good
			if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
				t.Errorf("%s, afterwards: %v", name, err)
			}
		})
	}
}

func TestPullsOfOneModelExcludeEachOther(t *testing.T) {
	bubble(t, numbers(100), func(t *testing.T, h *fakeHub) {
		models := t.TempDir()
		h.answers = []http.HandlerFunc{stall(50, h.good)} // the first pull must still run when the other pulls begin
		var waits sync.Map
		var pulls sync.WaitGroup
		for i := range 4 {
			pulls.Go(func() {
				o := h.options()
				o.Note = func(text string) {
					if strings.Contains(text, "waiting") {
						waits.Store(i, true)
					}
				}
				if err := errors.Join(Pull(t.Context(), models, h.release, o), h.complete(models)); err != nil {
					t.Error(err)
				}
			})
		}
		pulls.Wait()
		n := 0
		waits.Range(func(any, any) bool { n++; return true })
		if n != 3 || len(h.requests) != 5 {
			t.Errorf("%d waited, %d requests", n, len(h.requests))
		}
	})
}

func TestACancelledPullKeepsPartialFiles(t *testing.T) {
	bubble(t, numbers(100), func(t *testing.T, h *fakeHub) {
		models := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		h.answers = []http.HandlerFunc{stall(30, h.good)}
		o := h.options()
		o.Progress = func(done, _ int64) {
			if done >= 30+h.release.Size()-100 {
				cancel()
			}
		}
		if err := Pull(ctx, models, h.release, o); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(h.part(models)); err != nil || string(b) != string(numbers(30)) {
			t.Errorf("left %d bytes, %v", len(b), err)
		}
		// A cancelled context must also end the wait for the lock.
		unlock, err := lock(t.Context(), filepath.Join(models, stagingDir, "tiny.lock"), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := Pull(ctx, models, h.release, o); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting: %v", err)
		}
		unlock()
		if err := errors.Join(Pull(t.Context(), models, h.release, o), h.complete(models)); err != nil {
			t.Error(err)
		}
		if got := h.ranges(); !slices.Equal(got, []string{"all", "30-"}) {
			t.Errorf("requested %q", got)
		}
	})
}

func TestPullReplacesDamagedFilesOnly(t *testing.T) {
	bubble(t, numbers(100), func(t *testing.T, h *fakeHub) {
		models := t.TempDir()
		old := filepath.Join(models, stagingDir, "tiny@older", "model.safetensors.part")
		if err := errors.Join(os.MkdirAll(filepath.Dir(old), 0o755), os.WriteFile(old, []byte("old"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
			t.Fatal(err)
		}
		dir := h.release.Dir(models)
		damage := map[string]func(path string) error{
			"config.json":       func(path string) error { return os.WriteFile(path, []byte("{}"), 0o644) },
			"vocab.json":        os.Remove,
			"model.safetensors": func(path string) error { return os.WriteFile(path, make([]byte, 100), 0o644) },
			"merges.txt":        func(path string) error { return os.Truncate(path, 3) },
		}
		own := filepath.Join(dir, "NOTES")
		if err := os.WriteFile(own, []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		for name, spoil := range damage {
			if err := spoil(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			for _, f := range h.release.Files {
				if _, err := h.release.Check(t.Context(), os.DirFS(dir), f); (err == nil) != (f.Name != name) {
					t.Errorf("with a damaged %s, %s: %v", name, f.Name, err)
				}
			}
			// Present must notice all damage, except in the weights, which it must not
			// read.
			if err := h.release.Present(t.Context(), os.DirFS(dir)); (err == nil) != (name == "model.safetensors") {
				t.Errorf("with a damaged %s: present: %v", name, err)
			}
			h.requests = nil
			if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if len(h.requests) != 1 {
				t.Errorf("%s: %d requests", name, len(h.requests))
			}
		}
		// The user may choose other ids that end a text.
		if err := os.WriteFile(filepath.Join(dir, "generation_config.json"), []byte(`{"eos_token_id":1}`), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := h.release.Present(t.Context(), os.DirFS(dir)); err != nil {
			t.Errorf("with a generation_config.json of the user: %v", err)
		}
		if b, err := os.ReadFile(own); err != nil || string(b) != "mine" {
			t.Errorf("a file of the user: %q, %v", b, err)
		}
	})
}

func TestReleasesArePinned(t *testing.T) {
	names := map[string]bool{}
	for _, r := range Releases() {
		if names[r.Name] {
			t.Errorf("two releases %s", r.Name)
		}
		names[r.Name] = true
		if !r.Pinned() {
			if of, ok := Repository(r.Repo); !ok || of.Pinned() || r.Weights() != "" {
				t.Errorf("%+v", r)
			}
			continue
		}
		if len(r.Revision) != 40 || len(r.Weights()) != len("sha256:")+64 || len(r.Files) != 4 {
			t.Errorf("%+v", r)
		}
		for _, f := range r.Files {
			if pinned := len(f.SHA256) == 64 && f.Size > 0; pinned == (f.Name == configFile) {
				t.Errorf("%s of %s: %+v", f.Name, r.Name, f)
			}
		}
	}
	if r := Releases()[0]; r.Name != "gpt2" || !r.Pinned() {
		t.Errorf("%s is pinned: %t", r.Name, r.Pinned())
	}
}
