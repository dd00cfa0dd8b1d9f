package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"colophon/api/openai"
)

// TestFilesAreKeptAsSent uploads files, lists them in pages and reads them. Other accounts and
// keys without the scope must not reach them.
func TestFilesAreKeptAsSent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	big := strings.Repeat(strings.Repeat("x", 99_999)+"\n", 30) + "no line feed" // several chunks
	type file struct {
		ID, Object, Filename, Purpose, Status string
		Bytes                                 int
	}
	var files []file
	for _, content := range []string{big, "", "\n\n", "a\r\nb"} {
		var got file
		post(f.Client, form("file", content, "purpose", "batch")).Must(t, 200).Into(t, &got)
		if got.Object != "file" || got.Filename != "requests.jsonl" || got.Purpose != "batch" || got.Status != "processed" || got.Bytes != len(content) {
			t.Errorf("%+v", got)
		}
		if text := f.Do("GET", "/v1/files/"+got.ID+"/content", "").Must(t, 200).Body; string(text) != content {
			t.Errorf("%d bytes of %d", len(text), len(content))
		}
		files = append(files, got)
	}
	type page struct {
		Data    []file
		HasMore bool   `json:"has_more"`
		LastID  string `json:"last_id"`
	}
	for order, want := range map[string][]file{"asc": files, "desc": {files[3], files[2], files[1], files[0]}} {
		var all []file
		for after := ""; ; {
			var p page
			f.Do("GET", "/v1/files?limit=3&order="+order+after, "").Must(t, 200).Into(t, &p)
			all = append(all, p.Data...)
			if after = "&after=" + p.LastID; !p.HasMore {
				break
			}
		}
		if fmt.Sprint(all) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", order, all, want)
		}
	}
	var p page
	f.Do("GET", "/v1/files?purpose=batch_output", "").Must(t, 200).Into(t, &p)
	if len(p.Data) != 0 {
		t.Errorf("%+v", p)
	}
	f.Do("GET", "/v1/files?after=file-x", "").Refused(t, 400, "invalid_request")
	_, stranger := f.user("stranger")
	path := "/v1/files/" + files[0].ID
	for _, at := range []string{"GET " + path, "GET " + path + "/content", "DELETE " + path, "GET /v1/files/file-" + uuid.NewString()} {
		method, path, _ := strings.Cut(at, " ")
		f.As(stranger).Do(method, path, "").Refused(t, 404, "not_found")
	}
	f.Do("GET", "/v1/files/"+strings.ToUpper(files[0].ID), "").Refused(t, 400, "invalid_request")
	f.As(stranger).Do("POST", "/v1/batches", `{"input_file_id":"`+files[0].ID+`","endpoint":"/v1/completions","completion_window":"24h"}`).Refused(t, 404, "not_found")
	f.Do("DELETE", path, "").Must(t, 200)
	f.Do("GET", path, "").Refused(t, 404, "not_found")
}

// TestBadUploadsAreRefused sends forms that are malformed, incomplete or too large. Nothing of
// them may be kept.
func TestBadUploadsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := strings.Repeat("x", openai.MaxLineBytes-1) + "\n"
	for name, k := range map[string]struct {
		form   string
		status int
		code   string
	}{
		"no form":        {"", 400, "invalid_request"},
		"cut off":        {strings.TrimSuffix(form("purpose", "batch", "file", "a"), "\r\n--"+boundary+"--\r\n"), 400, "invalid_request"},
		"no purpose":     {form("file", "a"), 400, "invalid_request"},
		"no file":        {form("purpose", "batch"), 400, "invalid_request"},
		"other purpose":  {form("file", "a", "purpose", "vision"), 400, "invalid_request"},
		"other part":     {form("purpose", "batch", "file", "a", "expires_after[seconds]", "1"), 400, "unsupported_parameter"},
		"two files":      {form("file", "a", "file", "b", "purpose", "batch"), 400, "unsupported_parameter"},
		"too many lines": {form("purpose", "batch", "file", strings.Repeat("a\n", openai.MaxFileLines+1)), 400, "too_many_lines"},
		"long line":      {form("purpose", "batch", "file", "a\n"+"x"+long), 400, "line_too_long"},
		"too large":      {form("purpose", "batch", "file", strings.Repeat(long, 16)+"a"), 413, "file_too_large"},
	} {
		a := post(f.Client, k.form)
		if a.Status != k.status || a.Code() != k.code {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	f.Do("POST", "/v1/files", "{}").Refused(t, 415, "unsupported_media_type")
	f.Do("POST", "/v1/files", "x", "Content-Type", "multipart/form-data").Refused(t, 400, "invalid_request")
	if n := f.count(`select (select count(*) from files) + (select count(*) from file_chunks)`); n != 0 {
		t.Errorf("%d rows are kept", n)
	}
}

// TestErasedLineSaysSo erases a job of a batch that has ended, and then the account. The line of
// the job must say that it was erased, and no file may be left.
func TestErasedLineSaysSo(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withOpticks)
	f.work()
	f.advance()
	b := begin(f.Client, upload(f.Client, many("opticks", 3, 2)...), "/v1/completions")
	b = until(f.Client, b.ID, is("completed"))
	before := output(f.Client, b.OutputFileID)
	var answer completion
	if err := json.Unmarshal(before[1].Response.Body, &answer); err != nil {
		t.Fatal(err)
	}
	f.Do("DELETE", "/jobs/"+strings.TrimPrefix(answer.ID, "cmpl-"), "").Must(t, 204)
	after := output(f.Client, b.OutputFileID)
	var problem struct{ Error struct{ Code string } }
	if err := json.Unmarshal(after[1].Response.Body, &problem); err != nil || after[1].Response.StatusCode != 410 || problem.Error.Code != "job_erased" || after[1].CustomID != before[1].CustomID {
		t.Errorf("%v, %+v", err, after[1])
	}
	for _, i := range []int{0, 2} {
		if string(after[i].Response.Body) != string(before[i].Response.Body) {
			t.Errorf("line %d has changed", i)
		}
	}
	open := begin(f.Client, b.InputFileID, "/v1/completions")
	f.Do("DELETE", "/users/me", `{"password":"a long sentence"}`).Must(t, 204)
	if n := f.count(`select (select count(*) from files) + (select count(*) from file_chunks) + (select count(*) from batches) + (select count(*) from batch_lines)`); n != 0 {
		t.Errorf("%d rows are left of %s", n, open.ID)
	}
}
