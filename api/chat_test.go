package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"colophon/api"
	"colophon/jobs"
)

type chatCompletion struct {
	ID, Object, Model string
	Created           int64
	Choices           []struct {
		Index        int
		Message      struct{ Role, Content string }
		Delta        struct{ Role, Content string }
		FinishReason *string `json:"finish_reason"`
	}
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	}
}

const conversation = `[{"role":"system","content":"You know optics."},{"role":"user","content":[{"type":"text","text":"What is "},{"type":"text","text":"light?"}]},{"role":"assistant","content":"Rays."},{"role":"user","content":"And a ray?"}]`

// TestChatTemplates sends conversations to a service with each template. The recorded prompt
// must have the form of the template, and the job must name the template.
func TestChatTemplates(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	for _, k := range []struct {
		template, messages, prompt string
		tokens                     int
		stop                       []string
	}{
		{"plain", conversation, "You know optics.\n\nuser:\nWhat is light?\n\nassistant:\nRays.\n\nuser:\nAnd a ray?\n\nassistant:\n", 0, []string{"\nuser:"}},
		{"plain", `[{"role":"user","content":"The nature of light"}]`, "The nature of light", 0, nil},
		{"plain", `[{"role":"assistant","content":"The nature of light"}]`, "assistant:\nThe nature of light\n\nassistant:\n", 0, []string{"\nuser:"}},
		{"eos", conversation, "You know optics.<|endoftext|>What is light?<|endoftext|>Rays.<|endoftext|>And a ray?<|endoftext|>", 4, nil},
		{"eos", `[{"role":"user","content":"The nature of <|endoftext|> light"}]`, "The nature of |endoftext| light<|endoftext|>", 1, nil},
	} {
		c := f.another(t, func(o *api.Options) { o.ChatTemplate = k.template })
		var got chatCompletion
		c.Do("POST", "/v1/chat/completions", `{"model":"opticks","max_tokens":12,"seed":1,"messages":`+k.messages+`}`).Must(t, 200).Into(t, &got)
		job := f.jobOf(got.ID, "chatcmpl-")
		if job.Prompt != k.prompt || job.Template != k.template || strings.Join(job.Params.Stop, "|") != strings.Join(k.stop, "|") {
			t.Errorf("%s: prompt %q with the template %q and the stops %q", k.messages, job.Prompt, job.Template, job.Params.Stop)
		}
		if got.Object != "chat.completion" || len(got.Choices) != 1 || got.Choices[0].Message.Role != "assistant" || got.Choices[0].Message.Content != job.Text {
			t.Errorf("%+v, want %q", got, job.Text)
		}
		if k.template == "eos" {
			tokens := k.tokens
			for turn := range strings.SplitSeq(k.prompt, "<|endoftext|>") {
				tokens += len(f.engine.Encode(turn))
			}
			if job.PromptTokens != tokens || got.Usage.PromptTokens != tokens {
				t.Errorf("%d tokens in the prompt, want %d", job.PromptTokens, tokens)
			}
		}
		var shown struct{ Template string }
		f.Do("GET", "/jobs/"+job.ID.String(), "").Must(t, 200).Into(t, &shown)
		if shown.Template != k.template {
			t.Errorf("the job has the template %q", shown.Template)
		}
	}
}

// TestStreamedChatIsTheSameText sends the same requests with and without a stream. The texts of
// the chunks together must be the text of the answer.
func TestStreamedChatIsTheSameText(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	request := `"model":"opticks","n":2,"max_completion_tokens":24,"seed":3,"messages":` + conversation
	var whole chatCompletion
	f.Do("POST", "/v1/chat/completions", "{"+request+"}").Must(t, 200).Into(t, &whole)
	chunks := f.stream("/v1/chat/completions", "{"+request+`,"stream":true,"stream_options":{"include_usage":true}}`)
	if len(chunks) < 6 || chunks[len(chunks)-1] != "[DONE]" {
		t.Fatalf("%q", chunks)
	}
	var texts, ended [2]string
	for i, data := range chunks[:len(chunks)-1] {
		var c chatCompletion
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			t.Fatal(err)
		}
		if c.Object != "chat.completion.chunk" || !strings.HasPrefix(c.ID, "chatcmpl-") {
			t.Errorf("chunk %s", data)
		}
		if i == len(chunks)-2 {
			if len(c.Choices) != 0 || c.Usage == nil || *c.Usage != *whole.Usage {
				t.Errorf("the last chunk is %s", data)
			}
			continue
		}
		choice := c.Choices[0]
		if first := texts[choice.Index] == "" && ended[choice.Index] == "" && choice.Delta.Content == "" && choice.FinishReason == nil; first && choice.Delta.Role != "assistant" {
			t.Errorf("the first chunk is %s", data)
		}
		texts[choice.Index] += choice.Delta.Content
		if choice.FinishReason != nil {
			ended[choice.Index] = *choice.FinishReason
		}
	}
	for i, choice := range whole.Choices {
		if texts[i] != choice.Message.Content || ended[i] != *choice.FinishReason {
			t.Errorf("%q %s, want %q %s", texts[i], ended[i], choice.Message.Content, *choice.FinishReason)
		}
	}
}

// TestChatIsSwitchedOff asks a service without a chat template.
func TestChatIsSwitchedOff(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.another(t, func(o *api.Options) { o.ChatTemplate = "" })
	c.Do("POST", "/v1/chat/completions", `{"model":"fake","messages":[{"role":"user","content":"light"}]}`).Refused(t, 404, "chat_off")
	var m struct {
		Template string `json:"chat_template"`
	}
	for client, want := range map[string]string{"": "none", jobs.TemplatePlain: "plain"} {
		f.another(t, func(o *api.Options) { o.ChatTemplate = client }).Do("GET", "/v1/models/fake", "").Must(t, 200).Into(t, &m)
		if m.Template != want {
			t.Errorf("chat_template %q, want %q", m.Template, want)
		}
	}
}
