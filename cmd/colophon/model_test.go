package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"colophon/internal/pg/pgtest"
	"colophon/migrations"
	"colophon/model/catalog"
	"colophon/model/gpt2"
	"colophon/model/gpt2/hub"
	"colophon/model/opticks"
)

// fakeHub serves the built-in model as a published model with the name pocket.
type fakeHub struct {
	known    catalog.Releases
	url      string
	requests atomic.Int64
}

func newFakeHub(t *testing.T) *fakeHub {
	t.Helper()
	r := hub.Release{Name: "pocket", Repo: "maker/pocket", Revision: "fedcba9876543210"}
	var err error
	if r.Config, err = gpt2.ReadConfig(opticks.Files()); err != nil {
		t.Fatal(err)
	}
	for _, name := range catalog.Files(opticks.Files()) {
		f := hub.File{Name: name}
		if name != "config.json" {
			b, err := fs.ReadFile(opticks.Files(), name)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(b)
			f.Size, f.SHA256 = int64(len(b)), hex.EncodeToString(sum[:])
		}
		r.Files = append(r.Files, f)
	}
	h := &fakeHub{known: catalog.Releases{r}}
	files := http.StripPrefix("/maker/pocket/resolve/fedcba9876543210/", http.FileServerFS(opticks.Files()))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1)
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	h.url = server.URL
	return h
}

// flags returns flags that select the model pocket and the directory for pulled models.
func (h *fakeHub) flags(models string) modelFlags {
	return modelFlags{sourceFlags: sourceFlags{"pocket", hubFlags{modelDirFlags{models}, h.url, ""}}, Engine: "native"}
}

// testTerminal is a terminal whose output a test can read.
type testTerminal struct {
	terminal
	stdout, stderr bytes.Buffer
}

func newTestTerminal() *testTerminal {
	s := &testTerminal{}
	s.terminal = terminal{strings.NewReader(""), &s.stdout, &s.stderr}
	return s
}

// TestPulledModelIsListedAndVerified pulls a model, damages its files and pulls it again.
// The commands list and verify must report the state of the files at each step.
//
// security: LLM03:2025, API10:2023
func TestPulledModelIsListedAndVerified(t *testing.T) {
	h := newFakeHub(t)
	data := t.TempDir()
	dir := filepath.Join(data, "models", "pocket")
	list := func() string {
		s := newTestTerminal()
		if err := (&listCmd{dataFlags{data}, modelDirFlags{}}).Run(t.Context(), &s.terminal, h.known); err != nil {
			t.Error(err)
		}
		return s.stdout.String()
	}
	verify := func() (string, error) {
		s := newTestTerminal()
		err := (&verifyCmd{"pocket", dataFlags{data}, modelDirFlags{}}).Run(t.Context(), &s.terminal, h.known)
		return s.stdout.String(), err
	}
	pull := func() *testTerminal {
		s := newTestTerminal()
		c := pullCmd{"pocket", dataFlags{data}, hubFlags{HFEndpoint: h.url}}
		if err := c.Run(t.Context(), &s.terminal, h.known); err != nil {
			t.Error(err)
		}
		return s
	}
	if out := list(); !strings.Contains(out, "opticks  4.5 MB  F16   256      apache-2.0  -             built in\n") || !strings.Contains(out, "not pulled") {
		t.Errorf("before: %s", out)
	}
	if _, err := verify(); err == nil || !strings.Contains(err.Error(), "colophon model pull pocket") {
		t.Errorf("before: %v", err)
	}
	s := pull()
	if got := s.stdout.String(); got != fmt.Sprintf("pocket is in %s, verified\n", dir) {
		t.Errorf("pull printed %q", got)
	}
	if lines := strings.Split(strings.TrimSpace(s.stderr.String()), "\n"); len(lines) < 5 || len(lines) > 20 || !strings.HasPrefix(lines[len(lines)-1], "pocket: 4.5 MB of 4.5 MB (100 %)") {
		t.Errorf("progress %q", lines)
	}
	if out := list(); !strings.Contains(out, "pocket   4.5 MB  F16   256      -           fedcba987654  verified, in "+dir) {
		t.Errorf("after: %s", out)
	}
	if out, err := verify(); err != nil || strings.Count(out, "as published") != 4 || !strings.Contains(out, "maker/pocket at revision fedcba9876543210") {
		t.Errorf("after: %s, %v", out, err)
	}
	// The verification must name both a missing and a damaged file. A pull must replace
	// both files.
	if err := errors.Join(os.Remove(filepath.Join(dir, "merges.txt")), flip(filepath.Join(dir, "model.safetensors"))); err != nil {
		t.Fatal(err)
	}
	if out := list(); !strings.Contains(out, "damaged") {
		t.Errorf("damaged: %s", out)
	}
	_, err := verify()
	if err == nil || !strings.Contains(err.Error(), "merges.txt") || !strings.Contains(err.Error(), "model.safetensors has the SHA-256") || strings.Contains(err.Error(), "config.json") {
		t.Errorf("damaged: %v", err)
	}
	before := h.requests.Load()
	pull()
	if n := h.requests.Load() - before; n != 2 {
		t.Errorf("replacing took %d requests", n)
	}
	if _, err := verify(); err != nil {
		t.Error(err)
	}
}

