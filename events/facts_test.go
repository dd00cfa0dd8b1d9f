package events

import (
	"crypto/sha256"
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"

	"colophon/model"
)

// everyFact returns facts of all types. The index of a fact determines the version of
// its event in the golden file, so new facts must be added at the end.
func everyFact() []Fact {
	id := uuid.MustParse("01a205f5-d43a-7c96-8cd4-e7302cce0925")
	return []Fact{
		JobAccepted{
			Prompt: "Hwæt <we> &c. \u2028 😀", Stop: []string{"\n\n", "end"}, PromptTokens: 9, Model: "gpt2", Policy: "seed/1",
			Params: model.Params{MaxTokens: 41, Temperature: 0.7, TopK: 40, TopP: 0.95, Seed: 1<<53 - 1},
		},
		JobStarted{Attempt: 2, Worker: "w1", FromToken: 3, Weights: "sha256:00/f32", Kernel: "portable/1"},
		JobAdvanced{Tokens: []int{0, 50256, 17}, Text: "a\x00\n\"é"},
		JobCompleted{FinishReason: "stop", Usage: Usage{9, 3, 12}, Timings: Timings{1, 2, 3}},
		JobFailed{Attempt: 3, Reason: "the model could not be run", Final: true},
		JobCancelled{By: "owner", Reason: "no longer wanted"},
		AccountRegistered{Username: "Ångström"},
		AccountSignedIn{Session: id},
		AccountSignInFailed{},
		AccountTokenReuseDetected{Session: id},
		AccountSignedOut{Session: id},

		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1},
			Deadline: time.Date(2026, 11, 23, 1, 12, 3, 400_000, time.UTC),
		},
		AccountKeyRotated{Key: "an id", From: time.Date(2026, 11, 23, 1, 12, 3, 400_000, time.UTC), Leaked: true},
		AccountSignedOutEverywhere{},
		AccountPasswordChanged{Session: id},
		AccountRoleChanged{Role: "admin", By: "command"},
		AccountDisabled{By: id.String()},
		AccountEnabled{By: id.String()},
		AccountErased{},
		JobStarted{Attempt: 1, Worker: "w1", Weights: "sha256:00/f32", Kernel: "portable/1", Policy: "seed/8db963d8593545e5"},
		AccountPasswordChanged{By: "command"},
		AccountSignedOutEverywhere{By: "command"},
		AccountErased{By: "command"},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1},
			Weights: "sha256:00",
		},
		JobReassigned{Weights: "sha256:01", By: "command"},
		JobErased{By: "retention", CompletionTokens: 3},
		PolicyRefused{Policy: "seed/8db963d8593545e5", Rule: "prompt_word"},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, Temperature: 1, TopP: 1},
			Watermark: Watermark{Key: "020ca29fff479ebe", Parameters: "gumbel-h3-s8/1"},
		},
		KeyCreated{
			Key: id, Name: "the night shift's", Scopes: []string{"generate", "read"}, Expires: time.Date(2026, 11, 23, 1, 12, 3, 400_000, time.UTC),
			Generations: 30, By: "command",
		},
		KeyRevoked{Key: id},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, Temperature: 1, TopP: 1}, APIKey: id,
		},
		JobErased{By: "owner", CompletionTokens: 3, APIKey: id},
		KeyCreated{Key: id, Name: "with a budget", Scopes: []string{"generate"}, Tokens: 10_000},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1",
			Params: model.Params{
				MaxTokens: 20, Temperature: 1, TopP: 1, PresencePenalty: 0.5, FrequencyPenalty: -0.25, RepetitionPenalty: 1.2, MinP: 0.05,
				LogitBias: map[int]float64{9: -100, 50256: 1.5, 10: 0.1}, MinTokens: 2,
			},
		},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1, Logprobs: new(0)},
		},
		JobAdvanced{Tokens: []int{17, 4}, Text: "ab", Logprobs: []model.TokenLogprobs{
			{Logprob: -0.12345679, Top: []model.Logprob{{Token: 17, Logprob: -0.12345679}, {Token: 50256, Logprob: -1e-10}}},
			{Logprob: -math.MaxFloat32},
		}},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1, Logprobs: new(20)}, LogprobsOf: id,
		},
		WebhookCreated{Webhook: id, Host: "hooks.example.com:8443", Events: []string{"job.completed", "job.failed"}},
		WebhookUpdated{Webhook: id, Host: "example.com", Events: []string{"job.cancelled"}, Enabled: true},
		WebhookSecretRotated{Webhook: id},
		WebhookDisabled{Webhook: id, Reason: "failures"},
		WebhookDeleted{Webhook: id},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1},
			Group: []uuid.UUID{goldenOwner, id}, Template: "plain",
		},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1},
			Request: json.RawMessage(`{"input":[{"content":"p","role":"user"}],"operation":"responses"}`), EraseAtEnd: true,
		},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1}, Response: ResponseCapped,
		},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1, Logprobs: new(0)},
			LogprobsOf: id, TextAt: time.Date(2026, 11, 20, 1, 2, 3, 400_000, time.UTC),
		},
		JobAccepted{
			Prompt: "p", PromptTokens: 1, Model: "gpt2", Policy: "seed/1", Params: model.Params{MaxTokens: 1, TopP: 1},
			Batch: BatchLine{ID: id, Line: 17},
		},
	}
}

