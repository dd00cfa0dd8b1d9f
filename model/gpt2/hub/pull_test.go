package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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
		// The model does not exist before it is complete.
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

// The response is cut before its header and after every byte of its body. The
// same pull requests the rest, and nothing twice.
func TestPullResumesAtEveryByte(t *testing.T) {
	weights := numbers(120)
	for at := -1; at < len(weights); at++ {
		bubble(t, weights, func(t *testing.T, h *fakeHub) {
			h.answers = []http.HandlerFunc{cut(at, h.good)}
			if at < 0 {
				h.answers[0] = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
			}
			models := t.TempDir()
			if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
				t.Fatalf("cut after %d bytes: %v", at, err)
			}
			want := []string{"all", fmt.Sprintf("%d-", at)}
			if at <= 0 {
				want[1] = "all"
			}
			if got := h.ranges(); !slices.Equal(got, want) {
				t.Errorf("cut after %d bytes: requested %q", at, got)
			}
			if tag := h.requests[len(h.requests)-1].Header.Get("If-Range"); at > 0 && tag != `"`+digest(weights)+`"` {
				t.Errorf("If-Range %q", tag)
			}
		})
	}
}

// A killed process left a partial file of any length, of this file or another.
func TestPullResumesAPartialFileOfAnyLength(t *testing.T) {
	weights := numbers(60)
	for n := range len(weights) + 10 {
		for _, foreign := range []bool{false, true} {
			bubble(t, weights, func(t *testing.T, h *fakeHub) {
				models := t.TempDir()
				part := append(slices.Clone(weights), 1, 2, 3, 4, 5, 6, 7, 8, 9)[:n]
				if foreign && n > 0 {
					part[n-1] ^= 1
				}
				h.leave(t, models, part)
				if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
					t.Fatalf("part of %d bytes, foreign %t: %v", n, foreign, err)
				}
				want := []string{fmt.Sprintf("%d-", n), "all"}
				switch {
				case n == 0 || n > len(weights):
					want = []string{"all"}
				case n == len(weights) && foreign:
					want = []string{"all"}
				case n == len(weights):
					want = nil
				case !foreign:
					want = want[:1]
				}
				if got := h.ranges(); !slices.Equal(got, want) {
					t.Errorf("part of %d bytes, foreign %t: requested %q, want %q", n, foreign, got, want)
				}
			})
		}
	}
}

