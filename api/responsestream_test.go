package api_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"colophon/api"
	"colophon/events"
	"colophon/test/apitest"
)

// responseEvent is an event of a response's stream.
type responseEvent struct {
	Type           string
	SequenceNumber *int `json:"sequence_number"`
	Response       *response
	ItemID         string `json:"item_id"`
	OutputIndex    *int   `json:"output_index"`
	ContentIndex   *int   `json:"content_index"`
	Item           *outputItem
	Delta, Text    *string
	Logprobs       []logProb
	data           string
}

// asResponseEvent reads an event and fails the test unless it has the members of its type.
func asResponseEvent(t testing.TB, m apitest.Message) (e responseEvent) {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(m.Data), &members); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
		t.Fatal(err)
	}
	e.data = m.Data
	mustFollowOpenResponses(t, schemaOfEvents, []byte(m.Data))
	if m.ID != "" || m.Event != e.Type || e.SequenceNumber == nil {
		t.Errorf("message %+v", m)
	}
	if _, ok := members["error"]; ok && e.Type != "error" {
		t.Errorf("%s has a top-level error", m.Data)
	}
	if raw, ok := members["response"]; ok {
		asResponse(t, raw)
	}
	want := map[string][]string{
		"response.output_item.added":  {"output_index", "item"},
		"response.output_item.done":   {"output_index", "item"},
		"response.content_part.added": {"item_id", "output_index", "content_index", "part"},
		"response.content_part.done":  {"item_id", "output_index", "content_index", "part"},
		"response.output_text.delta":  {"item_id", "output_index", "content_index", "delta", "logprobs"},
		"response.output_text.done":   {"item_id", "output_index", "content_index", "text", "logprobs"},
		"error":                       {"code", "message", "param", "error"},
	}[e.Type]
	if want == nil {
		want = []string{"response"}
	}
	if len(members) != len(want)+2 {
		t.Errorf("%s has %d members", m.Data, len(members))
	}
	for _, name := range want {
		if value, ok := members[name]; !ok || string(value) == "null" && e.Type != "error" {
			t.Errorf("%s lacks %s", m.Data, name)
		}
	}
	return e
}

// responseEvents reads a stream of a response to its end.
func (f *fixture) responseEvents(c apitest.Client, method, path, body string) (list []responseEvent) {
	f.T.Helper()
	resp, err := c.Open(f.T.Context(), method, path, body)
	if err != nil {
		f.T.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, err := io.ReadAll(resp.Body)
		f.T.Fatalf("%d %s, %v: %s", resp.StatusCode, resp.Header.Get("Content-Type"), err, body)
	}
	for m, err := range apitest.Messages(resp.Body) {
		if err != nil {
			f.T.Fatal(err)
		}
		if m.Data != "" {
			list = append(list, asResponseEvent(f.T, m))
		}
	}
	return list
}

func typesOf(list []responseEvent) (types []string) {
	for _, e := range list {
		if e.Type != "response.output_text.delta" {
			types = append(types, strings.TrimPrefix(e.Type, "response."))
		}
	}
	return types
}

func dataOf(list []responseEvent) (data []string) {
	for _, e := range list {
		data = append(data, e.data)
	}
	return data
}

// TestStreamedResponse streams responses, and then again from each event on at another process.
// The events must be the same bytes.
func TestStreamedResponse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	elsewhere := f.another(t, func(o *api.Options) {})
	for _, k := range []struct{ members, types string }{
		{`"background":false`, "created in_progress output_item.added content_part.added output_text.done content_part.done output_item.done completed"},
		{`"background":true`, "created queued in_progress output_item.added content_part.added output_text.done content_part.done output_item.done completed"},
		{`"max_output_tokens":9`, "created in_progress output_item.added content_part.added output_text.done content_part.done output_item.done incomplete"},
	} {
		list := f.responseEvents(f.Client, "POST", "/v1/responses", `{"model":"opticks","temperature":0,"stream":true,"input":"The nature of light",`+k.members+`}`)
		if got := strings.Join(typesOf(list), " "); got != k.types {
			t.Errorf("%s: events %s, want %s", k.members, got, k.types)
		}
		text := ""
		for i, e := range list {
			if *e.SequenceNumber != i {
				t.Errorf("event %d has the number %d", i, *e.SequenceNumber)
			}
			if e.Delta != nil {
				text += *e.Delta
			}
		}
		last := list[len(list)-1].Response
		job := f.jobOf(last.ID, "resp_")
		if text != job.Text || last.text() != text || text == "" {
			t.Errorf("pieces %q, text %q, job %q", text, last.text(), job.Text)
		}
		for after := range list {
			rest := f.responseEvents(elsewhere, "GET", "/v1/responses/"+last.ID+"?starting_after="+strconv.Itoa(after), "")
			if !slices.Equal(dataOf(rest), dataOf(list[after+1:])) {
				t.Errorf("after %d: %q, want %q", after, dataOf(rest), dataOf(list[after+1:]))
			}
		}
		if again := f.responseEvents(elsewhere, "GET", "/v1/responses/"+last.ID+"?stream=true", ""); !slices.Equal(dataOf(again), dataOf(list)) {
			t.Errorf("from the start: %q, want %q", dataOf(again), dataOf(list))
		}
	}
}