// firstSchema returns the first schema in which the fact was written.
func firstSchema(f Fact) int {
	switch f := f.(type) {
	case JobErased, PolicyRefused, KeyCreated, KeyRevoked, WebhookCreated, WebhookUpdated, WebhookSecretRotated, WebhookDisabled, WebhookDeleted:
		return 2
	case JobAccepted:
		if f.Watermark != (Watermark{}) || f.APIKey != (uuid.UUID{}) || f.Params.MinTokens > 0 || f.Params.Logprobs != nil || f.Group != nil || f.Template != "" || f.Request != nil || f.EraseAtEnd || f.Response != "" || f.Batch != (BatchLine{}) {
			return 2
		}
	case JobAdvanced:
		if f.Logprobs != nil {
			return 2
		}
	}
	return 1
}

// goldenPrev returns the hash of the previous event of an event in the golden file of
// schema 2.
func goldenPrev(version int) Hash {
	if version == 1 {
		return Hash{}
	}
	return sha256.Sum256([]byte("the previous event"))
}

// sample returns the event of the golden file that holds the fact f, the i-th fact of
// everyFact.
func sample(i int, f Fact) Event {
	stream := JobStream(goldenOwner)
	if !strings.HasPrefix(f.Type(), "job.") {
		stream = AccountStream(goldenOwner)
	}
	return Event{
		Stream: stream, Version: i + 1, Owner: goldenOwner,
		At: time.Date(2026, 11, 23, 1, 2, 3, 400_000, time.UTC), Fact: f,
	}
}

// form returns the fact's name in the golden file. The name contains the fact's type,
// and it names the members that a later release added to the type.
func form(f Fact) string {
	if a, ok := f.(JobAccepted); ok && a.Response != "" {
		return f.Type() + " for a response"
	}
	if a, ok := f.(JobAccepted); ok && !a.TextAt.IsZero() {
		return f.Type() + " of log probabilities, with the time of the text"
	}
	if a, ok := f.(JobAccepted); ok && !a.Deadline.IsZero() {
		return f.Type() + " with a deadline"
	}
	if a, ok := f.(JobAccepted); ok && a.Weights != "" {
		return f.Type() + " for weights"
	}
	if a, ok := f.(JobAccepted); ok && a.Watermark != (Watermark{}) {
		return f.Type() + " with a watermark"
	}
	if a, ok := f.(JobAccepted); ok && a.APIKey != (uuid.UUID{}) {
		return f.Type() + " with an API key"
	}
	if e, ok := f.(JobErased); ok && e.APIKey != (uuid.UUID{}) {
		return f.Type() + " with an API key"
	}
	if k, ok := f.(KeyCreated); ok && k.Tokens != 0 {
		return f.Type() + " with a budget"
	}
	if a, ok := f.(JobAccepted); ok && a.Group != nil {
		return f.Type() + " with a group and a template"
	}
	if a, ok := f.(JobAccepted); ok && a.Request != nil {
		return f.Type() + " with a request"
	}
	if a, ok := f.(JobAccepted); ok && a.Batch != (BatchLine{}) {
		return f.Type() + " of a batch"
	}
	if a, ok := f.(JobAccepted); ok && a.Params.MinTokens > 0 {
		return f.Type() + " with all parameters"
	}
	if a, ok := f.(JobAccepted); ok && a.LogprobsOf != (uuid.UUID{}) {
		return f.Type() + " of log probabilities"
	}
	if a, ok := f.(JobAccepted); ok && a.Params.Logprobs != nil {
		return f.Type() + " with log probabilities"
	}
	if a, ok := f.(JobAdvanced); ok && a.Logprobs != nil {
		return f.Type() + " with log probabilities"
	}
	if s, ok := f.(JobStarted); ok && s.Policy != "" {
		return f.Type() + " with a policy"
	}
	switch f {
	case AccountPasswordChanged{By: "command"}, AccountSignedOutEverywhere{By: "command"}, AccountErased{By: "command"}:
		return f.Type() + " by command"
	}
	return f.Type()
}
