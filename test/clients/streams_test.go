package clients

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"colophon/client"
	"colophon/test/apitest"
)

var seed = flag.Uint64("seed", 0, "seed of the points at which streams are cut; 0 draws one")

// cuts is the number of cuts that each client must survive.
const cuts = 200

// followed is what a client has received of a job.
type followed struct {
	Data    []string // the events as JSON
	Refused []int    // the answers to tickets of an EventSource that had brought events before
}

// follow follows all jobs to their ends through a proxy.
type follow func(t *testing.T, proxy string, user apitest.Client, ids []string) map[string]followed

// testStreams cuts streams and compares what their clients receive with the whole streams.
func testStreams(t *testing.T, s *service) {
	from := *seed
	if from == 0 {
		from = rand.Uint64()
	}
	t.Logf("-seed %d", from)
	user := s.user(t, "cuts")
	ids := submit(t, user, 20) // they run while the first clients follow them
	whole := sync.OnceValue(func() map[string][]string { return responseEvents(t, user, ids) })
	record := sync.OnceValue(func() map[string][]string { return jobEvents(t, user, ids) })
	for i, c := range []struct {
		client, version string
		follow          follow
		want            func() map[string][]string
		form            func(*testing.T, string) string // of events that the client has decoded
	}{
		{"eventsource", npmVersion(t, "eventsource"), withNode("eventsource.js"), record, asBytes},
		{"openai", npmVersion(t, "openai"), withNode("cut.js"), whole, through[any]},
		{"openai-go", goVersion(t, ".", "github.com/openai/openai-go/v3"), withGo, whole, asBytes},
		{"curl", "of the system", withCurl, whole, asBytes},
		{"colophon/client", "this", withClient, record, through[client.Event]},
	} {
		t.Run(c.client, func(t *testing.T) {
			t.Parallel()
			scenario(t, c.client, c.version, fmt.Sprintf("streams are the same, byte for byte, after %d cuts anywhere, at two processes", cuts), func(t *testing.T) {
				cut := newCutter(t, s, from+uint64(i))
				cut.cut(cuts)
				rounds := 0
				for ; cut.made.Load() < cuts; rounds++ {
					got := c.follow(t, cut.url, user, ids) // after which the record is whole
					compare(t, c.want(), got, c.form)
				}
				t.Logf("%d cuts in %d rounds of %d streams", cut.made.Load(), rounds, len(ids))
			})
		})
	}
}

// submit submits responses and returns the ids of their jobs.
func submit(t *testing.T, c apitest.Client, n int) (ids []string) {
	t.Helper()
	for i := range n {
		var r responses.Response
		c.Do("POST", "/v1/responses", fmt.Sprintf(`{"model":%q,"input":"Light %d – naïve","max_output_tokens":%d,"background":true}`, model, i, long)).Must(t, 200).Into(t, &r)
		ids = append(ids, jobOf(r))
	}
	return ids
}

// responseEvents returns the events of responses from streams without cuts.
func responseEvents(t *testing.T, c apitest.Client, ids []string) map[string][]string {
	all := map[string][]string{}
	for _, id := range ids {
		for m, err := range c.Stream(t.Context(), "/v1/responses/resp_"+id+"?stream=true") {
			if m.Data != "" {
				all[id] = append(all[id], m.Data)
			}
			if err != nil {
				break
			}
		}
	}
	return all
}

// jobEvents returns the recorded events of jobs.
func jobEvents(t *testing.T, c apitest.Client, ids []string) map[string][]string {
	all := map[string][]string{}
	for _, id := range ids {
		var record []json.RawMessage
		c.Do("GET", "/jobs/"+id+"/events", "").Must(t, 200).Into(t, &record)
		for _, event := range record {
			all[id] = append(all[id], string(event))
		}
	}
	return all
}

// compare compares what a client has received with the whole streams, in a form of events.
func compare(t *testing.T, want map[string][]string, got map[string]followed, form func(*testing.T, string) string) {
	t.Helper()
	formed := func(events []string) (all []string) {
		for _, event := range events {
			all = append(all, form(t, event))
		}
		return all
	}
	for id, whole := range want {
		if diff := cmp.Diff(formed(whole), formed(got[id].Data)); diff != "" {
			t.Errorf("job %s: %.4000s", id, diff)
		}
		for _, status := range got[id].Refused {
			if status != 503 { // a database that is too busy
				t.Errorf("job %s: its ticket was refused with %d", id, status)
			}
		}
	}
}