// flip changes a bit in the middle of a file.
func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o644)
}

// TestPublishedModelIsPulledOnce runs a command that needs a model several times. While
// the files are good, only the first run may pull the model.
func TestPublishedModelIsPulledOnce(t *testing.T) {
	h := newFakeHub(t)
	models := t.TempDir()
	seed := uint64(7)
	generate := func() (*testTerminal, error) {
		s := newTestTerminal()
		c := generateCmd{modelFlags: h.flags(models), Prompt: "The rays of light", MaxNewTokens: 20, Temperature: 0.8, TopK: 40, TopP: 1, Seed: &seed}
		err := c.Run(t.Context(), &s.terminal, h.known)
		return s, err
	}
	want, _, err := command(t, "", "generate", "--seed", "7", "--max-new-tokens", "20", "The rays of light")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		s, err := generate()
		if err != nil || s.stdout.String() != want {
			t.Fatalf("%q, %v, want %q", s.stdout.String(), err, want)
		}
		if pulled := strings.Contains(s.stderr.String(), "pulling it, 4.5 MB"); pulled != (i == 0) {
			t.Errorf("generate number %d logged %q", i, s.stderr.String())
		}
	}
	if n := h.requests.Load(); n != 4 {
		t.Errorf("%d requests", n)
	}

	// The packed weights are those of the digest, even if the weights have changed on disk.
	dir, packed := filepath.Join(models, "pocket"), filepath.Join(models, ".packed", "pocket.f16")
	if err := flip(filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	if s, err := generate(); err != nil || s.stdout.String() != want {
		t.Errorf("damaged weights beside packed ones: %q, %v", s.stdout.String(), err)
	}
	// The command must refuse weights that have changed on disk, and packed ones too.
	if err := flip(packed); err != nil {
		t.Fatal(err)
	}
	if s, err := generate(); !strings.Contains(s.stderr.String(), "packing the weights again") || err == nil || !strings.Contains(err.Error(), "colophon model pull pocket") || s.stdout.Len() > 0 {
		t.Errorf("damaged weights: %q, %v", s.stdout.String(), err)
	}
	// The command finds a damaged small file, or a file of the wrong size, before it
	// reads the weights. It must then pull the files again.
	if err := errors.Join(flip(filepath.Join(dir, "vocab.json")), os.Truncate(filepath.Join(dir, "model.safetensors"), 1000)); err != nil {
		t.Fatal(err)
	}
	s, err := generate()
	if err != nil || s.stdout.String() != want || !strings.Contains(s.stderr.String(), "damaged (vocab.json has the SHA-256") {
		t.Errorf("%q, %v; %s", s.stdout.String(), err, s.stderr.String())
	}

	// A directory with the name of a model must not change the meaning of that name.
	t.Chdir(t.TempDir())
	if err := os.Mkdir("pocket", 0o755); err != nil {
		t.Fatal(err)
	}
	s, err = generate()
	if err != nil || s.stdout.String() != want || !strings.Contains(s.stderr.String(), "./pocket") {
		t.Errorf("%q, %v; %s", s.stdout.String(), err, s.stderr.String())
	}
	f := modelFlags{sourceFlags: sourceFlags{Model: "./pocket"}}
	if _, err := f.find(t.Context(), "data", h.known, &s.terminal); err != nil {
		t.Error(err)
	}
}

