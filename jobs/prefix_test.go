package jobs_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/jobs"
	"colophon/model/gpt2"
	"colophon/model/kernel"
	"colophon/model/opticks"
)

// TestJobsReuseWhatTheirOwnerHasComputed runs a job three times: twice for its owner, and once
// for another one. Only the second finds the prompt computed, unless the worker shares between
// owners. The texts are equal in any case.
func TestJobsReuseWhatTheirOwnerHasComputed(t *testing.T) {
	t.Parallel()
	prompt := strings.Repeat("The Rays of Light are refracted in a dark Chamber. ", 9)
	for _, share := range []bool{false, true} {
		f := newFixture(t)
		e, err := gpt2.Load(opticks.Files(), gpt2.Options{Name: opticks.Name, Weights: kernel.Int8, Threads: 1, Prefixes: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		q := f.workOpticks(e, func(w *jobs.Worker) { w.SharePrefixes = share })
		other, text := f.register(), ""
		for i, c := range []struct {
			owner uuid.UUID
			found bool
		}{{f.owner, false}, {f.owner, true}, {other, share}} {
			before := e.PrefixStats().Found
			j, err := q.Submit(t.Context(), c.owner, jobs.Request{Prompt: prompt, MaxNewTokens: 8, Temperature: 0.8, TopP: 1, Seed: new(uint64(5))})
			if err != nil {
				t.Fatal(err)
			}
			j = f.until(j, final)
			if found := e.PrefixStats().Found - before; (found > 0) != c.found {
				t.Errorf("share %t, job %d: %d of %d tokens found, want some: %t", share, i, found, j.Usage.PromptTokens, c.found)
			}
			if i > 0 && j.Text != text || j.Text == "" {
				t.Errorf("share %t, job %d: text %q, want %q", share, i, j.Text, text)
			}
			text = j.Text
		}
	}
}
