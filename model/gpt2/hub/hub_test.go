package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"colophon/model/gpt2"
)

// fakeHub serves a release from memory over in-memory connections, so that tests
// run in a synctest bubble.
type fakeHub struct {
	release Release
	prefix  string           // path of the files
	list    http.HandlerFunc // answers requests for the list of files
	files   fstest.MapFS
	conns   chan net.Conn
	closed  chan struct{}

	mu       sync.Mutex
	requests []*http.Request
	// answers holds the handlers of the next requests for the weights, one for each
	// request. config holds the handlers of the next requests for config.json. The
	// method good answers all other requests.
	answers, config []http.HandlerFunc
}

const base = "/maker/tiny/resolve/0123456789abcdef/"

// newHub starts a fakeHub for a release with the given weights.
func newHub(t *testing.T, weights []byte) *fakeHub {
	t.Helper()
	config, err := os.ReadFile("../testdata/tiny/config.json")
	if err != nil {
		t.Fatal(err)
	}
	h := &fakeHub{
		files: fstest.MapFS{
			"config.json":       {Data: config},
			"vocab.json":        {Data: []byte(`{"a":0}`)},
			"merges.txt":        {Data: []byte("#version: 0.2\n")},
			"model.safetensors": {Data: weights},
		},
		prefix: base,
		conns:  make(chan net.Conn),
		closed: make(chan struct{}),
	}
	h.release = Release{Name: "tiny", Repo: "maker/tiny", Revision: "0123456789abcdef", Files: []File{{Name: "config.json"}}}
	if h.release.Config, err = gpt2.ReadConfig(h.files); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vocab.json", "merges.txt", "model.safetensors"} {
		h.release.Files = append(h.release.Files, File{name, int64(len(h.files[name].Data)), digest(h.files[name].Data)})
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Hour}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(h) })
	t.Cleanup(func() { server.Close(); serving.Wait() })
	return h
}

// bubble runs a test with a fakeHub in a synctest bubble.
func bubble(t *testing.T, weights []byte, test func(t *testing.T, h *fakeHub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newHub(t, weights)) })
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Accept, Close and Addr implement net.Listener.
func (h *fakeHub) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}
func (h *fakeHub) Close() error   { close(h.closed); return nil }
func (h *fakeHub) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// dial returns a connection to the fakeHub. It ignores the address.
func (h *fakeHub) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case h.conns <- server:
		return client, nil
	case <-h.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *fakeHub) options() Options {
	return Options{Endpoint: "http://hub.test", Transport: &http.Transport{DialContext: h.dial}}
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	h.mu.Lock()
	h.requests = append(h.requests, r)
	answer := h.good
	switch {
	case strings.HasPrefix(r.URL.Path, "/api/"):
		answer = h.list
	case name == "model.safetensors" && len(h.answers) > 0:
		answer, h.answers = h.answers[0], h.answers[1:]
	case name == "config.json" && len(h.config) > 0:
		answer, h.config = h.config[0], h.config[1:]
	}
	h.mu.Unlock()
	answer(w, r)
}

// good answers a request as the real hub does.
func (h *fakeHub) good(w http.ResponseWriter, r *http.Request) {
	file, ok := h.files[strings.TrimPrefix(r.URL.Path, h.prefix)]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"`+digest(file.Data)+`"`)
	serve(w, r, file.Data)
}

// serve answers a request with the bytes b, as the real hub serves a file.
func serve(w http.ResponseWriter, r *http.Request, b []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
}

// ranges returns the byte range of each request for the weights, or "all" for a request
// of the whole file.
func (h *fakeHub) ranges() []string {
	var ranges []string
	for _, r := range h.requests {
		if strings.HasSuffix(r.URL.Path, "model.safetensors") {
			asked := "all"
			if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
				asked = from
			}
			ranges = append(ranges, asked)
		}
	}
	return ranges
}

// cut returns a handler that sends only the first n bytes of the body of an answer and
// then closes the connection.
func cut(n int, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { answer(&cutter{w, n}, r) }
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) <= c.left {
		c.left -= len(b)
		return c.ResponseWriter.Write(b)
	}
	c.ResponseWriter.Write(b[:c.left])
	http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// stall returns a handler that sends only the first n bytes of the body of an answer
// and then waits.
func stall(n int, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			_ = recover() // without this, cutter's panic would close the connection
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}()
		answer(&cutter{w, n}, r)
	}
}

// code returns a handler that answers with a status code and header fields. The header
// has names and values in turn.
func code(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// body returns a handler that sends b without a Content-Length.
func body(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(b)
		http.NewResponseController(w).Flush()
	}
}

// complete returns an error if the model is not complete, or if a partial file is left.
func (h *fakeHub) complete(models string) error {
	for name, f := range h.files {
		got, err := os.ReadFile(filepath.Join(models, "tiny", name))
		if err != nil || string(got) != string(f.Data) {
			return fmt.Errorf("%s: %d bytes, %v, want the %d published", name, len(got), err, len(f.Data))
		}
	}
	var left []string
	err := fs.WalkDir(os.DirFS(models), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Dir(name) != "tiny" && name != ".pull/tiny.lock" {
			left = append(left, name)
		}
		return err
	})
	if err != nil || left != nil {
		return fmt.Errorf("files left: %q, %v", left, err)
	}
	return nil
}

// part returns the path of the partial file of the weights.
func (h *fakeHub) part(models string) string {
	return filepath.Join(models, ".pull", "tiny@0123456789abcdef", "model.safetensors.part")
}

// leave writes a partial file of the weights, as an earlier pull may have left it.
func (h *fakeHub) leave(t *testing.T, models string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.part(models)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.part(models), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// numbers returns n bytes. Each of them differs from its neighbours.
func numbers(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}
