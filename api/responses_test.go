package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"colophon/events"
	"colophon/test/apitest"
)

// response is a response as far as the tests look at it.
type response struct {
	ID, Object, Status, Model string
	CreatedAt                 int64                    `json:"created_at"`
	CompletedAt               *int64                   `json:"completed_at"`
	IncompleteDetails         *struct{ Reason string } `json:"incomplete_details"`
	Error                     *struct{ Code, Message string }
	PreviousResponseID        *string `json:"previous_response_id"`
	Instructions              *string
	Metadata                  map[string]string
	MaxOutputTokens           *int `json:"max_output_tokens"`
	Background, Store         bool
	Temperature               float64
	TopLogprobs               int `json:"top_logprobs"`
	Output                    []outputItem
	Usage                     *responseUsage
}

type outputItem struct {
	Type, ID, Status, Role, Phase string
	Content                       []struct {
		Type, Text  string
		Annotations []any
		Logprobs    []logProb
	}
}

type responseUsage struct {
	InputTokens        int `json:"input_tokens"`
	InputTokensDetails struct {
		CachedTokens     *int `json:"cached_tokens"`
		CacheWriteTokens *int `json:"cache_write_tokens"`
	} `json:"input_tokens_details"`
	OutputTokens        int `json:"output_tokens"`
	OutputTokensDetails struct {
		ReasoningTokens *int `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	TotalTokens int `json:"total_tokens"`
}

// requiredOfResponses are the members that the specification of OpenResponses demands, and
// whether each may be null.
var requiredOfResponses = map[string]bool{
	"id": false, "object": false, "created_at": false, "completed_at": true, "status": false, "incomplete_details": true, "model": false,
	"previous_response_id": true, "instructions": true, "output": false, "error": true, "tools": false, "tool_choice": false, "truncation": false,
	"parallel_tool_calls": false, "text": false, "top_p": false, "presence_penalty": false, "frequency_penalty": false, "top_logprobs": false,
	"temperature": false, "reasoning": true, "usage": true, "max_output_tokens": true, "max_tool_calls": true, "store": false, "background": false,
	"service_tier": false, "metadata": false, "safety_identifier": true, "prompt_cache_key": true,
}

// asResponse reads a response and fails the test unless it has the required members.
func asResponse(t testing.TB, raw []byte) (r response) {
	t.Helper()
	mustFollowOpenResponses(t, schemaOfResponses, raw)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	if len(requiredOfResponses) != 31 {
		t.Fatalf("%d required members", len(requiredOfResponses))
	}
	for name, nullable := range requiredOfResponses {
		if value, ok := members[name]; !ok || !nullable && string(value) == "null" {
			t.Errorf("the response has %s %q", name, value)
		}
	}
	states := []string{"queued", "in_progress", "completed", "incomplete", "failed", "cancelled"}
	if r.Object != "response" || !slices.Contains(states, r.Status) || !strings.HasPrefix(r.ID, "resp_") || r.Metadata == nil || r.Output == nil {
		t.Errorf("response %s", raw)
	}
	for _, item := range r.Output {
		if item.Type != "message" || item.Role != "assistant" || item.ID != "msg_"+strings.TrimPrefix(r.ID, "resp_") || item.Phase != "final_answer" ||
			len(item.Content) != 1 || item.Content[0].Type != "output_text" || item.Content[0].Annotations == nil || item.Content[0].Logprobs == nil {
			t.Errorf("item %+v", item)
		}
	}
	if u := r.Usage; u != nil && (u.InputTokensDetails.CachedTokens == nil || u.InputTokensDetails.CacheWriteTokens == nil || u.OutputTokensDetails.ReasoningTokens == nil || u.TotalTokens != u.InputTokens+u.OutputTokens) {
		t.Errorf("usage %+v", u)
	}
	return r
}

// text returns the text of a response.
func (r response) text() (text string) {
	for _, item := range r.Output {
		text += item.Content[0].Text
	}
	return text
}

// paramOf returns the parameter that a refusal names.
func paramOf(t testing.TB, a apitest.Answer) string {
	t.Helper()
	var p struct{ Error struct{ Param string } }
	a.Into(t, &p)
	return p.Error.Param
}

// respond makes a response.
func (f *fixture) respond(c apitest.Client, members string, headers ...string) response {
	f.T.Helper()
	return asResponse(f.T, c.Do("POST", "/v1/responses", `{"model":"opticks","temperature":0,`+members+`}`, headers...).Must(f.T, 200).Body)
}

// TestComplianceCases rebuilds the cases of the compliance tests of OpenResponses that need no
// tools and no images.
func TestComplianceCases(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	const alice = `{"type":"message","role":"user","content":"My name is Alice."}`
	for name, k := range map[string]struct{ members, prompt string }{
		"basic-response": {`"input":[{"type":"message","role":"user","content":"Say hello in exactly 3 words."}]`, "Say hello in exactly 3 words."},
		"system-prompt": {`"input":[{"type":"message","role":"system","content":"You are a pirate."},{"type":"message","role":"user","content":"Say hello."}]`,
			"You are a pirate.\n\nuser:\nSay hello.\n\nassistant:\n"},
		"multi-turn": {`"input":[` + alice + `,{"type":"message","role":"assistant","content":"Hello Alice!"},{"type":"message","role":"user","content":"What is my name?"}]`,
			"user:\nMy name is Alice.\n\nassistant:\nHello Alice!\n\nuser:\nWhat is my name?\n\nassistant:\n"},
		"assistant-phase": {`"input":[` + alice + `,{"type":"message","role":"assistant","phase":"commentary","content":[{"type":"output_text","text":"Let me see."}]},{"type":"message","role":"user","content":"Well?"}]`,
			"user:\nMy name is Alice.\n\nassistant:\nLet me see.\n\nuser:\nWell?\n\nassistant:\n"},
		"items without a type, as the AI SDK sends them": {`"input":[{"role":"user","content":[{"type":"input_text","text":"The nature "},{"type":"input_text","text":"of light"}]}]`, "The nature of light"},
		"text without members, as LangChain sends it":    {`"input":"Light","text":{},"include":[],"tools":[],"reasoning":{"effort":null},"tool_choice":"auto"`, "Light"},
		"instructions": {`"input":"Light","instructions":"You know optics."`, "You know optics.\n\nuser:\nLight\n\nassistant:\n"},
	} {
		r := f.respond(f.Client, k.members)
		job := f.jobOf(r.ID, "resp_")
		if r.Status != "completed" || len(r.Output) != 1 || r.Output[0].Status != "completed" || r.text() != job.Text || r.CompletedAt == nil || *r.CompletedAt != job.FinishedAt.Unix() || r.CreatedAt != job.AcceptedAt.Unix() {
			t.Errorf("%s: %+v", name, r)
		}
		if job.Prompt != k.prompt {
			t.Errorf("%s: prompt %q, want %q", name, job.Prompt, k.prompt)
		}
		if r.Usage == nil || r.Usage.InputTokens != job.PromptTokens || r.Usage.OutputTokens != job.Usage.CompletionTokens {
			t.Errorf("%s: usage %+v", name, r.Usage)
		}
	}
}

// TestPreviousResponses continues a response twice. The prompts must contain the inputs and
// the texts before, but no instructions of before.
func TestPreviousResponses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	first := f.respond(f.Client, `"max_output_tokens":5,"input":"Light","instructions":"Be brief.","metadata":{"a":"b"}`)
	if first.Status != "incomplete" || first.IncompleteDetails == nil || first.IncompleteDetails.Reason != "max_output_tokens" || *first.MaxOutputTokens != 5 || first.Output[0].Status != "incomplete" ||
		first.Instructions == nil || *first.Instructions != "Be brief." || first.Metadata["a"] != "b" || first.CompletedAt != nil {
		t.Errorf("%+v", first)
	}
	second := f.respond(f.Client, `"max_output_tokens":4,"input":[{"role":"user","content":"Rays"}],"previous_response_id":"`+first.ID+`"`)
	third := f.respond(f.Client, `"max_output_tokens":4,"input":"Colours","instructions":"Be kind.","previous_response_id":"`+second.ID+`"`)
	want := "Be kind.\n\nuser:\nLight\n\nassistant:\n" + first.text() + "\n\nuser:\nRays\n\nassistant:\n" + second.text() + "\n\nuser:\nColours\n\nassistant:\n"
	if job := f.jobOf(third.ID, "resp_"); job.Prompt != want || third.PreviousResponseID == nil || *third.PreviousResponseID != second.ID {
		t.Errorf("prompt %q, want %q; %+v", job.Prompt, want, third)
	}
	var count struct {
		Object      string
		InputTokens int `json:"input_tokens"`
	}
	f.Do("POST", "/v1/responses/input_tokens", `{"model":"opticks","input":"Colours","instructions":"Be kind.","text":{},"previous_response_id":"`+second.ID+`"}`).Must(t, 200).Into(t, &count)
	if count.Object != "response.input_tokens" || count.InputTokens != third.Usage.InputTokens {
		t.Errorf("%+v, want %d tokens", count, third.Usage.InputTokens)
	}
	refused := func(c apitest.Client, id, code string) {
		t.Helper()
		a := c.Do("POST", "/v1/responses", `{"model":"opticks","input":"x","previous_response_id":"`+id+`"}`)
		if a.Refused(t, 400, code); paramOf(t, a) != "previous_response_id" {
			t.Errorf("%s", a.Body)
		}
	}
	_, other := f.user("another")
	refused(f.As(other), second.ID, "previous_response_not_found")
	refused(f.Client, "resp_1", "previous_response_not_found")
	f.Do("DELETE", "/v1/responses/"+first.ID, "").Must(t, 200)
	refused(f.Client, first.ID, "previous_response_erased")
	refused(f.Client, third.ID, "previous_response_erased")
}

// TestResponsesAreRead reads and erases a response and its input, also as somebody else.
func TestResponsesAreRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	r := f.respond(f.Client, `"input":[{"role":"system","content":"One"},{"role":"user","id":"msg_mine","content":"Two"},{"role":"assistant","content":[{"type":"output_text","text":"Three","annotations":[],"logprobs":[]}]},{"role":"user","content":"Four"}]`)
	if again := asResponse(t, f.Do("GET", "/v1/responses/"+r.ID, "").Must(t, 200).Body); again.text() != r.text() || again.Status != "completed" {
		t.Errorf("%+v, want %+v", again, r)
	}
	type page struct {
		Data    []outputItem
		FirstID string `json:"first_id"`
		LastID  string `json:"last_id"`
		HasMore bool   `json:"has_more"`
	}
	items := func(query string) (p page) {
		t.Helper()
		f.Do("GET", "/v1/responses/"+r.ID+"/input_items"+query, "").Must(t, 200).Into(t, &p)
		return p
	}
	all := items("?order=asc")
	if len(all.Data) != 4 || all.HasMore || all.Data[0].Content[0].Type != "input_text" || all.Data[2].Content[0].Type != "output_text" || all.Data[1].ID != "msg_mine" || all.FirstID != all.Data[0].ID {
		t.Errorf("%+v", all)
	}
	if p := items("?limit=3"); len(p.Data) != 3 || !p.HasMore || p.Data[0].Content[0].Text != "Four" || p.LastID != "msg_mine" {
		t.Errorf("%+v", p)
	}
	if p := items("?after=msg_mine"); len(p.Data) != 1 || p.HasMore || p.Data[0].Content[0].Text != "One" {
		t.Errorf("%+v", p)
	}
	_, other := f.user("another")
	for _, path := range []string{"", "/input_items", "?stream=true", "?starting_after=0"} {
		f.As(other).Do("GET", "/v1/responses/"+r.ID+path, "").Refused(t, 404, "not_found")
	}
	plain := f.Submit(prompt)
	f.Do("GET", "/v1/responses/resp_"+plain, "").Refused(t, 404, "not_found")
	f.Do("DELETE", "/v1/responses/resp_"+plain, "").Refused(t, 404, "not_found")
	for range 2 {
		var deleted struct {
			ID, Object string
			Deleted    bool
		}
		f.Do("DELETE", "/v1/responses/"+r.ID, "").Must(t, 200).Into(t, &deleted)
		if deleted.ID != r.ID || !deleted.Deleted || deleted.Object != "response" {
			t.Errorf("%+v", deleted)
		}
	}
	for _, path := range []string{"", "/input_items", "?stream=true", "?starting_after=0"} {
		f.Do("GET", "/v1/responses/"+r.ID+path, "").Refused(t, 404, "response_erased")
	}
	f.Do("POST", "/v1/responses/"+r.ID+"/cancel", "").Refused(t, 404, "response_erased")
}

// TestUnstoredResponsesAreErased makes responses that are not to be stored. The client gets the
// text, and nothing of it stays.
func TestUnstoredResponsesAreErased(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	r := f.respond(f.Client, `"input":"Light","store":false`)
	if r.Store || r.text() == "" {
		t.Errorf("%+v", r)
	}
	list := f.responseEvents(f.Client, "POST", "/v1/responses", `{"model":"opticks","input":"Light","store":false,"stream":true}`)
	last := list[len(list)-1]
	if last.Type != "response.completed" || last.Response.text() == "" {
		t.Errorf("%+v", last)
	}
	for _, id := range []string{r.ID, last.Response.ID} {
		if job := f.jobOf(id, "resp_"); job.ErasedAt.IsZero() || job.Request != "" || job.State != events.Completed {
			t.Errorf("%+v", job)
		}
		f.Do("GET", "/v1/responses/"+id, "").Refused(t, 404, "response_erased")
	}
	// With an idempotency key, the text stays for a moment. It must not get into another record.
	kept := asResponse(t, f.Do("POST", "/v1/responses", `{"model":"opticks","input":"Light","store":false}`, "Idempotency-Key", "kept").Must(t, 200).Body)
	f.Do("POST", "/v1/responses", `{"model":"opticks","input":"Go on","previous_response_id":"`+kept.ID+`"}`).Refused(t, 400, "previous_response_not_found")
	f.Do("POST", "/jobs/"+strings.TrimPrefix(kept.ID, "resp_")+"/logprobs", `{"logprobs":1}`).Refused(t, 409, "no_repeatable_text")
	a := f.Do("POST", "/v1/responses", `{"model":"opticks","input":"Light","store":false,"background":true}`)
	if a.Refused(t, 400, "background_not_stored"); paramOf(t, a) != "store" {
		t.Errorf("%s", a.Body)
	}
}

// TestKeysWithoutReadGetNoEarlierTexts uses an API key that may only generate. It gets the text
// that it has asked for, and no other.
func TestKeysWithoutReadGetNoEarlierTexts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	var created struct{ Key string }
	f.Do("POST", "/keys", `{"name":"a key","scopes":["generate"]}`).Must(t, 201).Into(t, &created)
	c := f.As(created.Key)
	r := f.respond(c, `"input":"Light","instructions":"Be brief.","max_output_tokens":5`)
	if r.text() == "" {
		t.Errorf("%+v", r)
	}
	c.Do("GET", "/v1/responses/"+r.ID, "").Refused(t, 403, "insufficient_scope")
	c.Do("POST", "/v1/responses", `{"model":"opticks","input":"x","previous_response_id":"`+r.ID+`"}`).Refused(t, 403, "insufficient_scope")
	if cancelled := asResponse(t, c.Do("POST", "/v1/responses/"+r.ID+"/cancel", "").Must(t, 200).Body); cancelled.Status != "incomplete" || len(cancelled.Output) != 0 || cancelled.Instructions != nil {
		t.Errorf("%+v", cancelled)
	}
	c.Do("DELETE", "/v1/responses/"+r.ID, "").Must(t, 200)
}

// TestHugeRecordsAreRefused sends inputs of which the text policy leaves a few tokens, alone and
// as a long conversation. Their records must stay small.
//
// security: API4:2023
func TestHugeRecordsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	padded := func(n int) string { return `"a ` + strings.Repeat("<", n) + `"` }
	f.Do("POST", "/v1/responses", `{"model":"opticks","input":`+padded(20_000)+`}`).Refused(t, 400, "context_length_exceeded")
	f.Do("POST", "/v1/responses/input_tokens", `{"model":"opticks","input":`+padded(80_000)+`}`).Refused(t, 413, "invalid_request")
	previous, links := "", 0
	for ; links < 50; links++ {
		a := f.Do("POST", "/v1/responses", `{"model":"opticks","max_output_tokens":1,"input":`+padded(9000)+previous+`}`)
		if a.Status == 400 {
			a.Refused(t, 400, "context_length_exceeded")
			break
		}
		previous = `,"previous_response_id":"` + asResponse(t, a.Must(t, 200).Body).ID + `"`
	}
	if links < 7 || links > 11 { // 64 KB of texts
		t.Errorf("a conversation of %d responses with 9 KB each", links)
	}
}

// TestFieldsOfResponsesAreRefused sends fields that cannot be honoured.
func TestFieldsOfResponsesAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for body, param := range map[string]string{
		`"input":"x","tools":[{"type":"function","name":"f"}]`:                                   "tools",
		`"input":"x","text":{"format":{"type":"json_schema","name":"n","schema":{}}}`:            "text.format",
		`"input":"x","reasoning":{"effort":"high"}`:                                              "reasoning.effort",
		`"input":"x","truncation":"auto"`:                                                        "truncation",
		`"input":"x","conversation":"conv_1"`:                                                    "conversation",
		`"input":"x","include":["file_search_call.results"]`:                                     "include",
		`"input":"x","stream_options":{"include_obfuscation":true}`:                              "stream_options.include_obfuscation",
		`"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:"}]}]`:       "input[0].content[0].type",
		`"input":[{"type":"function_call_output","call_id":"c","output":"o"}]`:                   "input[0].type",
		`"input":[{"role":"user","content":"x"},{"type":"item_reference","id":"msg_1"}]`:         "input[1].type",
		`"input":"x","max_tool_calls":2,"max_output_tokens":null,"metadata":null,"include":null`: "max_tool_calls",
	} {
		a := f.Do("POST", "/v1/responses", `{"model":"fake",`+body+`}`)
		if a.Refused(t, 400, "unsupported_parameter"); paramOf(t, a) != param {
			t.Errorf("%s: %s, want the param %s", body, a.Body, param)
		}
	}
	long := strings.Repeat("peacockfeather", 100)
	p := f.Do("POST", "/v1/responses", `{"model":"fake","input":"x","metadata":{"`+long+`":"a"}}`).Refused(t, 400, "metadata_form")
	if strings.Contains(fmt.Sprint(p), "peacock") {
		t.Errorf("%+v", p)
	}
	f.Do("POST", "/v1/responses", `{"model":"fake","input":"x","metadata":{"a":1}}`).Refused(t, 400, "metadata_form")
	f.Do("POST", "/v1/responses", `{"model":"fake","input":"x","temprature":1}`).Refused(t, 400, "unknown_parameter")
	f.Do("POST", "/v1/responses", `{"model":"gpt-5","input":"x"}`).Refused(t, 404, "model_not_found")
	f.Do("POST", "/v1/responses", `{"model":"fake"}`).Refused(t, 400, "invalid_request")
	if a := f.Do("POST", "/v1/responses", `{"model":"fake","input":"`+strings.Repeat("x", 1200)+`"}`); a.Code() != "context_length_exceeded" || a.Status != http.StatusBadRequest {
		t.Errorf("%d %s", a.Status, a.Code())
	}
}
