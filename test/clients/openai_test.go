package clients

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"

	"colophon/client"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// testOpenAI uses OpenAI's SDK for Go.
func testOpenAI(t *testing.T, s *service) {
	limited := s.api(t, "--limit-keys=1/2s")
	g := newGo(t, s, "openai-go")
	for _, f := range surfaces {
		g.texts(t, f, limited.URL)
	}
	g.responses(t)
	g.models(t)
	g.logprobs(t)
	g.files(t)
	g.batches(t)
}

// goSDK has OpenAI's client for Go.
type goSDK struct {
	*service
	version, key string
	first, other openai.Client  // of the two processes
	user         apitest.Client // the same user
}

func newGo(t *testing.T, s *service, user string) *goSDK {
	t.Helper()
	g := &goSDK{service: s, version: goVersion(t, ".", "github.com/openai/openai-go/v3"), key: s.key(t, user)}
	g.first, g.other = sdk(s.apis[0].URL, g.key), sdk(s.apis[1].URL, g.key)
	g.user = apitest.Client{T: t, URL: s.apis[1].URL, Access: g.key}
	return g
}

func (g *goSDK) scenario(t *testing.T, name string, run func(*testing.T)) {
	t.Helper()
	scenario(t, "openai-go", g.version, name, run)
}

// job returns the job of a text.
func (g *goSDK) job(t *testing.T, id string) (j client.Job) {
	t.Helper()
	g.user.Do("GET", "/jobs/"+id, "").Must(t, 200).Into(t, &j)
	return j
}

// ended waits until a job has ended and returns it.
func (g *goSDK) ended(t *testing.T, id string) client.Job {
	t.Helper()
	g.user.Do("GET", "/jobs/"+id+"/events", "", "Accept", "text/event-stream").Must(t, 200)
	return g.job(t, id)
}

// accepted waits until a job with a prompt has been accepted and returns its id.
func (g *goSDK) accepted(t *testing.T, prompt string) (id string) {
	t.Helper()
	programtest.Eventually(t, "a job for "+prompt, func() bool {
		var list []client.Job
		g.user.Do("GET", "/jobs", "").Must(t, 200).Into(t, &list)
		for _, job := range list {
			if job.Prompt == prompt {
				id = job.ID
			}
		}
		return id != ""
	})
	return id
}

// cancelledInTheMiddle starts texts until one is cancelled before its end. begin begins a text
// and leaves it. A short text may end before.
func (g *goSDK) cancelledInTheMiddle(t *testing.T, begin func(input string) (job string)) {
	t.Helper()
	for seed := range 20 {
		switch job := g.ended(t, begin(fmt.Sprintf("Light %d", seed))); job.State {
		case "cancelled":
			return
		case "completed":
		default:
			t.Fatalf("the job is %s", job.State)
		}
	}
	t.Error("every job has ended before its client left")
}

