package e2e

import (
	"context"
	"os"
	"testing"

	"colophon/internal/pg/pgtest"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

func TestMain(m *testing.M) {
	_ = os.Setenv("PEBBLE_VA_NOSLEEP", "1") // the ACME authority then has no random waits
	programtest.Main(m)
}

// service is a running `colophon up` over a database of its own.
type service struct {
	*programtest.Process
	db *pgtest.DB
}

// up runs the command until the test ends. At the end, the command must stop with exit
// status 0.
func up(t *testing.T, flags ...string) *service {
	t.Helper()
	db := programtest.Database(t)
	settings := []string{"DATABASE_URL=" + db.URL, "COLOPHON_DATA=" + t.TempDir()}
	p := programtest.Start(t, settings, append([]string{"up", "--listen", "127.0.0.1:0"}, flags...)...)
	t.Cleanup(p.Stop)
	return &service{p, db}
}

// anonymous returns a client that is not signed in.
func anonymous(t *testing.T, url string) apitest.Client { return apitest.Client{T: t, URL: url} }

// signIn returns a client with a new session of an account that apitest.NewUser made.
func signIn(t *testing.T, url, name string) apitest.Client {
	t.Helper()
	c := anonymous(t, url)
	return c.As(c.SignIn(name, apitest.Password).Access)
}

// follow reads the messages of a job's stream after the message with the id last. It
// reads at most limit messages. If limit is 0, it reads all messages.
func follow(c apitest.Client, id, last string, limit int) []apitest.Message {
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
