package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"colophon/api"
	"colophon/internal/policy"
	"colophon/jobs"
	"colophon/model"
	"colophon/test/apitest"
)

// TestLogprobsAreThoseOfTheEngine asks each operation for log probabilities, and computes them
// from the logits of the engine. Some tokens are parts of characters. The same numbers come from
// POST /jobs/{id}/logprobs for the same text.
func TestLogprobsAreThoseOfTheEngine(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	split := f.bytesOfCharacters()
	for _, members := range []string{`"max_tokens":24,"seed":9`, `"max_tokens":24,"seed":3,` + split} {
		request := `{"model":"opticks","prompt":"The nature of light","n":2,` + members
		c, probs := f.completionLogprobs(request + `,"logprobs":5}`)
		group := f.jobOf(c.ID, "cmpl-").Group
		var past completion
		f.Do("POST", "/v1/completions", request+`}`).Must(t, 200).Into(t, &past)
		texts := f.jobOf(past.ID, "cmpl-").Group
		for i := range c.Choices {
			job, err := f.store.Job(t.Context(), group[i])
			if err != nil {
				t.Fatal(err)
			}
			want := f.computed(job, 5)
			mustBeEqual(t, members, probs[i], asCompletion(want))
			if strings.Contains(members, "bias") && !strings.Contains(strings.Join(probs[i].Tokens, " "), `bytes:\x`) {
				t.Errorf("no token of %q is part of a character", probs[i].Tokens)
			}
			if string(past.Choices[i].Logprobs) != "null" || past.Choices[i].Text != c.Choices[i].Text {
				t.Errorf("without logprobs: %+v", past.Choices[i])
			}
			var submitted struct{ ID string }
			f.Do("POST", "/jobs/"+texts[i].String()+"/logprobs", `{"logprobs":5}`).Must(t, 202).Into(t, &submitted)
			recomputed := f.ended(submitted.ID)
			if !slices.EqualFunc(recomputed.Logprobs, job.Logprobs, model.EqualLogprobs) || len(recomputed.Logprobs) != len(probs[i].Tokens) {
				t.Errorf("%d log probabilities that are computed later differ from %d", len(recomputed.Logprobs), len(job.Logprobs))
			}
		}
	}
	var chat chatAnswer
	f.Do("POST", "/v1/chat/completions", `{"model":"opticks","messages":[{"role":"user","content":"Light"}],"n":2,"max_tokens":20,"seed":4,`+split+`,"logprobs":true,"top_logprobs":3}`).Must(t, 200).Into(t, &chat)
	for i, id := range f.jobOf(chat.ID, "chatcmpl-").Group {
		job, err := f.store.Job(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if chat.Choices[i].Logprobs.Refusal != nil {
			t.Errorf("%+v", chat.Choices[i].Logprobs)
		}
		mustBeEqual(t, "chat", chat.Choices[i].Logprobs.Content, f.computed(job, 3))
	}
	for members, n := range map[string]int{
		`"top_logprobs":4`: 4,
		`"include":["message.output_text.logprobs"],"top_logprobs":2`:              2,
		`"include":["reasoning.encrypted_content","message.output_text.logprobs"]`: 0,
	} {
		r := f.respond(f.Client, members+`,"max_output_tokens":12,"input":"Light"`)
		mustBeEqual(t, members, r.Output[0].Content[0].Logprobs, f.computed(f.jobOf(r.ID, "resp_"), n))
		if r.TopLogprobs != n {
			t.Errorf("%s: top_logprobs %d", members, r.TopLogprobs)
		}
	}
	if r := f.respond(f.Client, `"include":["reasoning.encrypted_content"],"top_logprobs":0,"input":"Light"`); len(r.Output[0].Content[0].Logprobs) != 0 {
		t.Errorf("log probabilities that nobody has asked for: %+v", r)
	}
}

// TestStreamedLogprobsAddUp streams texts with log probabilities, twice under a key. The chunks
// together must have those of the answer without a stream.
func TestStreamedLogprobsAddUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	split := f.bytesOfCharacters()
	for i, members := range []string{split, `"stop":["e","of the"]`, `"top_k":3`} {
		request := `{"model":"opticks","prompt":["Light","Rays"],"n":2,"max_tokens":40,"seed":5,"logprobs":2,` + members + `}`
		_, want := f.completionLogprobs(request)
		for range 2 {
			mustBeEqual(t, members, f.streamedLogprobs(4, request, "Idempotency-Key", strconv.Itoa(i)), want)
		}
	}
	chat := `"model":"opticks","messages":[{"role":"user","content":"Light"}],"n":2,"max_tokens":40,"seed":4,` + split + `,"logprobs":true,"top_logprobs":1}`
	var whole chatAnswer
	f.Do("POST", "/v1/chat/completions", "{"+chat).Must(t, 200).Into(t, &whole)
	sums := make([][]logProb, 2)
	for _, data := range f.stream("/v1/chat/completions", `{"stream":true,`+chat) {
		var chunk chatAnswer
		if data != "[DONE]" {
			if err := json.Unmarshal([]byte(data), &chunk); err != nil {
				t.Fatal(err)
			}
			if p := chunk.Choices[0].Logprobs; p != nil {
				sums[chunk.Choices[0].Index] = append(sums[chunk.Choices[0].Index], p.Content...)
			}
		}
	}
	for i, choice := range whole.Choices {
		mustBeEqual(t, "chat", sums[i], choice.Logprobs.Content)
	}
}