// asBytes leaves an event as it is.
func asBytes(_ *testing.T, event string) string { return event }

// through decodes an event and encodes it again, as its client has done.
func through[T any](t *testing.T, event string) string {
	t.Helper()
	var decoded T
	if err := json.Unmarshal([]byte(event), &decoded); err != nil {
		t.Fatal(err)
	}
	return encode(t, decoded)
}

func encode(t *testing.T, value any) string {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Error(err)
	}
	return string(raw)
}

// withNode follows jobs with a program in Node.
func withNode(file string) follow {
	return func(t *testing.T, proxy string, user apitest.Client, ids []string) (got map[string]followed) {
		run(t, &got, file, "URL="+user.URL, "PROXY="+proxy, "TOKEN="+user.Access, "JOBS="+strings.Join(ids, ","))
		return got
	}
}

// atOnce follows all jobs at the same time.
func atOnce(ids []string, one func(id string) []string) map[string]followed {
	var mu sync.Mutex
	var all sync.WaitGroup
	got := map[string]followed{}
	for _, id := range ids {
		all.Go(func() {
			data := one(id)
			mu.Lock()
			defer mu.Unlock()
			got[id] = followed{Data: data}
		})
	}
	all.Wait()
	return got
}

// withGo follows jobs with OpenAI's SDK for Go.
func withGo(t *testing.T, proxy string, user apitest.Client, ids []string) map[string]followed {
	// Each stream has a connection of its own. Idle ones would keep cuts from others.
	c := sdk(proxy, user.Access, option.WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
	return atOnce(ids, func(id string) (events []string) {
		for ended := false; !ended; {
			params, query := responses.ResponseGetParams{}, option.WithQuery("stream", "true")
			if len(events) > 0 {
				params.StartingAfter = openai.Int(int64(len(events) - 1))
			}
			s := c.Responses.GetStreaming(t.Context(), "resp_"+id, params, query)
			for s.Next() {
				events = append(events, s.Current().RawJSON())
				ended = isLast(s.Current().Type)
			}
			_ = s.Close()
			if _, answered := errors.AsType[*openai.Error](s.Err()); answered || t.Context().Err() != nil {
				t.Error(s.Err())
				return events
			}
		}
		return events
	})
}

// isLast reports whether an event is the last one of a response.
func isLast(kind string) bool {
	return kind == "response.completed" || kind == "response.incomplete" || kind == "response.failed"
}

// withCurl follows jobs with curl. The messages that curl has received whole are kept.
func withCurl(t *testing.T, proxy string, user apitest.Client, ids []string) map[string]followed {
	return atOnce(ids, func(id string) (events []string) {
		for ended := false; !ended; {
			query := "?stream=true"
			if len(events) > 0 {
				query = fmt.Sprintf("?starting_after=%d", len(events)-1)
			}
			curl := exec.CommandContext(t.Context(), "curl", "--silent", "--no-buffer", "--fail", "--retry", "5", "--config", "-")
			curl.Stdin = strings.NewReader(fmt.Sprintf("url = %q\nheader = %q\n", proxy+"/v1/responses/resp_"+id+query, "Authorization: Bearer "+user.Access))
			var got bytes.Buffer
			curl.Stdout = &got
			if err := curl.Run(); t.Context().Err() != nil || curl.ProcessState.ExitCode() == 22 { // an answer, and no cut
				t.Error(err)
				return events
			}
			whole, _, _ := cutLast(got.String(), "\n\n")
			for text := range strings.SplitSeq(whole, "\n\n") {
				kind, data, ok := strings.Cut(strings.TrimPrefix(text, "event: "), "\ndata: ")
				if ok { // comments have no data
					events = append(events, data)
					ended = isLast(kind)
				}
			}
		}
		return events
	})
}

// cutLast is strings.Cut around the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// withClient follows jobs with this project's client, which reconnects by itself.
func withClient(t *testing.T, proxy string, user apitest.Client, ids []string) map[string]followed {
	c, err := client.New(proxy, client.Options{APIKey: user.Access, Tries: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return atOnce(ids, func(id string) (events []string) {
		for event, err := range c.Follow(t.Context(), id, 0) {
			if err != nil {
				t.Error(err)
				return events
			}
			events = append(events, encode(t, event))
		}
		return events
	})
}
