package hub

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
)

// TestPullResumesAtEveryByte cuts the response before its header or after any byte of its
// body. The same pull must then request only the rest, and request no byte twice.
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

// TestPullResumesAPartialFileOfAnyLength begins with a partial file that a killed process
// may have left. It has any length, and bytes of the right file or of another file. The
// next pull must complete the model.
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

// A pull must not send a weak ETag with If-Range, because a weak ETag does not promise
// the same bytes.
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

// Without a digest, nothing shows whether pieces of a config belong together. So a
// config must be fetched in one piece.
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

// FuzzContentRange parses arbitrary Content-Range headers. An accepted range must lie
// within the file, and must be the same range after it is written and parsed again.
//
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