// TestUpPullsItsModel runs the service with a model that has not been pulled. The service
// must pull the model.
func TestUpPullsItsModel(t *testing.T) {
	t.Parallel()
	h := newFakeHub(t)
	data := t.TempDir()
	url := pgtest.New(t, migrations.Up).URL
	r, w := io.Pipe()
	s := newTestTerminal()
	s.out = w
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		c := upCmd{
			processFlags{
				databaseFlags{dataFlags: dataFlags{data}, DatabaseURL: url},
				h.flags(""), policyFlags{}, webhookFlags{}, retentionFlags{}, adminFlags{}, stopFlags{defaultGrace}, productionFlags{},
			},
			listenFlags{Listen: "127.0.0.1:0", limitFlags: limitFlags{NoRateLimits: true}}, workFlags{Slots: 2}, installFlags{},
		}
		err := c.Run(ctx, &s.terminal, h.known, slog.New(slog.DiscardHandler))
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	var at string
	if _, err := fmt.Fscanf(r, "ready %s\n", &at); err != nil {
		t.Fatalf("%v, %v", err, <-ended)
	}
	go io.Copy(io.Discard, r)
	c := newUser(t, at, "reader")
	var text struct {
		ModelName string `json:"model_name"`
	}
	c.Do("POST", "/generate", `{"prompt":"Light","max_length":20}`).Must(t, 200).Into(t, &text)
	if _, err := os.Stat(filepath.Join(data, "models", "pocket", "model.safetensors")); err != nil || text.ModelName != "pocket" {
		t.Errorf("model %q, %v", text.ModelName, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestPullUsesHubOfTheEnvironment runs every command that pulls a model. Each command
// must use the hub that an environment variable names.
func TestPullUsesHubOfTheEnvironment(t *testing.T) {
	var requests []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, r.URL.Path+" "+r.Header.Get("Authorization"))
		http.NotFound(w, r)
	}))
	defer server.Close()
	env := map[string]string{"HF_ENDPOINT": server.URL + "/mirror", "HF_TOKEN": "hf_secret", "COLOPHON_MODELS": t.TempDir()}
	for _, args := range [][]string{{"model", "pull", "gpt2"}, {"generate", "--model", "gpt2", "hi"}, {"up", "--model", "gpt2"}, {"api", "--model", "gpt2"}, {"worker", "--model", "gpt2"}} {
		requests = nil
		var out, errOut bytes.Buffer
		err := run(t.Context(), args, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, nil, &out, &errOut)
		if err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("%q: %v", args, err)
		}
		const want = "/mirror/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e/config.json Bearer hf_secret"
		if len(requests) != 1 || requests[0] != want {
			t.Errorf("%q requested %q", args, requests)
		}
		if output := out.String() + errOut.String() + fmt.Sprint(err); strings.Contains(output, "secret") {
			t.Errorf("%q printed %q", args, output)
		}
	}
	if out, _, err := command(t, "", "model", "pull", "opticks"); err != nil || !strings.Contains(out, "built in") {
		t.Errorf("%q, %v", out, err)
	}
	if _, _, err := command(t, "", "model", "pull", "gpt5"); err == nil || !strings.Contains(err.Error(), "want gpt2, gpt2-medium, ") {
		t.Errorf("%v", err)
	} else if _, ok := errors.AsType[*usageError](err); !ok {
		t.Errorf("%v is not a usage error", err)
	}
	if out, _, err := command(t, "", "model", "list", "--models", t.TempDir()); err != nil || !strings.Contains(out, "gpt2             549.6 MB  -     -        -           607a30d783df  not pulled\n"+
		"gpt2-medium      -         -     -        -           -             not pulled\n") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestVerifyNamesEveryProblemOfADirectory(t *testing.T) {
	out, _, err := command(t, "", "model", "verify", "opticks")
	if err != nil || strings.Count(out, "sha256:") != 4 || !strings.Contains(out, "2048 token ids, context 256") {
		t.Errorf("%s, %v", out, err)
	}
	if _, _, err := command(t, "", "model", "verify", "nowhere"); err == nil || !strings.HasPrefix(err.Error(), "<model>: unknown model") {
		t.Errorf("unknown model: %v", err)
	}
	// write writes a changed copy of the built-in model and returns its directory.
	write := func(changes map[string]func([]byte) []byte) string {
		dir := t.TempDir()
		for _, name := range catalog.Files(opticks.Files()) {
			b, err := fs.ReadFile(opticks.Files(), name)
			if err != nil {
				t.Fatal(err)
			}
			b = bytes.Clone(b)
			if change := changes[name]; change != nil {
				if b = change(b); b == nil {
					continue
				}
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	if out2, _, err := command(t, "", "model", "verify", write(nil)); err != nil || strings.Count(out2, "sha256:") != 4 || out2[:200] != out[:200] {
		t.Errorf("%s, %v", out2, err)
	}
	type changes = map[string]func([]byte) []byte
	gone := func([]byte) []byte { return nil }
	for name, test := range map[string]struct {
		changes changes
		want    []string
	}{
		"no files":   {changes{"config.json": gone, "vocab.json": gone, "merges.txt": gone, "model.safetensors": gone}, []string{"config.json", "vocab.json", "merges.txt", "model.safetensors"}},
		"no merges":  {changes{"merges.txt": gone}, []string{"merges.txt"}},
		"no network": {changes{"config.json": func([]byte) []byte { return []byte("{}") }}, []string{"config.json"}},
		"cut weights, and other merges": {changes{
			"model.safetensors": func(b []byte) []byte { return b[:len(b)-4] },
			"merges.txt":        func([]byte) []byte { return []byte("x yz\n") },
		}, []string{"model.safetensors", "merges.txt"}},
		"not a number": {changes{"model.safetensors": func(b []byte) []byte {
			copy(b[len(b)-4:], "\xff\xff\xff\xff")
			return b
		}}, []string{"NaN"}},
	} {
		_, _, err := command(t, "", "model", "verify", write(test.changes))
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not name %s", name, err, want)
			}
		}
	}
}
