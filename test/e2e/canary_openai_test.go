package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"colophon/client"
	"colophon/test/apitest"
	"colophon/test/program/programtest"
)

// sendOpenAI sends secrets to OpenAI's operations: with log probabilities, and in files and
// batches that complete, fail and are cancelled. It adds the texts and numbers of the answers to
// the secrets.
func sendOpenAI(t *testing.T, c apitest.Client, secrets canaries) {
	t.Helper()
	quoted := func(what string) string { b, _ := json.Marshal(secrets[what]); return string(b) }
	start := func(text string) string {
		words := strings.Fields(text)
		return strings.Join(words[:min(5, len(words))], " ")
	}

	var made struct {
		ID      string
		Choices []struct {
			Text     string
			Logprobs struct {
				TokenLogprobs []json.Number `json:"token_logprobs"`
			}
		}
	}
	c.Do("POST", "/v1/completions", `{"model":"opticks","prompt":`+quoted("the prompt")+`,"max_tokens":20,"temperature":0,"logprobs":5}`).Must(t, 200).Into(t, &made)
	secrets["the text of a completion"] = start(made.Choices[0].Text)
	// A number with many digits is in no other place by chance.
	secrets["a log probability"] = slices.MaxFunc(made.Choices[0].Logprobs.TokenLogprobs, func(a, b json.Number) int { return len(a) - len(b) }).String()
	var again client.Job
	c.Do("POST", "/jobs/"+strings.TrimPrefix(made.ID, "cmpl-")+"/logprobs", `{"logprobs":20}`).Must(t, 202).Into(t, &again)
	follow(c, again.ID, "", 0)
	for _, stream := range []string{"", `,"stream":true`} {
		c.Do("POST", "/v1/chat/completions", `{"model":"opticks","messages":[{"role":"user","content":`+quoted("the prompt")+`}],"logprobs":true,"top_logprobs":5`+stream+`}`).Must(t, 200)
		c.Do("POST", "/v1/responses", `{"model":"opticks","input":`+quoted("the prompt")+`,"instructions":`+quoted("instructions")+`,"metadata":{"k":`+quoted("a response's metadata")+`},"top_logprobs":5`+stream+`}`).Must(t, 200)
	}
	c.Do("POST", "/v1/completions", `{"model":"opticks","prompt":`+quoted("a prompt refused")+`,"logprobs":5}`).Must(t, 400)

	upload := func(form string) apitest.Answer {
		return c.Do("POST", "/v1/files", form, "Content-Type", "multipart/form-data; boundary=b")
	}
	form := func(lines ...string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n" +
			"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" + secrets["the name of a file"] + "\"\r\n\r\n" + strings.Join(lines, "\n") + "\r\n--b--\r\n"
	}
	line := func(prompt, id string, tokens int) string {
		return fmt.Sprintf(`{"custom_id":%s,"method":"POST","url":"/v1/completions","body":{"model":"opticks","prompt":%s,"max_tokens":%d,"temperature":0,"logprobs":5}}`, id, quoted(prompt), tokens)
	}
	// A batch ends when its lines have ended, or when it is cancelled.
	batch := func(cancel bool, lines ...string) (output, errors string) {
		t.Helper()
		var file struct{ ID string }
		upload(form(lines...)).Must(t, 200).Into(t, &file)
		c.Do("GET", "/v1/files/"+file.ID+"/content", "").Must(t, 200)
		var b struct {
			ID, Status   string
			OutputFileID string `json:"output_file_id"`
			ErrorFileID  string `json:"error_file_id"`
		}
		c.Do("POST", "/v1/batches", `{"input_file_id":"`+file.ID+`","endpoint":"/v1/completions","completion_window":"24h","metadata":{"k":`+quoted("a batch's metadata")+`}}`).Must(t, 200).Into(t, &b)
		if cancel {
			c.Do("POST", "/v1/batches/"+b.ID+"/cancel", "").Must(t, 200)
		}
		programtest.Eventually(t, "the batch has ended", func() bool {
			c.Do("GET", "/v1/batches/"+b.ID, "").Must(t, 200).Into(t, &b)
			return slices.Contains([]string{"completed", "failed", "cancelled"}, b.Status)
		})
		read := func(id string) string {
			if id == "" {
				return ""
			}
			return string(c.Do("GET", "/v1/files/"+id+"/content", "").Must(t, 200).Body)
		}
		return read(b.OutputFileID), read(b.ErrorFileID)
	}
	id := quoted("a custom id")
	output, failed := batch(false, line("a line's prompt", id, 20), line("a refused line", `"refused"`, 20))
	var answered struct {
		Response struct{ Body json.RawMessage }
	}
	if err := json.Unmarshal([]byte(output), &answered); err != nil || json.Unmarshal(answered.Response.Body, &made) != nil || !strings.Contains(failed, "prompt_control") {
		t.Fatalf("%v: %s, %s", err, output, failed)
	}
	secrets["the text of a line"] = start(made.Choices[0].Text)
	batch(false, line("a line's prompt", id, 20), line("a line's prompt", id, 20))
	batch(false, line("a line's prompt", id, 20), `{"custom_id":`+quoted("a malformed line"))
	batch(true, line("a line's prompt", id, 200), line("a line's prompt", `"another"`, 200))
	c.Do("POST", "/v1/batches", `{"input_file_id":`+quoted("a custom id")+`,"endpoint":"/v1/completions","completion_window":"24h"}`).Must(t, 400)
	upload(strings.Replace(form(line("a line's prompt", id, 20)), "\r\nbatch\r\n", "\r\nvision\r\n", 1)).Must(t, 400)
	upload(strings.TrimSuffix(form(line("a line's prompt", id, 20)), "--b--\r\n")).Must(t, 400)
}