// texts runs the scenarios of one operation.
func (g *goSDK) texts(t *testing.T, f surface, limited string) {
	g.scenario(t, f.name+": a text is that of its job", func(t *testing.T) {
		got, err := f.create(t.Context(), g.first, request{tokens: 40, options: plain})
		if err != nil {
			t.Fatal(err)
		}
		job := g.job(t, got.job)
		if got.text != job.Completion || got.text == "" || got.input != int64(job.Usage.PromptTokens) || got.output != int64(job.Usage.CompletionTokens) {
			t.Errorf("%+v of %+v", got, job)
		}
	})
	g.scenario(t, f.name+": a stream has the same text and usage as one answer", func(t *testing.T) {
		r := request{tokens: 40, seed: 7, temperature: 1, options: plain}
		if f.name == "responses" {
			r.temperature = 0
		}
		want, err := f.create(t.Context(), g.first, r)
		if err != nil {
			t.Fatal(err)
		}
		r.options = nil
		s := f.stream(t.Context(), g.first, r)
		first := s.begin(t)
		got, err := s.rest(first)
		if err != nil || got.text != want.text || got.text == first.text || got.input != want.input || got.output != want.output {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	})
	g.scenario(t, f.name+": a client that leaves its stream cancels the job", func(t *testing.T) {
		g.cancelledInTheMiddle(t, func(input string) string {
			s := f.stream(t.Context(), g.first, request{input: input, tokens: long})
			defer s.close()
			return s.begin(t).job
		})
	})
	g.scenario(t, f.name+": errors 400, 401 and 404 have their codes, and are not retried", func(t *testing.T) {
		calls := 0
		c := sdk(g.apis[0].URL, g.key, counted(&calls))
		for _, k := range []struct {
			client openai.Client
			change option.RequestOption
			status int
			code   string
		}{
			{c, f.unsupported, 400, "unsupported_parameter"},
			{sdk(g.apis[0].URL, "sk-colophon-wrong", counted(&calls)), option.WithJSONSet("user", "u"), 401, "invalid_api_key"},
			{c, option.WithJSONSet("model", "gpt-none"), 404, "model_not_found"},
			{c, option.WithJSONSet("temperature", 5), 400, "invalid_request"},
		} {
			_, err := f.create(t.Context(), k.client, request{tokens: 1, options: append(plain, k.change)})
			refused(t, err, k.status, k.code)
		}
		if calls != 4 {
			t.Errorf("%d calls", calls)
		}
	})
	g.scenario(t, f.name+": a request beyond the rate is sent again and succeeds", func(t *testing.T) {
		calls, sent := 0, 0
		c := sdk(limited, g.key, counted(&calls))
		programtest.Eventually(t, "a request beyond the rate", func() bool {
			sent++
			if _, err := f.create(t.Context(), c, request{tokens: 1, options: plain}); err != nil {
				t.Fatal(err)
			}
			return calls > sent
		})
	})
}

// plain removes the options of streams, which other requests may not have.
var plain = []option.RequestOption{option.WithJSONDel("stream_options")}

// responses runs the scenarios of responses alone.
func (g *goSDK) responses(t *testing.T) {
	g.scenario(t, "responses: a background response is polled at another process", func(t *testing.T) {
		params := responseParams(request{tokens: 40})
		params.Background = openai.Bool(true)
		begun, err := g.first.Responses.New(t.Context(), params)
		if err != nil || begun.Status != "queued" && begun.Status != "in_progress" {
			t.Fatalf("%+v, %v", begun, err)
		}
		var got *responses.Response
		programtest.Eventually(t, "the response has ended", func() bool {
			if got, err = g.other.Responses.Get(t.Context(), begun.ID, responses.ResponseGetParams{}); err != nil {
				t.Fatal(err)
			}
			return got.Status != "queued" && got.Status != "in_progress"
		})
		params.Background = openai.Bool(false)
		want, err := g.first.Responses.New(t.Context(), params)
		if err != nil || got.OutputText() != want.OutputText() || got.Status != want.Status || got.OutputText() == "" {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	})
	g.scenario(t, "responses: a background response is cancelled, and again", func(t *testing.T) {
		g.cancelledInTheMiddle(t, func(input string) string {
			params := responseParams(request{input: input, tokens: long})
			params.Background = openai.Bool(true)
			begun, err := g.first.Responses.New(t.Context(), params)
			if err != nil {
				t.Fatal(err)
			}
			cancelled, err := g.first.Responses.Cancel(t.Context(), begun.ID)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := g.other.Responses.Cancel(t.Context(), begun.ID); err != nil || again.Status != cancelled.Status {
				t.Errorf("%+v, %v, want %+v", again, err, cancelled)
			}
			return jobOf(*begun)
		})
	})
	g.scenario(t, "responses: the stream of an ended response is the same at both processes, whole and after a number", func(t *testing.T) {
		read := func(s *ssestream.Stream[responses.ResponseStreamEventUnion]) (events []string, id string) {
			defer s.Close()
			for s.Next() {
				events = append(events, s.Current().RawJSON())
				id = s.Current().Response.ID
			}
			if err := s.Err(); err != nil {
				t.Error(err)
			}
			return events, id
		}
		want, id := read(g.first.Responses.NewStreaming(t.Context(), responseParams(request{tokens: 40})))
		if len(want) < 6 {
			t.Fatalf("%q", want)
		}
		for _, c := range []openai.Client{g.first, g.other} {
			whole, _ := read(c.Responses.GetStreaming(t.Context(), id, responses.ResponseGetParams{}, option.WithQuery("stream", "true")))
			if diff := cmp.Diff(want, whole); diff != "" {
				t.Error(diff)
			}
			for _, after := range []int{0, 4, len(want) - 2} {
				got, _ := read(c.Responses.GetStreaming(t.Context(), id, responses.ResponseGetParams{StartingAfter: openai.Int(int64(after))}))
				if diff := cmp.Diff(want[after+1:], got); diff != "" {
					t.Error(diff)
				}
			}
		}
	})
	g.scenario(t, "responses: a response is continued, listed, counted and deleted", func(t *testing.T) {
		ctx := t.Context()
		params := responseParams(request{tokens: 10})
		params.Instructions = openai.String("You know optics.")
		first, err := g.first.Responses.New(ctx, params)
		if err != nil {
			t.Fatal(err)
		}
		next := responseParams(request{tokens: 10, input: "Go on."})
		next.PreviousResponseID = openai.String(first.ID)
		second, err := g.other.Responses.New(ctx, next)
		if err != nil {
			t.Fatal(err)
		}
		job := g.job(t, jobOf(*second))
		if second.PreviousResponseID != first.ID || !strings.Contains(job.Prompt, prompt) || !strings.Contains(job.Prompt, strings.TrimSpace(first.OutputText())) || strings.Contains(job.Prompt, "optics") {
			t.Errorf("%+v from %q", second, job.Prompt)
		}
		count, err := g.first.Responses.InputTokens.Count(ctx, responses.InputTokenCountParams{
			Model: openai.String(model), PreviousResponseID: next.PreviousResponseID, Input: responses.InputTokenCountParamsInputUnion{OfString: openai.String("Go on.")},
		})
		if err != nil || count.InputTokens != second.Usage.InputTokens {
			t.Errorf("%+v, %v, want %+v", count, err, second.Usage)
		}
		items, err := g.other.Responses.InputItems.List(ctx, second.ID, responses.InputItemListParams{})
		if err != nil || len(items.Data) != 1 || items.Data[0].Content.OfInputItemContentList[0].Text != "Go on." {
			t.Errorf("%+v, %v", items, err)
		}
		for range 2 {
			if err := g.first.Responses.Delete(ctx, first.ID); err != nil {
				t.Error(err)
			}
		}
		_, err = g.other.Responses.Get(ctx, first.ID, responses.ResponseGetParams{})
		refused(t, err, 404, "response_erased")
		_, err = g.first.Responses.New(ctx, next)
		refused(t, err, 400, "previous_response_erased")
	})
}

func (g *goSDK) models(t *testing.T) {
	g.scenario(t, "models: the model is listed and described", func(t *testing.T) {
		list, err := g.first.Models.List(t.Context())
		if err != nil || len(list.Data) != 1 || list.Data[0].ID != model {
			t.Errorf("%+v, %v", list, err)
		}
		if got, err := g.other.Models.Get(t.Context(), model); err != nil || got.ID != model {
			t.Errorf("%+v, %v", got, err)
		}
		_, err = g.first.Models.Get(t.Context(), "gpt-none")
		refused(t, err, 404, "model_not_found")
	})
}
