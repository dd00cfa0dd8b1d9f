package hub

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"colophon/internal/retry"
)

// TestPermanentErrorsAreNotRetried lets the server give answers that would be the same at
// a second request. Pull must report each error at once.
func TestPermanentErrorsAreNotRetried(t *testing.T) {
	weights := numbers(100)
	page := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<!DOCTYPE html><p>Sign in") }
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		token  string
		part   int  // size in bytes of the partial file before and after the pull
		gone   bool // whether the pull removes the partial file
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
			// Without the fault, another pull must complete the model.
			h.answers = nil
			o.Note = nil
			if err := errors.Join(Pull(t.Context(), models, h.release, o), h.complete(models)); err != nil {
				t.Errorf("%s, afterwards: %v", name, err)
			}
		})
	}
}

func TestTemporaryErrorsAreRetried(t *testing.T) {
	weights := numbers(100)
	for name, test := range map[string]struct {
		answers []http.HandlerFunc
		ok      bool
		least   time.Duration
		most    time.Duration
		want    string // text in the error or in the first note
	}{
		"500, then good": {slices.Repeat([]http.HandlerFunc{code(500)}, 5), true, 7 * time.Second, 16 * time.Second, "500 Internal Server Error"},
		"always 503":     {slices.Repeat([]http.HandlerFunc{code(503)}, 50), false, 7 * time.Second, 16 * time.Second, "6 requests without progress"},
		"asked to wait":  {[]http.HandlerFunc{code(429, "Retry-After", "20")}, true, 20 * time.Second, 20 * time.Second, "trying again in 20s"},
		"asked too long": {[]http.HandlerFunc{code(503, "Retry-After", "7200")}, true, retry.MaxRequestWait, retry.MaxRequestWait, "503"},
		"stall":          {[]http.HandlerFunc{stall(10, nil), stall(50, nil)}, true, 60 * time.Second, 62 * time.Second, "no byte for 30s"},
		"silence":        {[]http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}, true, 30 * time.Second, 31 * time.Second, "no byte for 30s"},
		"416":            {[]http.HandlerFunc{cut(50, nil), code(416)}, true, 0, 2 * time.Second, "unexpected EOF"},
		"wrong range":    {[]http.HandlerFunc{cut(50, nil), code(206, "Content-Range", "bytes 40-99/100")}, true, 0, 2 * time.Second, "unexpected EOF"},
		"ends early":     {[]http.HandlerFunc{body(weights[:30])}, true, 0, time.Second, "ended after 30 of 100 bytes"},
	} {
		bubble(t, weights, func(t *testing.T, h *fakeHub) {
			h.answers = test.answers
			for i, answer := range test.answers { // sets the handlers that need h
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
			if name == "416" || name == "wrong range" { // the next request must be for the whole file, because the partial file may be wrong
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

// TestCutsWithProgressAreNotFailures cuts the connection many times. If each response
// brings some bytes, Pull must not give up.
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

// Pull must report a full disk at once. Here, the partial file is a link to a device
// that is always full.
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
