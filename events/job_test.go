package events_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"colophon/events"
)

func TestFoldEqualsRepeatedApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, owner := uuid.Must(uuid.NewV7()), uuid.New()
		j, facts := drawFacts(t, id, owner)
		var text strings.Builder
		var tokens []int
		var all []events.Event
		for i, f := range facts {
			if f, ok := f.(events.JobAdvanced); ok {
				text.WriteString(f.Text)
				tokens = append(tokens, f.Tokens...)
			}
			all = append(all, events.Event{Stream: events.JobStream(id), Version: i + 1, Owner: owner, Fact: f})
		}
		if j.Text != text.String() || !slices.Equal(j.Tokens, tokens) || j.Version != len(facts) {
			t.Fatalf("text, tokens or version missing from the fold: %+v", j)
		}
		folded, err := events.Fold(all)
		if err != nil || !cmp.Equal(folded, j) {
			t.Fatalf("Fold differs from Apply: %v\n%s", err, cmp.Diff(j, folded))
		}
		// The fold of any prefix, followed by Apply of each remaining event, must give
		// the same job.
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		part, err := events.Fold(all[:cut])
		if err != nil {
			t.Fatal(err)
		}
		prefix := part
		for _, e := range all[cut:] {
			if part, err = part.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		if !cmp.Equal(part, j) {
			t.Fatalf("fold resumed at version %d: %s", cut, cmp.Diff(j, part))
		}
		if again, _ := events.Fold(all[:cut]); !cmp.Equal(prefix, again) {
			t.Fatalf("Apply changed its receiver: %s", cmp.Diff(again, prefix))
		}
	})
}

// TestIllegalFactsAreRefused applies events to a job in a wrong order, such as a start
// after the end. The job must refuse these events and stay unchanged.
//
// security: ASVS 2.3.1
func TestIllegalFactsAreRefused(t *testing.T) {
	id, owner := uuid.Must(uuid.NewV7()), uuid.New()
	accepted := events.JobAccepted{Prompt: "p"}
	started := events.JobStarted{Weights: "w"}
	advanced := events.JobAdvanced{Tokens: []int{1}, Text: "x"}
	completed := events.JobCompleted{FinishReason: "stop"}
	cancelled := events.JobCancelled{By: "owner"}
	failed := events.JobFailed{Final: true}
	for _, c := range []struct {
		name   string
		before []events.Fact
		fact   events.Fact
	}{
		{"started before it was accepted", nil, started},
		{"accepted twice", []events.Fact{accepted}, accepted},
		{"advanced before it started", []events.Fact{accepted}, advanced},
		{"completed before it started", []events.Fact{accepted}, completed},
		{"advanced after completion", []events.Fact{accepted, started, completed}, advanced},
		{"cancelled after completion", []events.Fact{accepted, started, completed}, cancelled},
		{"completed after cancel", []events.Fact{accepted, started, cancelled}, completed},
		{"started after final failure", []events.Fact{accepted, failed}, started},
		{"started with other weights", []events.Fact{accepted, started}, events.JobStarted{Weights: "other"}},
		{"reassigned after the start", []events.Fact{accepted, started}, events.JobReassigned{Weights: "sha256:1"}},
		{"started again with the weights it was accepted for", []events.Fact{events.JobAccepted{Prompt: "p", Weights: "sha256:1"}, events.JobStarted{Weights: "sha256:2/f32"}}, events.JobStarted{Weights: "sha256:1/f32"}},
		{"started at the wrong token", []events.Fact{accepted, started, advanced}, started},
		{"erased before its end", []events.Fact{accepted, started, advanced}, events.JobErased{By: "owner", CompletionTokens: 1}},
		{"erased twice", []events.Fact{accepted, cancelled, events.JobErased{By: "owner"}}, events.JobErased{By: "owner"}},
		{"erased with too many tokens", []events.Fact{accepted, started, advanced, completed}, events.JobErased{By: "owner", CompletionTokens: 2}},
		{"started after it was erased", []events.Fact{accepted, cancelled, events.JobErased{By: "owner"}}, started},
		{"account fact", []events.Fact{accepted}, events.AccountSignedIn{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := events.Job{ID: id, Owner: owner}
			next := func(f events.Fact) events.Event {
				return events.Event{Stream: events.JobStream(id), Version: j.Version + 1, Owner: owner, At: time.Unix(1, 0), Fact: f}
			}
			for _, f := range c.before {
				var err error
				if j, err = j.Apply(next(f)); err != nil {
					t.Fatal(err)
				}
			}
			after, err := j.Apply(next(c.fact))
			if !errors.Is(err, events.ErrIllegal) {
				t.Fatalf("error: %v, want ErrIllegal", err)
			}
			if !cmp.Equal(after, j) {
				t.Fatal("the refused fact changed the job")
			}
		})
	}
	j, err := events.Job{ID: id, Owner: owner}.Apply(events.Event{Stream: events.JobStream(id), Version: 1, Owner: owner, Fact: accepted})
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]events.Event{
		"version gap":      {Stream: events.JobStream(id), Version: 3, Owner: owner, Fact: started},
		"repeated version": {Stream: events.JobStream(id), Version: 1, Owner: owner, Fact: started},
		"another stream":   {Stream: events.JobStream(owner), Version: 2, Owner: owner, Fact: started},
		"another owner":    {Stream: events.JobStream(id), Version: 2, Owner: id, Fact: started},
	} {
		if _, err := j.Apply(e); !errors.Is(err, events.ErrIllegal) {
			t.Errorf("%s: %v, want ErrIllegal", name, err)
		}
	}
}

// TestJobOfAnEarlierBuildKeepsItsWeights starts a job with other weights than those that it
// was accepted for, as builds do that do not know this member of job.accepted. The job must
// be legal, and its text needs the weights of the start from then on.
func TestJobOfAnEarlierBuildKeepsItsWeights(t *testing.T) {
	id, owner := uuid.Must(uuid.NewV7()), uuid.New()
	var stored []events.Event
	add := func(f events.Fact) {
		stored = append(stored, events.Event{Stream: events.JobStream(id), Version: len(stored) + 1, Owner: owner, Fact: f})
	}
	add(events.JobAccepted{Prompt: "p", Weights: "sha256:1"})
	j, err := events.Fold(stored)
	if err != nil || !j.RunsOn("sha256:1/f32") || j.RunsOn("sha256:2/f32") || j.Needs() != "sha256:1" {
		t.Errorf("before the start: needs %s, %v", j.Needs(), err)
	}
	add(events.JobStarted{Weights: "sha256:2/f32"})
	j, err = events.Fold(stored)
	if err != nil || j.RunsOn("sha256:1/f32") || j.RunsOn("sha256:2/int8") || !j.RunsOn("sha256:2/f32") || j.Needs() != "sha256:2" {
		t.Errorf("after the start: needs %s, %v", j.Needs(), err)
	}
	add(events.JobAdvanced{Tokens: []int{1}})
	add(events.JobStarted{Weights: "sha256:2/f32", FromToken: 1})
	add(events.JobCompleted{})
	if j, err = events.Fold(stored); err != nil || j.State != events.Completed {
		t.Errorf("%s, %v", j.State, err)
	}
}
