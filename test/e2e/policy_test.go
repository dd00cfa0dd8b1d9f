package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"colophon/client"
	"colophon/test/apitest"
)

// TestTextPolicyHoldsForPromptsAndTexts runs a service with strict rules. Most texts of the
// built-in model break such rules soon. No client may receive a refused word.
//
// security: LLM05:2025
func TestTextPolicyHoldsForPromptsAndTexts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte("name house\nword the\nword and\nword of\nremove ~\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := up(t, "--no-rate-limits", "--policy", file)
	c := apitest.NewUser(t, s.URL, "isaac")
	for _, prompt := range []string{"The light", "t.h.e light", "ｔｈｅ light", "t~he"} {
		body, _ := json.Marshal(map[string]string{"prompt": prompt})
		c.Do("POST", "/generate", string(body)).Refused(t, 422, "prompt_word")
	}
	refused := regexp.MustCompile(`(?i)\b(the|and|of)\b`)
	ended := 0
	for seed := range 5 {
		body := fmt.Sprintf(`{"prompt":"Light","max_new_tokens":60,"seed":%d}`, seed)
		first := c.Do("POST", "/generate", body, "Idempotency-Key", fmt.Sprintf(`"%d"`, seed)).Must(t, 200)
		again := c.Do("POST", "/generate", body, "Idempotency-Key", fmt.Sprintf(`"%d"`, seed)).Must(t, 200)
		var j client.Job
		first.Into(t, &j)
		if !bytes.Equal(first.Body, again.Body) {
			t.Errorf("first %s, then %s", first.Body, again.Body)
		}
		if j.FinishReason == "content_filter" {
			ended++
		}
		var streamed, reason string
		for _, m := range follow(c, j.ID, "", 0) {
			var e struct {
				Text         string
				FinishReason string `json:"finish_reason"`
			}
			if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
				t.Fatal(err)
			}
			streamed += e.Text
			reason = e.FinishReason
			if refused.MatchString(streamed) {
				t.Errorf("seed %d: %q was streamed", seed, streamed)
			}
		}
		if streamed != j.Completion || reason != j.FinishReason {
			t.Errorf("seed %d: the stream has %q, %s; the job has %q, %s", seed, streamed, reason, j.Completion, j.FinishReason)
		}
	}
	if ended == 0 {
		t.Error("no text reached a refused word: the test proves nothing")
	}
	var history []client.Job
	c.Do("GET", "/history", "").Must(t, 200).Into(t, &history)
	shown := 0
	for _, j := range history {
		if j.FinishReason == "content_filter" {
			shown++
		}
		if refused.MatchString(j.Completion) {
			t.Errorf("the history has %q", j.Completion)
		}
	}
	if shown != ended {
		t.Errorf("the history shows %d texts that were refused, %d were", shown, ended)
	}
}
