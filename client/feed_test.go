package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

// feedCourse holds the events of a feed. The events of others are between them.
var feedCourse = []string{
	`{"index":0,"stream":"account/a","version":1,"type":"account.registered","at":"2026-11-23T03:03:29Z","username":"isaac"}`,
	`{"index":7,"stream":"job/j","version":1,"type":"job.accepted","at":"2026-11-23T03:03:29Z","prompt":"light"}`,
	`{"index":8,"stream":"account/a","version":2,"type":"policy.refused","at":"2026-11-23T03:03:29Z","policy":"seed/1","rule":"prompt_word"}`,
	`{"index":30,"stream":"job/j","version":2,"type":"job.cancelled","at":"2026-11-23T03:03:29Z","by":"owner"}`,
}

var feedIndexes = []int64{0, 7, 8, 30}

// feedStream returns the messages of the feed after an index, as the header of a request
// gives it.
func feedStream(after string) string {
	var b strings.Builder
	b.WriteString(": open\n\n")
	known := slices.IndexFunc(feedIndexes, func(index int64) bool { return strconv.FormatInt(index, 10) == after })
	for i, data := range feedCourse {
		if i > known {
			fmt.Fprintf(&b, "id: %d\nevent: x\ndata: %s\n\n", feedIndexes[i], data)
		}
	}
	return b.String()
}

// feed collects the indexes of the first n events that Feed yields.
func feed(ctx context.Context, c *Client, after int64, n int) (indexes []int64, err error) {
	for e, err := range c.Feed(ctx, after) {
		if err != nil {
			return indexes, err
		}
		if indexes = append(indexes, e.Index); len(indexes) == n {
			break
		}
	}
	return indexes, nil
}

// TestFeedSurvivesACutAtEveryByte cuts the first connection after each byte of the stream. The
// caller must see every event exactly once.
func TestFeedSurvivesACutAtEveryByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := feedStream("")
		for cut := range len(whole) {
			s := newService(t)
			connections := 0
			s.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
				if connections++; connections == 1 {
					sse(whole[:cut])(w, r)
					return
				}
				sse(feedStream(r.Header.Get("Last-Event-ID")))(w, r)
			})
			got, err := feed(t.Context(), s.client(Options{}), -1, len(feedIndexes))
			if err != nil || !slices.Equal(got, feedIndexes) || connections > 2 {
				t.Errorf("cut at %d: %v, %v over %d connections", cut, got, err, connections)
			}
		}
	})
}

func TestFeedYieldsAccountAndJobs(t *testing.T) {
	s := newService(t)
	s.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) { sse(feedStream(r.Header.Get("Last-Event-ID")))(w, r) })
	var all []FeedEvent
	for e, err := range s.over(Options{}).Feed(t.Context(), -1) {
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, e); len(all) == len(feedCourse) {
			break
		}
	}
	if all[0].Username != "isaac" || all[0].Job() != "" || all[1].Prompt != "light" || all[1].Job() != "j" || all[2].Type != PolicyRefused || all[2].Rule != "prompt_word" || all[3].By != "owner" {
		t.Errorf("%+v", all)
	}
	if got, err := feed(t.Context(), s.over(Options{}), 7, 2); err != nil || !slices.Equal(got, []int64{8, 30}) {
		t.Errorf("after 7: %v, %v", got, err)
	}
}

// TestFeedRefusesWrongMessages answers with messages that the API does not allow.
func TestFeedRefusesWrongMessages(t *testing.T) {
	for what, stream := range map[string]string{
		"an event again":     "id: 7\ndata: " + feedCourse[1] + "\n\nid: 7\ndata: " + feedCourse[1] + "\n\n",
		"another id":         "id: 6\ndata: " + feedCourse[1] + "\n\n",
		"no JSON":            "id: 7\ndata: {\n\n",
		"an event from past": "id: 7\ndata: " + feedCourse[1] + "\n\nid: 0\ndata: " + feedCourse[0] + "\n\n",
	} {
		s := newService(t)
		s.HandleFunc("GET /events", sse(stream))
		if got, err := feed(t.Context(), s.over(Options{}), -1, 3); !errors.Is(err, ErrProtocol) || len(got) > 1 {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}
