package hub

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAccessTokenIsSentOnlyToTheEndpoint follows redirects to other hosts, ports and
// schemes. Only the configured host may receive the access token, and no message to the
// user may contain it.
//
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

	// An unknown certificate must be a permanent error.
	o := Options{Endpoint: secure.URL, Transport: http.DefaultTransport.(*http.Transport).Clone()}
	o.Note = func(text string) { t.Errorf("note %q", text) }
	if err := Pull(t.Context(), models, h.release, o); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: %v", err)
	}
	o.Transport = secure.Client().Transport
	if err := Pull(t.Context(), models, h.release, o); err == nil || !strings.Contains(err.Error(), "by http") {
		t.Errorf("redirect to http: %v", err)
	}
	// A redirect from http to https must be allowed. The endpoint may have a path.
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
