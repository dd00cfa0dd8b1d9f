package jobs

import (
	"slices"
	"strings"
	"testing"

	"colophon/events"
	"colophon/internal/policy"
	"colophon/model"
	"colophon/model/gpt2"
	"colophon/model/opticks"
	"colophon/model/watermark"
)

// TestMarkedTextContinuesAlikeAtEveryCut generates a marked text of the small model, and
// continues it after each of its tokens. The rest must be the same.
func TestMarkedTextContinuesAlikeAtEveryCut(t *testing.T) {
	t.Parallel()
	e, err := gpt2.Load(opticks.Files(), gpt2.Options{Name: opticks.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	key := watermark.NewKey([watermark.KeySize]byte{1, 2, 3})
	job := events.Job{
		Prompt: "The nature of light", PromptTokens: len(e.Encode("The nature of light")),
		Params: model.Params{MaxTokens: 80, Temperature: 1, TopP: 0.95, TopK: 200, Seed: 7},
	}
	generated := func(job events.Job) (events.Job, string) {
		job.Tokens = slices.Clone(job.Tokens)
		add := func(d model.Delta) error {
			job.Tokens, job.Text = append(job.Tokens, d.Tokens...), job.Text+d.Text
			return nil
		}
		out := generateText(t.Context(), e, policy.Default(), &key, job, add)
		if out.err != nil {
			t.Fatal(out.err)
		}
		_ = add(out.last)
		return job, out.finishReason
	}
	want, end := generated(job)
	if result, scored, err := key.Detect(t.Context(), want.Tokens); err != nil || result != watermark.Found {
		t.Fatalf("%d tokens: %s, %d scored, %v", len(want.Tokens), result, scored, err)
	}
	for cut := range want.Tokens {
		part := job
		part.Tokens = want.Tokens[:cut]
		part.Text = model.Text(e.Decode(part.Tokens))
		if !strings.HasPrefix(want.Text, part.Text) {
			continue // the cut is inside a character, where no batch ends
		}
		if got, reason := generated(part); !slices.Equal(got.Tokens, want.Tokens) || got.Text != want.Text || reason != end {
			t.Errorf("cut after token %d: %v %q %s", cut, got.Tokens[cut:], got.Text, reason)
		}
	}
}