// leave opens the stream of a new response, reads its first event and disconnects. It returns
// the response.
func (f *fixture) leave(body string) *response {
	f.T.Helper()
	ctx, cancel := context.WithCancel(f.T.Context())
	defer cancel()
	resp, err := f.Open(ctx, "POST", "/v1/responses", body)
	if err != nil {
		f.T.Fatal(err)
	}
	defer resp.Body.Close()
	for m, err := range apitest.Messages(resp.Body) {
		if err != nil {
			f.T.Fatal(err)
		}
		if m.Data != "" {
			e := asResponseEvent(f.T, m)
			if e.Type != "response.created" {
				f.T.Fatalf("the first event is %s", m.Data)
			}
			cancel()
			return e.Response
		}
	}
	f.T.Fatal("no event")
	return nil
}

// TestClientThatLeavesStrandsNoJob disconnects at response.created, before there is a worker. A
// response in the foreground is cancelled. One in the background goes on, and can be followed
// and cancelled.
func TestClientThatLeavesStrandsNoJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	left := f.leave(`{"model":"opticks","stream":true,"input":"Light"}`)
	list := f.responseEvents(f.Client, "GET", "/v1/responses/"+left.ID+"?stream=true", "")
	if last := list[len(list)-1]; last.Type != "response.incomplete" || last.Response.Status != "cancelled" || strings.Join(typesOf(list), " ") != "created in_progress incomplete" {
		t.Errorf("%v: %+v", typesOf(list), last)
	}
	if job := f.jobOf(left.ID, "resp_"); job.State != events.Cancelled {
		t.Errorf("%+v", job)
	}
	goesOn := f.leave(`{"model":"opticks","stream":true,"background":true,"input":"Light"}`)
	queued := f.respond(f.Client, `"input":"Light","background":true`)
	if queued.Status != "queued" || len(queued.Output) != 0 || queued.Usage != nil {
		t.Errorf("%+v", queued)
	}
	for range 2 {
		r := asResponse(t, f.Do("POST", "/v1/responses/"+queued.ID+"/cancel", "").Must(t, 200).Body)
		if r.Status != "cancelled" {
			t.Errorf("%+v", r)
		}
	}
	f.work()
	list = f.responseEvents(f.Client, "GET", "/v1/responses/"+goesOn.ID+"?starting_after=0", "")
	if last := list[len(list)-1]; last.Type != "response.completed" || last.Response.text() == "" || list[0].Type != "response.queued" {
		t.Errorf("%v: %+v", typesOf(list), last)
	}
}

// TestStoppingServiceEndsTheStreamOfAResponse stops the service during a stream. The last event
// must be an error of both specifications, with the number of the event before it. Another
// process continues after this number.
func TestStoppingServiceEndsTheStreamOfAResponse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	elsewhere := f.another(t, func(o *api.Options) { o.Stopping = t.Context() })
	resp, err := f.Open(t.Context(), "POST", "/v1/responses", `{"model":"opticks","stream":true,"background":true,"input":"Light"}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []responseEvent
	for m, err := range apitest.Messages(resp.Body) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Data == "" {
			continue
		}
		if list = append(list, asResponseEvent(t, m)); len(list) == 2 {
			f.stop()
		}
	}
	var failure struct {
		SequenceNumber int `json:"sequence_number"`
		Code, Message  string
		Error          struct{ Type, Code, Message string }
	}
	if err := json.Unmarshal([]byte(list[len(list)-1].data), &failure); err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || list[2].Type != "error" || failure.SequenceNumber != 1 || failure.Code != "interrupted" || failure.Error.Code != "interrupted" || failure.Message == "" || failure.Error.Type != "server_error" {
		t.Errorf("%q", dataOf(list))
	}
	f.work()
	rest := f.responseEvents(elsewhere, "GET", "/v1/responses/"+list[0].Response.ID+"?starting_after=1", "")
	if last := rest[len(rest)-1]; *rest[0].SequenceNumber != 2 || last.Type != "response.completed" {
		t.Errorf("%q", dataOf(rest))
	}
}
