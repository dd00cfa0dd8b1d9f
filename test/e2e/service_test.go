package e2e

import (
	"context"
	"io/fs"
	"os"
	"testing"
	"time"

	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

func TestMain(m *testing.M) {
	_ = os.Setenv("PEBBLE_VA_NOSLEEP", "1") // the authority of the test for certificates
	programtest.Main(m)
}

// slow skips a test of five seconds and more with -short.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes longer than five seconds")
	}
}

// opticks are the files of the built-in model.
var opticks = os.DirFS("../../model/opticks")

func readFile(t *testing.T, files fs.FS, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(files, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// service is a running `colophon up` over a database of its own.
type service struct {
	*programtest.Process
	db *pgtest.DB
}

// up runs the command until the test ends, and then expects it to stop in order.
func up(t *testing.T, flags ...string) *service {
	t.Helper()
	db := programtest.Database(t)
	settings := []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir()}
	p := programtest.Start(t, settings, append([]string{"up", "--listen", "127.0.0.1:0"}, flags...)...)
	t.Cleanup(p.Stop)
	return &service{p, db}
}

// client is one user's view of a service.
type client struct{ apitest.Client }

// anonymous returns a client that is not signed in.
func anonymous(t *testing.T, url string) client { return client{apitest.Client{T: t, URL: url}} }

// job is the job resource, as far as the tests look at it.
type job struct {
	ID, State, Prompt, Completion, Reason string
	GeneratedText                         string `json:"generated_text"`
	ModelName                             string `json:"model_name"`
	FinishReason                          string `json:"finish_reason"`
	CreatedAt                             string `json:"created_at"`
	Version                               int
	Usage                                 struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
	Params struct{ Seed uint64 }
}

const password = "securepassword"

// newUser registers a user and signs in.
func newUser(t *testing.T, url, name string) client {
	t.Helper()
	anonymous(t, url).Register(name, password)
	return signIn(t, url, name)
}

func signIn(t *testing.T, url, name string) client {
	t.Helper()
	c := anonymous(t, url)
	c.Access = c.SignIn(name, password).Access
	return c
}

// follow reads up to limit messages of a job's stream after a version, all of
// them if limit is 0.
func (c client) follow(id, last string, limit int) []apitest.Message {
	c.T.Helper()
	ctx, cut := context.WithTimeout(c.T.Context(), programtest.Patience)
	defer cut()
	var headers []string
	if last != "" {
		headers = []string{"Last-Event-ID", last}
	}
	messages := []apitest.Message{}
	for m, err := range c.Stream(ctx, "/jobs/"+id+"/events", headers...) {
		if err != nil {
			c.T.Fatalf("stream: %v", err)
		}
		if m == (apitest.Message{}) {
			continue
		}
		if messages = append(messages, m); len(messages) == limit {
			break
		}
	}
	return messages
}

// eventually polls for a condition that no event announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(programtest.Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}
