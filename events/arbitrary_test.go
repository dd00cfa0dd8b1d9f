package events_test

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"colophon/events"
	"colophon/model"
)

// drawFact draws a fact that may come next in the job's stream.
func drawFact(t *rapid.T, j events.Job) events.Fact {
	text := rapid.StringN(0, 40, -1)
	if j.Version == 0 {
		return events.JobAccepted{
			Prompt:       rapid.StringN(1, 40, -1).Draw(t, "prompt"),
			Stop:         rapid.SliceOfN(rapid.StringN(1, 8, -1), 0, 2).Draw(t, "stop"),
			Params:       model.Params{MaxTokens: rapid.IntRange(1, 200).Draw(t, "max"), Temperature: 0.8, TopP: 1, Seed: rapid.Uint64().Draw(t, "seed"), LogitBias: rapid.MapOfN(rapid.IntRange(0, 99), rapid.Float64Range(-100, 100), 1, 3).Draw(t, "bias")},
			PromptTokens: rapid.IntRange(1, 99).Draw(t, "prompt tokens"),
			Model:        "m", Policy: "p",
			Weights:  rapid.SampledFrom([]string{"", "sha256:0"}).Draw(t, "weights"),
			Priority: rapid.IntRange(0, 4).Draw(t, "priority"),
			Reserved: events.Reservation{Day: rapid.SampledFrom([]string{"2026-11-22", "2026-11-23"}).Draw(t, "day"), Tokens: rapid.IntRange(0, 99).Draw(t, "reserved")},
			APIKey:   rapid.SampledFrom([]uuid.UUID{{}, {1}, {2}}).Draw(t, "API key"),
			Deadline: rapid.SampledFrom([]time.Time{{}, time.Date(2026, 11, 23, 1, 2, 3, 400_000, time.UTC)}).Draw(t, "deadline"),

			LogprobsOf: rapid.SampledFrom([]uuid.UUID{{}, {1}}).Draw(t, "logprobs of"),
			Request:    rapid.SampledFrom([]json.RawMessage{nil, json.RawMessage(`{"operation":"responses"}`)}).Draw(t, "request"),
			EraseAtEnd: rapid.Bool().Draw(t, "erase at end"),
			TextAt:     rapid.SampledFrom([]time.Time{{}, time.Date(2026, 11, 20, 1, 2, 3, 400_000, time.UTC)}).Draw(t, "text at"),
			Response:   rapid.SampledFrom([]string{"", events.ResponseCapped, events.ResponseUncapped}).Draw(t, "response"),

			Watermark: rapid.SampledFrom([]events.Watermark{{}, {Key: "020ca29fff479ebe", Parameters: "gumbel-h3-s8/1"}}).Draw(t, "watermark"),
		}
	}
	started := events.JobStarted{Attempt: j.Attempts + 1, Worker: "w", FromToken: len(j.Tokens), Weights: "sha256:0/f32", Kernel: rapid.SampledFrom([]string{"go", "avx"}).Draw(t, "kernel")}
	failed := events.JobFailed{Attempt: j.Attempts, Reason: "r", Final: rapid.Bool().Draw(t, "final")}
	cancelled := events.JobCancelled{By: "owner"}
	if j.State == events.Queued && j.Weights == "" {
		reassigned := events.JobReassigned{Weights: "sha256:0", By: "command"}
		return rapid.SampledFrom([]events.Fact{started, started, started, failed, cancelled, reassigned}).Draw(t, "fact")
	}
	if j.State == events.Queued {
		return rapid.SampledFrom([]events.Fact{started, started, started, failed, cancelled}).Draw(t, "fact")
	}
	tokens := rapid.SliceOfN(rapid.IntRange(0, 50_000), 1, 8).Draw(t, "tokens")
	advanced := events.JobAdvanced{Tokens: tokens, Text: text.Draw(t, "text")}
	if rapid.Bool().Draw(t, "has logprobs") {
		for _, token := range tokens {
			advanced.Logprobs = append(advanced.Logprobs, model.TokenLogprobs{Logprob: -1, Top: []model.Logprob{{Token: token, Logprob: -0.5}}})
		}
	}
	completed := events.JobCompleted{FinishReason: "length", Usage: events.Usage{
		PromptTokens: j.PromptTokens, CompletionTokens: len(j.Tokens), TotalTokens: j.PromptTokens + len(j.Tokens),
	}}
	return rapid.SampledFrom([]events.Fact{advanced, advanced, advanced, advanced, started, completed, failed, cancelled}).Draw(t, "fact")
}

// drawFacts draws the facts of a job, which may or may not have ended. It returns the
// job and the facts.
func drawFacts(t *rapid.T, id, owner uuid.UUID) (events.Job, []events.Fact) {
	j := events.Job{ID: id, Owner: owner}
	var facts []events.Fact
	for n := rapid.IntRange(1, 12).Draw(t, "events"); len(facts) < n && !j.State.Final(); {
		f := drawFact(t, j)
		after, err := j.Apply(events.Event{Stream: events.JobStream(id), Version: j.Version + 1, Owner: owner, Fact: f})
		if err != nil {
			t.Fatalf("apply a legal fact: %v", err)
		}
		j, facts = after, append(facts, f)
	}
	return j, facts
}
