package api_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestTextsAreTokenized sends texts to POST /tokenize, whose fake tokenizer makes a token of
// each byte. No text may be in the log.
//
// security: ASVS 16.2.5, API4:2023
func TestTextsAreTokenized(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for text, want := range map[string]int{
		"":                        0,
		"<peacockfeather>":        16,
		"violence\x00":            9, // the text policy is for prompts
		strings.Repeat("é", 5000): 10_000,
		strings.Repeat("😀", 5000): 20_000,
	} {
		body, err := json.Marshal(map[string]string{"text": text})
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Tokens []int
			Count  int
		}
		a := f.Do("POST", "/tokenize", string(body)).Must(t, 200)
		if a.Into(t, &got); got.Count != want || len(got.Tokens) != want || strings.Contains(string(a.Body), "null") {
			t.Errorf("%.20q: %.100s, want %d tokens", text, a.Body, want)
		}
	}
	f.Do("POST", "/tokenize", `{"text":"`+strings.Repeat(`\ud83d\ude00`, 5000)+`"}`).Must(t, 200)
	for _, body := range []string{`{"text":"` + strings.Repeat("peacockfeather", 400) + `"}`, `{"text":null}`, `{}`, `{"text":["peacockfeather"]}`, `{"text":"","peacockfeather":1}`} {
		f.Do("POST", "/tokenize", body).Refused(t, 422, "invalid_request")
	}
	f.Do("POST", "/tokenize", `{"text":"`+strings.Repeat("peacockfeather", 5000)+`"}`).Refused(t, 413, "invalid_request")
	f.Do("POST", "/tokenize", `{"text":"peacockfeather`).Refused(t, 400, "invalid_request")
	f.As("").Do("POST", "/tokenize", `{"text":"peacockfeather"}`).Refused(t, 401, "missing_access_token")
	if strings.Contains(f.log.String(), "peacockfeather") || strings.Contains(f.log.String(), "violence") {
		t.Errorf("the log has a text: %s", f.log.String())
	}
}