// TestLogprobsOfAResponseStay streams a response with log probabilities. Its deltas together must
// have those of the response, at another process and after any event too. A process with another
// model has the same events without them.
func TestLogprobsOfAResponseStay(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	elsewhere := f.another(t, func(*api.Options) {})
	list := f.responseEvents(f.Client, "POST", "/v1/responses", `{"model":"opticks","temperature":0,"max_output_tokens":40,"stream":true,"top_logprobs":2,"input":"The nature of light"}`)
	last := list[len(list)-1].Response
	want := last.Output[0].Content[0].Logprobs
	mustBeEqual(t, "the response", want, f.computed(f.jobOf(last.ID, "resp_"), 2))
	var sum []logProb
	for _, e := range list {
		switch e.Type {
		case "response.output_text.delta":
			sum = append(sum, e.Logprobs...)
		case "response.output_text.done":
			mustBeEqual(t, e.Type, e.Logprobs, want)
		case "response.output_item.done":
			mustBeEqual(t, e.Type, e.Item.Content[0].Logprobs, want)
		}
	}
	mustBeEqual(t, "all deltas", sum, want)
	for after := range list {
		rest := f.responseEvents(elsewhere, "GET", "/v1/responses/"+last.ID+"?starting_after="+strconv.Itoa(after), "")
		mustBeEqual(t, "a part of the stream", dataOf(rest), dataOf(list[after+1:]))
	}
	again := asResponse(t, elsewhere.Do("GET", "/v1/responses/"+last.ID, "").Must(t, 200).Body)
	mustBeEqual(t, "another process", again.Output[0].Content[0].Logprobs, want)

	other := f.api.Model
	other.Weights = "sha256:0"
	queue, err := jobs.NewQueue(f.db.App, f.store, other, policy.Default, jobs.Limits{}, f.api.Log)
	if err != nil {
		t.Fatal(err)
	}
	strange := f.another(t, func(o *api.Options) { o.Queue, o.Model = queue, other })
	without := f.responseEvents(strange, "GET", "/v1/responses/"+last.ID+"?stream=true", "")
	if len(without) != len(list) {
		t.Errorf("%d events with another model, want %d", len(without), len(list))
	}
	if r := without[len(without)-1].Response; r.text() != last.text() || len(r.Output[0].Content[0].Logprobs) != 0 || r.TopLogprobs != 2 {
		t.Errorf("with another model: %+v", r)
	}

	// A client may send an output as the next input, with its log probabilities.
	var raw struct{ Output []json.RawMessage }
	elsewhere.Do("GET", "/v1/responses/"+last.ID, "").Must(t, 200).Into(t, &raw)
	next := f.respond(f.Client, `"max_output_tokens":1,"input":[{"role":"user","content":"Light"},`+string(raw.Output[0])+`,{"role":"user","content":"Rays"}]`)
	if job := f.jobOf(next.ID, "resp_"); !strings.Contains(job.Prompt, last.text()) {
		t.Errorf("the prompt is %q", job.Prompt)
	}
}