// After any faults in any order, the model is either absent or complete, and
// pulling again completes it.
func TestPullSurvivesFaults(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		weights := rapid.SliceOfN(rapid.Byte(), 1, 400).Draw(rt, "weights")
		other := rapid.SliceOfN(rapid.Byte(), len(weights), len(weights)).Draw(rt, "other")
		type step struct {
			fault string
			at    int
			stops bool // the pull is cancelled after this request
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
				case "other file": // of the same size
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

func TestAChangedETagFetchesTheWholeFile(t *testing.T) {
	weights := numbers(100)
	bubble(t, weights, func(t *testing.T, h *fakeHub) {
		h.answers = []http.HandlerFunc{cut(60, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"old"`)
			serve(w, r, make([]byte, 100))
		})}
		models := t.TempDir()
		if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
			t.Fatal(err)
		}
		// The second answer is the whole file, because If-Range does not match.
		if got := h.ranges(); !slices.Equal(got, []string{"all", "60-"}) {
			t.Errorf("requested %q", got)
		}
	})
}

// A weak ETag does not promise the same bytes.
func TestAWeakETagIsNotUsedForIfRange(t *testing.T) {
	bubble(t, numbers(100), func(t *testing.T, h *fakeHub) {
		h.answers = []http.HandlerFunc{cut(60, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `W/"weak"`)
			serve(w, r, numbers(100))
		})}
		models := t.TempDir()
		if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
			t.Fatal(err)
		}
		last := h.requests[len(h.requests)-1]
		if got := h.ranges(); !slices.Equal(got, []string{"all", "60-"}) || last.Header.Get("If-Range") != "" {
			t.Errorf("requested %q, If-Range %q", got, last.Header.Get("If-Range"))
		}
	})
}

// Errors that another request would meet again are reported at once.
func TestPermanentErrorsAreNotRetried(t *testing.T) {
	weights := numbers(100)
	page := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<!DOCTYPE html><p>Sign in") }
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		token  string
		part   int  // size of the partial file before and after
		gone   bool // the partial file is removed
		want   string
	}{
		"not found":       {answer: code(404), part: 10, want: "404 Not Found: the file does not exist there"},
		"no token":        {answer: code(401), want: "set HF_TOKEN"},
		"forbidden":       {answer: code(403), token: "hf_secret", want: "HF_TOKEN may not read model.safetensors"},
		"teapot":          {answer: code(418), want: "418 I'm a teapot"},
		"no redirection":  {answer: code(302), want: "302"},
		"circle":          {answer: code(302, "Location", "/x/model.safetensors"), want: "redirects"},
		"other scheme":    {answer: code(302, "Location", "ftp://elsewhere.test/x"), want: "redirected to elsewhere.test by ftp"},
		"web page":        {answer: page, part: 10, want: "sign in"},
		"wrong hash":      {answer: body(make([]byte, 100)), gone: true, want: "removed: model.safetensors has the SHA-256 cd00e292c5970d3c5e2f0ffa5171e555bc46bfc4faddfb4a418b6840b86e79a3, the published one " + digest(weights)},
		"longer":          {answer: body(numbers(101)), gone: true, want: "longer than 100 bytes"},
		"much longer":     {answer: body(make([]byte, 1<<20)), gone: true, want: "longer than 100 bytes"},
		"says longer":     {answer: code(200, "Content-Length", "1000000000000"), part: 10, want: "a file of 1000000000000 bytes, the published one has 100"},
		"says shorter":    {answer: func(w http.ResponseWriter, r *http.Request) { serve(w, r, weights[:99]) }, want: "a file of 99 bytes, the published one has 100"},
		"part of shorter": {answer: code(206, "Content-Range", "bytes 10-98/99"), part: 10, want: "a file of 99 bytes"},
	} {
		bubble(t, weights, func(t *testing.T, h *fakeHub) {
			models := t.TempDir()
			if test.part > 0 {
				h.leave(t, models, weights[:test.part])
			}
			h.answers = slices.Repeat([]http.HandlerFunc{test.answer}, 100)
			o := h.options()
			o.Token = test.token
			o.Note = func(text string) { t.Errorf("%s: note %q", name, text) }
			err := Pull(t.Context(), models, h.release, o)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "pull tiny: fetch model.safetensors: ") {
				t.Errorf("%s: %v", name, err)
			} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "http://") {
				t.Errorf("%s: the error has a secret or a URL: %v", name, err)
			}
			left, err := os.ReadFile(h.part(models))
			if test.gone != errors.Is(err, os.ErrNotExist) || string(left) != string(weights[:test.part]) {
				t.Errorf("%s: left %d bytes, %v", name, len(left), err)
			}
			// A server without the fault completes the model.
			h.answers = nil
			o.Note = nil
			if err := errors.Join(Pull(t.Context(), models, h.release, o), h.complete(models)); err != nil {
				t.Errorf("%s, afterwards: %v", name, err)
			}
		})
	}
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

// Without a digest, nothing shows whether pieces of a config belong together.
func TestConfigIsFetchedInOnePiece(t *testing.T) {
	bubble(t, numbers(10), func(t *testing.T, h *fakeHub) {
		h.config = []http.HandlerFunc{cut(20, func(w http.ResponseWriter, r *http.Request) {
			serve(w, r, bytes.Repeat([]byte(" "), len(h.files["config.json"].Data)))
		})}
		models := t.TempDir()
		if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
			t.Fatal(err)
		}
		if len(h.requests) != 5 || h.requests[1].Header.Get("Range") != "" {
			t.Errorf("%d requests, the second for %q", len(h.requests), h.requests[1].Header.Get("Range"))
		}
	})
}

func TestTemporaryErrorsAreRetried(t *testing.T) {
	weights := numbers(100)
	for name, test := range map[string]struct {
		answers []http.HandlerFunc
		ok      bool
		least   time.Duration
		most    time.Duration
		want    string // in the error or the first note
	}{
		"500, then good": {slices.Repeat([]http.HandlerFunc{code(500)}, 5), true, 7 * time.Second, 16 * time.Second, "500 Internal Server Error"},
		"always 503":     {slices.Repeat([]http.HandlerFunc{code(503)}, 50), false, 7 * time.Second, 16 * time.Second, "6 requests without progress"},
		"asked to wait":  {[]http.HandlerFunc{code(429, "Retry-After", "20")}, true, 20 * time.Second, 20 * time.Second, "trying again in 20s"},
		"asked too long": {[]http.HandlerFunc{code(503, "Retry-After", "7200")}, true, maxWait, maxWait, "503"},
		"stall":          {[]http.HandlerFunc{stall(10, nil), stall(50, nil)}, true, 60 * time.Second, 62 * time.Second, "no byte for 30s"},
		"silence":        {[]http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}, true, 30 * time.Second, 31 * time.Second, "no byte for 30s"},
		"416":            {[]http.HandlerFunc{cut(50, nil), code(416)}, true, 0, 2 * time.Second, "unexpected EOF"},
		"wrong range":    {[]http.HandlerFunc{cut(50, nil), code(206, "Content-Range", "bytes 40-99/100")}, true, 0, 2 * time.Second, "unexpected EOF"},
		"ends early":     {[]http.HandlerFunc{body(weights[:30])}, true, 0, time.Second, "ended after 30 of 100 bytes"},
	} {
		bubble(t, weights, func(t *testing.T, h *fakeHub) {
			h.answers = test.answers
			for i, answer := range test.answers { // handlers that need h
				switch name {
				case "stall":
					h.answers[i] = stall([]int{10, 50}[i], h.good)
				case "416", "wrong range":
					if i == 0 {
						h.answers[i] = cut(50, h.good)
					}
				default:
					h.answers[i] = answer
				}
			}
			models := t.TempDir()
			o := h.options()
			var notes []string
			o.Note = func(text string) { notes = append(notes, text) }
			start := time.Now()
			err := Pull(t.Context(), models, h.release, o)
			took := time.Since(start)
			if took < test.least || took > test.most {
				t.Errorf("%s: took %v", name, took)
			}
			if name == "416" || name == "wrong range" { // the partial file may be wrong
				if got := h.ranges(); !slices.Equal(got, []string{"all", "50-", "all"}) {
					t.Errorf("%s: requested %q", name, got)
				}
			}
			if test.ok {
				if err := errors.Join(err, h.complete(models)); err != nil || len(notes) == 0 || !strings.Contains(notes[0], test.want) {
					t.Errorf("%s: %v, notes %q", name, err, notes)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// Cut connections do not count as failures while there is progress.
func TestCutsWithProgressAreNotFailures(t *testing.T) {
	bubble(t, numbers(50), func(t *testing.T, h *fakeHub) {
		for range 60 {
			h.answers = append(h.answers, cut(1, h.good))
		}
		models := t.TempDir()
		if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
			t.Fatal(err)
		}
		if n := len(h.ranges()); n != 50 {
			t.Errorf("%d requests", n)
		}
	})
}

// security: ASVS 15.3.2
func TestAccessTokenIsSentOnlyToTheEndpoint(t *testing.T) {
	bubble(t, numbers(100), func(t *testing.T, h *fakeHub) {
		h.answers = []http.HandlerFunc{
			code(307, "Location", "/elsewhere/model.safetensors"),
			code(302, "Location", "http://sub.hub.test/model.safetensors"),
			code(302, "Location", "http://hub.test:81"+base+"model.safetensors?signature=s3cret"),
			cut(40, h.good),
			code(302, "Location", "https://hub.test"+base+"model.safetensors?signature=s3cret"), // the server has no TLS
		}
		o := h.options()
		o.Token = " hf_secret\n"
		var notes []string
		o.Note = func(text string) { notes = append(notes, text) }
		models := t.TempDir()
		if err := errors.Join(Pull(t.Context(), models, h.release, o), h.complete(models)); err != nil {
			t.Fatal(err)
		}
		for _, r := range h.requests {
			want := ""
			if r.Host == "hub.test" {
				want = "Bearer hf_secret"
			}
			if got := r.Header.Get("Authorization"); got != want {
				t.Errorf("%s%s got %q", r.Host, r.URL.Path, got)
			}
			if from := r.Header.Get("Referer"); from != "" {
				t.Errorf("%s got the Referer %q", r.Host, from)
			}
		}
		if all := strings.Join(notes, "\n"); len(notes) != 2 || strings.Contains(all, "secret") || strings.Contains(all, "s3cret") {
			t.Errorf("notes %q", notes)
		}
	})
}

func TestTLSIsVerifiedAndNotDowngraded(t *testing.T) {
	weights := numbers(1000)
	h := newHub(t, weights)
	plain := httptest.NewServer(h)
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "merges.txt") {
			http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusFound)
			return
		}
		h.ServeHTTP(w, r)
	}))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	models := t.TempDir()

	// An unknown certificate is a permanent error.
	o := Options{Endpoint: secure.URL, Transport: http.DefaultTransport.(*http.Transport).Clone()}
	o.Note = func(text string) { t.Errorf("note %q", text) }
	if err := Pull(t.Context(), models, h.release, o); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: %v", err)
	}
	o.Transport = secure.Client().Transport
	if err := Pull(t.Context(), models, h.release, o); err == nil || !strings.Contains(err.Error(), "by http") {
		t.Errorf("redirect to http: %v", err)
	}
	// A redirect from http to https is fine, and so is a path in the endpoint.
	mirror := httptest.NewServer(http.StripPrefix("/mirror", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "merges.txt") {
			h.ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, secure.URL+r.URL.Path, http.StatusFound)
	})))
	defer mirror.Close()
	o.Endpoint = mirror.URL + "/mirror/"
	if err := errors.Join(Pull(t.Context(), models, h.release, o), h.complete(models)); err != nil {
		t.Error(err)
	}
}

func TestEndpointMustBeABaseURL(t *testing.T) {
	for _, bad := range []string{"", "huggingface.co", "ftp://hub.test", "https://", "https://user:s3cret@hub.test", "https://hub.test?x=1", "https://hub.test#x", "https://s3cret:%zz", "\x00"} {
		models := filepath.Join(t.TempDir(), "models")
		err := Pull(t.Context(), models, Release{Name: "tiny"}, Options{Endpoint: bad})
		if err == nil || !strings.Contains(err.Error(), "HF_ENDPOINT") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := os.Stat(models); !os.IsNotExist(err) {
			t.Errorf("%q: Pull created a directory", bad)
		}
	}
}

// The partial file is a link to a device that is always full.
func TestAFullDiskIsAPermanentError(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	weights := numbers(100)
	bubble(t, weights, func(t *testing.T, h *fakeHub) {
		models := t.TempDir()
		h.leave(t, models, nil)
		if err := errors.Join(os.Remove(h.part(models)), os.Symlink("/dev/full", h.part(models))); err != nil {
			t.Fatal(err)
		}
		err := Pull(t.Context(), models, h.release, h.options())
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk is full: 0 of 100 bytes are kept") {
			t.Errorf("%v", err)
		}
		if n := len(h.ranges()); n != 1 {
			t.Errorf("%d requests", n)
		}
		if err := os.Remove(h.part(models)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(Pull(t.Context(), models, h.release, h.options()), h.complete(models)); err != nil {
			t.Errorf("with space: %v", err)
		}
	})
}

func TestPullsOfOneModelExcludeEachOther(t *testing.T) {
	bubble(t, numbers(100), func(t *testing.T, h *fakeHub) {
		models := t.TempDir()
		h.answers = []http.HandlerFunc{stall(50, h.good)} // so that the others begin in between
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
		// Cancelling also ends the wait for the lock.
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
			// Present does not read the weights.
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
		if len(r.Revision) != 40 || len(r.Weights()) != len("sha256:")+64 || len(r.Files) != 4 {
			t.Errorf("%+v", r)
		}
		for _, f := range r.Files {
			if pinned := len(f.SHA256) == 64 && f.Size > 0; pinned == (f.Name == configFile) {
				t.Errorf("%s of %s: %+v", f.Name, r.Name, f)
			}
		}
	}
}

// security: API10:2023
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 0-10/10", "bytes -1-2/3", "items 0-1/2", "bytes 0-9223372036854775807/*", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, ok := parseContentRange(s)
		if !ok {
			return
		}
		if first < 0 || last < first || total >= 0 && last >= total {
			t.Fatalf("%q is %d-%d/%d", s, first, last, total)
		}
		size := "*"
		if total >= 0 {
			size = fmt.Sprint(total)
		}
		a, b, c, ok := parseContentRange(fmt.Sprintf("bytes %d-%d/%s", first, last, size))
		if !ok || a != first || b != last || c != total {
			t.Fatalf("%q is %d-%d/%d, and then %d-%d/%d", s, first, last, total, a, b, c)
		}
	})
}
