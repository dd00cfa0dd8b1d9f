package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"colophon/api"
	"colophon/test/apitest"
)

// advance runs what moves batches on, until the test ends.
func (f *fixture) advance() {
	f.T.Helper()
	b, err := api.NewBatches(f.api)
	if err != nil {
		f.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx) })
	f.T.Cleanup(func() { cancel(); wg.Wait() })
}

const boundary = "----a-boundary"

// form returns a multipart form, whose parts are names and contents.
func form(parts ...string) string {
	var b strings.Builder
	for i := 0; i < len(parts); i += 2 {
		name := ""
		if parts[i] == "file" {
			name = `; filename="dir/requests.jsonl"`
		}
		fmt.Fprintf(&b, "--%s\r\nContent-Disposition: form-data; name=%q%s\r\n\r\n%s\r\n", boundary, parts[i], name, parts[i+1])
	}
	return b.String() + "--" + boundary + "--\r\n"
}

// post sends a multipart form to /v1/files.
func post(c apitest.Client, form string) apitest.Answer {
	c.T.Helper()
	return c.Do("POST", "/v1/files", form, "Content-Type", "multipart/form-data; boundary="+boundary)
}

// upload uploads a file and returns its id.
func upload(c apitest.Client, lines ...string) string {
	c.T.Helper()
	var file struct{ ID string }
	post(c, form("purpose", "batch", "file", strings.Join(lines, "\n")+"\n")).Must(c.T, 200).Into(c.T, &file)
	return file.ID
}

// line returns a line of an input.
func line(id, endpoint, body string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":%q,"body":%s}`, id, endpoint, body)
}

// batch is a batch as clients see it.
type batch struct {
	ID, Status   string
	InputFileID  string `json:"input_file_id"`
	OutputFileID string `json:"output_file_id"`
	ErrorFileID  string `json:"error_file_id"`
	ExpiresAt    int64  `json:"expires_at"`
	CreatedAt    int64  `json:"created_at"`
	CompletedAt  int64  `json:"completed_at"`
	Metadata     map[string]string
	Errors       *struct {
		Data []struct {
			Code, Message string
			Line          *int
			Param         *string
		}
	}
	RequestCounts struct{ Total, Completed, Failed int } `json:"request_counts"`
}

// begin begins a batch of an uploaded file.
func begin(c apitest.Client, file, endpoint string) (b batch) {
	c.T.Helper()
	c.Do("POST", "/v1/batches", `{"input_file_id":"`+file+`","endpoint":"`+endpoint+`","completion_window":"24h","metadata":{"k":"peacockmeta"}}`).Must(c.T, 200).Into(c.T, &b)
	return b
}

// until polls a batch until ok returns true. No event announces the state of a batch.
func until(c apitest.Client, id string, ok func(batch) bool) (b batch) {
	c.T.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		b = batch{}
		c.Do("GET", "/v1/batches/"+id, "").Must(c.T, 200).Into(c.T, &b)
		if ok(b) {
			return b
		}
		if time.Now().After(deadline) {
			c.T.Fatalf("the batch is still %+v", b)
		}
	}
}

func is(state string) func(batch) bool { return func(b batch) bool { return b.Status == state } }

// outputLine is a line of an output.
type outputLine struct {
	ID       string
	CustomID string `json:"custom_id"`
	Response *struct {
		StatusCode int    `json:"status_code"`
		RequestID  string `json:"request_id"`
		Body       json.RawMessage
	}
	Error *struct{ Code, Message string }
}

// output returns the lines of a file.
func output(c apitest.Client, file string) (lines []outputLine) {
	c.T.Helper()
	for text := range strings.Lines(string(c.Do("GET", "/v1/files/"+file+"/content", "").Must(c.T, 200).Body)) {
		var l outputLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			c.T.Fatalf("%v in %q", err, text)
		}
		lines = append(lines, l)
	}
	return lines
}
