package processes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"colophon/test/program/programtest"
)

// TestKilledProcessesLoseNoLine kills the worker and the API process that move a batch on, while
// the batch runs. Others must complete it: each line has one job and one line in the output.
func TestKilledProcessesLoseNoLine(t *testing.T) {
	slow(t)
	t.Parallel()
	m := newMembers(t)
	first := m.api("--no-rate-limits")
	worker := m.worker()
	c := newUser(t, first.URL, "batcher").Client
	var models struct{ Data []struct{ ID string } }
	c.Do("GET", "/v1/models", "").Must(t, 200).Into(t, &models)
	const n = 300
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, `{"custom_id":"%03d","method":"POST","url":"/v1/completions","body":{"model":%q,"prompt":"light","seed":%d,"max_tokens":12}}`+"\n", n-1-i, models.Data[0].ID, i)
	}
	const boundary = "----a-boundary"
	form := "--" + boundary + "\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--" + boundary +
		"\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n" + lines.String() + "\r\n--" + boundary + "--\r\n"
	var created struct{ ID string }
	c.Do("POST", "/v1/files", form, "Content-Type", "multipart/form-data; boundary="+boundary).Must(t, 200).Into(t, &created)
	c.Do("POST", "/v1/batches", `{"input_file_id":"`+created.ID+`","endpoint":"/v1/completions","completion_window":"24h"}`).Must(t, 200).Into(t, &created)
	var b struct {
		Status        string
		OutputFileID  string                                 `json:"output_file_id"`
		RequestCounts struct{ Total, Completed, Failed int } `json:"request_counts"`
	}
	poll := func(ok func() bool) func() bool {
		return func() bool {
			c.Do("GET", "/v1/batches/"+created.ID, "").Must(t, 200).Into(t, &b)
			return ok()
		}
	}
	for kill := range 2 {
		programtest.Eventually(t, "the batch does not go on", poll(func() bool { return b.RequestCounts.Completed > 10*(1+3*kill) }))
		worker.Kill()
		first.Kill()
		if b.Status != "in_progress" {
			t.Fatalf("killed when the batch is %+v", b)
		}
		first, worker = m.api("--no-rate-limits"), m.worker()
		c.URL = first.URL
	}
	for b.Status != "completed" {
		before := b.RequestCounts.Completed
		programtest.Eventually(t, "the batch does not go on", poll(func() bool { return b.Status == "completed" || b.RequestCounts.Completed > before }))
	}
	if b.RequestCounts.Total != n || b.RequestCounts.Completed != n || b.RequestCounts.Failed != 0 {
		t.Errorf("%+v", b)
	}
	seen := 0
	for text := range strings.Lines(string(c.Do("GET", "/v1/files/"+b.OutputFileID+"/content", "").Must(t, 200).Body)) {
		var l struct {
			CustomID string `json:"custom_id"`
			Response struct {
				StatusCode int `json:"status_code"`
			}
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil || l.CustomID != fmt.Sprintf("%03d", seen) || l.Response.StatusCode != 200 {
			t.Fatalf("line %d is %q, %v", seen, text, err)
		}
		seen++
	}
	if seen != n {
		t.Errorf("%d lines", seen)
	}
	jobs := 0
	for before := ""; ; {
		var page []struct{ ID string }
		c.Do("GET", "/jobs?limit=100"+before, "").Must(t, 200).Into(t, &page)
		if len(page) == 0 {
			break
		}
		jobs += len(page)
		before = "&before=" + page[len(page)-1].ID
	}
	if jobs != n {
		t.Errorf("%d jobs for %d lines", jobs, n)
	}
}
