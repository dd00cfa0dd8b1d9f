package main

import (
	"slices"
	"strings"
	"testing"

	"colophon/model/catalog"
)

// TestOperatorsDealWithJobsThatNoWorkerCanRun submits a job to a service without a
// worker. The queue commands must count the job, assign it to other weights and cancel
// it. The API must show each change.
func TestOperatorsDealWithJobsThatNoWorkerCanRun(t *testing.T) {
	t.Parallel()
	s := serve(t, "api", "--no-rate-limits")
	c := newUser(t, s.url, "isaac")
	var job struct {
		ID              string `json:"id"`
		State           string `json:"state"`
		Reason          string `json:"reason"`
		WaitingForModel bool   `json:"waiting_for_model"`
	}
	read := func() {
		t.Helper()
		job.Reason, job.WaitingForModel = "", false
		c.Do("GET", "/jobs/"+job.ID, "").Must(t, 200).Into(t, &job)
	}
	queue := func(want string, args ...string) {
		t.Helper()
		out, _, err := command(t, "", slices.Concat([]string{"queue"}, args, s.data)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("queue %v: %s, %v; want %s", args, out, err, want)
		}
	}
	m, err := catalog.Find(catalog.BuiltIn)
	if err != nil {
		t.Fatal(err)
	}
	weights, err := m.WeightsDigest()
	if err != nil {
		t.Fatal(err)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	queue("MODEL", "list")
	c.Do("POST", "/jobs", `{"prompt":"The nature"}`).Must(t, 202).Into(t, &job)
	if read(); job.WaitingForModel {
		t.Error("a new job waits for a model")
	}
	queue(weights, "list")
	queue("1 jobs reassigned", "reassign", weights, other)
	if read(); job.State != "queued" || !job.WaitingForModel {
		t.Errorf("after the reassignment: %+v", job)
	}
	queue("0 jobs cancelled", "cancel", weights)
	queue("1 jobs cancelled", "cancel", other)
	if read(); job.State != "cancelled" || !strings.Contains(job.Reason, "weights") || job.WaitingForModel {
		t.Errorf("after the cancellation: %+v", job)
	}
	if _, _, err := command(t, "", slices.Concat([]string{"queue", "cancel", "opticks"}, s.data)...); err == nil || !strings.Contains(err.Error(), "sha256:") {
		t.Errorf("a name in place of a digest: %v", err)
	}
}
