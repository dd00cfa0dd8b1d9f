package clients

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colophon/client"
	"colophon/test/apitest"
)

// followed is what a client has received of a job.
type followed struct {
	Data    []string
	Tickets int // tickets that the client has used
	Opened  int // answers that began a stream
}

// submit submits jobs that run while their clients follow them.
func submit(t *testing.T, c apitest.Client, n int) (ids []string) {
	t.Helper()
	for seed := range n {
		ids = append(ids, c.Submit(fmt.Sprintf(`{"prompt":"The nature of light","max_new_tokens":150,"seed":%d}`, seed)))
	}
	return ids
}

// compare compares what a client has received of a job with the record.
func compare(t *testing.T, c apitest.Client, id string, got []string) {
	t.Helper()
	var record []json.RawMessage
	c.Do("GET", "/jobs/"+id+"/events", "").Must(t, 200).Into(t, &record)
	want := make([]string, len(record))
	for i, event := range record {
		want[i] = string(event)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("job %s: %s", id, diff)
	}
}

// testStreams follows jobs through cuts.
func testStreams(t *testing.T, s *service) {
	// The first bytes of an answer are its headers and the first id, about 900 bytes.
	for _, c := range []struct {
		name     string
		earliest int64
		tickets  int // tickets that a client may need for a job; 0 for any number
	}{
		{"a ticket's stream resumes after cuts behind the first id, at two processes, byte for byte", 1000, 1},
		{"cut anywhere, also before the first id, a page gets another ticket and goes on, byte for byte", 1, 0},
	} {
		scenario(t, "eventsource", npmVersion(t, "eventsource"), c.name, func(t *testing.T) {
			user := s.user(t, fmt.Sprintf("eventsource-%d", c.earliest))
			ids := submit(t, user, 10)
			cut := newCutter(t, s, 60, c.earliest, 4000, 13)
			var got map[string]followed
			run(t, &got, "eventsource.js", "URL="+user.URL, "PROXY="+cut.url, "TOKEN="+user.Access, "JOBS="+strings.Join(ids, ","))
			opened := 0
			for _, id := range ids {
				compare(t, user, id, got[id].Data)
				opened += got[id].Opened
				if c.tickets > 0 && got[id].Tickets != c.tickets {
					t.Errorf("job %s took %d tickets", id, got[id].Tickets)
				}
			}
			t.Logf("%d cuts, %d streams", cut.cuts.Load(), opened)
			if cut.cuts.Load() < 20 {
				t.Errorf("only %d cuts", cut.cuts.Load())
			}
		})
	}
	scenario(t, "colophon/client", "this", "follows jobs through cuts, at two processes", func(t *testing.T) {
		user := s.user(t, "client")
		ids := submit(t, user, 10)
		cut := newCutter(t, s, 60, 1, 4000, 14)
		c, err := client.New(cut.url, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SignIn(t.Context(), "client", apitest.Password); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			var text strings.Builder
			for event, err := range c.Follow(t.Context(), id, 0) {
				if err != nil {
					t.Fatal(err)
				}
				text.WriteString(event.Text)
			}
			var job struct {
				Completion string
			}
			user.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &job)
			if text.String() != job.Completion || job.Completion == "" {
				t.Errorf("job %s: followed %q, want %q", id, text.String(), job.Completion)
			}
		}
	})
}