// TestTokensOfAStopStringHaveNoLogprobs ends a text before a string that it had. The tokens that
// begin before this string must have log probabilities, and no others, although the job has them.
func TestTokensOfAStopStringHaveNoLogprobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	const request = `{"model":"opticks","prompt":"The nature of light","max_tokens":40,"temperature":0,"logprobs":1`
	c, whole := f.completionLogprobs(request + "}")
	text := []rune(c.Choices[0].Text)
	cutOff := 0
	for _, at := range []int{0, 7, 20, 21, 22} {
		stop := string(text[at : at+9])
		want := strings.Index(c.Choices[0].Text, stop)
		n, _ := slices.BinarySearch(whole[0].TextOffset, utf8.RuneCountInString(c.Choices[0].Text[:want]))
		cut := request + `,"stop":` + strconv.Quote(stop) + `}`
		stopped, probs := f.completionLogprobs(cut)
		if stopped.Choices[0].Text != c.Choices[0].Text[:want] {
			t.Fatalf("text %q, want it to end before %q in %q", stopped.Choices[0].Text, stop, c.Choices[0].Text)
		}
		mustBeEqual(t, stop, probs[0], &completionLogprobs{whole[0].Tokens[:n], whole[0].TokenLogprobs[:n], whole[0].TopLogprobs[:n], whole[0].TextOffset[:n]})
		if n > 0 {
			mustBeEqual(t, stop, f.streamedLogprobs(1, cut)[0], probs[0])
		}
		cutOff += len(f.jobOf(stopped.ID, "cmpl-").Logprobs) - n
	}
	if cutOff < 5 {
		t.Errorf("%d tokens were cut off", cutOff)
	}
}

// TestLogprobsSurviveAStoppedWorker stops the worker in the middle of a stream, at tokens of which
// some end inside a character. The chunks must have the log probabilities of an undisturbed text.
func TestLogprobsSurviveAStoppedWorker(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	split := f.bytesOfCharacters()
	request := `{"model":"opticks","prompt":"Light","max_tokens":60,"seed":6,"logprobs":1,` + split + `}`
	resp, err := f.Open(t.Context(), "POST", "/v1/completions", strings.Replace(request, "{", `{"stream":true,`, 1))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	var got completionLogprobs
	n := len(f.engine.Encode("Light"))
	stops, pauses := 0, []int{10, 25, 40}
	stop := f.workWith(pausing{f.engine, n + pauses[0]})
	for m, err := range apitest.Messages(resp.Body) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Data == "" || m.Data == "[DONE]" {
			continue
		}
		var chunk struct {
			Choices []struct{ Logprobs *completionLogprobs }
		}
		if err := json.Unmarshal([]byte(m.Data), &chunk); err != nil {
			t.Fatal(err)
		}
		got.add(chunk.Choices[0].Logprobs)
		if stops == len(pauses) || stops > 0 && len(got.Tokens) <= pauses[stops-1] {
			continue
		}
		stop()
		if stops++; stops < len(pauses) {
			stop = f.workWith(pausing{f.engine, n + pauses[stops]})
		} else {
			f.work()
		}
	}
	job := f.newest(1)
	if job.Attempts != 1+len(pauses) {
		t.Errorf("%d starts of a worker, %d stops", job.Attempts, stops)
	}
	_, want := f.completionLogprobs(request)
	mustBeEqual(t, "stopped", &got, want[0])
}

// TestLogprobsThatCannotBeAreRefused asks for log probabilities in forms that OpenAI refuses, or
// that the service cannot compute.
func TestLogprobsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, k := range []struct {
		path, body  string
		status      int
		code, param string
	}{
		{"completions", `"prompt":"x","echo":true,"logprobs":0`, 400, "unsupported_parameter", "echo"},
		{"completions", `"prompt":"x","logprobs":21`, 400, "invalid_request", "logprobs"},
		{"completions", `"prompt":"x","logprobs":true`, 400, "invalid_request", "logprobs"},
		{"chat/completions", `"messages":[{"role":"user","content":"x"}],"top_logprobs":2`, 400, "top_logprobs_alone", "top_logprobs"},
		{"chat/completions", `"messages":[{"role":"user","content":"x"}],"logprobs":false,"top_logprobs":2`, 400, "top_logprobs_alone", "top_logprobs"},
		{"chat/completions", `"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":21`, 400, "invalid_request", "top_logprobs"},
		{"responses", `"input":"x","top_logprobs":21`, 400, "invalid_request", "top_logprobs"},
		{"responses", `"input":"x","include":["message.output_text.logprobs","file_search_call.results"]`, 400, "unsupported_parameter", "include"},
		{"responses", `"input":[{"role":"assistant","content":[{"type":"output_text","text":"x","logprobs":"y"}]}]`, 400, "unsupported_parameter", "input[0].content[0].logprobs"},
	} {
		a := f.Do("POST", "/v1/"+k.path, `{"model":"fake",`+k.body+`}`)
		if a.Refused(t, k.status, k.code); paramOf(t, a) != k.param {
			t.Errorf("%s: %s, want the param %s", k.body, a.Body, k.param)
		}
	}
}
