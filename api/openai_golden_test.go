package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"colophon/api/openai"
	"colophon/jobs"
)

var update = flag.Bool("update", false, "write testdata/openai.txt and docs/openai.md")

// errRead ends a request whose body was read.
var errRead = errors.New("read")

// reader returns a function that sends bodies to OpenAI's operations without a queue. It
// returns the requests for jobs that a body becomes, or the refusal. Each byte is a token.
func reader(t testing.TB) func(path string, body []byte) string {
	t.Helper()
	s, err := newServer(Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	s.api = humago.New(mux, config())
	s.api.UseMiddleware(s.operationMiddlewares()...)
	s.bodySchemas()
	var read []jobs.Request
	open := func(id, path string, fields openai.Operation) huma.Operation {
		op := openAIOperation(huma.Operation{OperationID: id, Path: path}, fields)
		op.Security = nil
		return op
	}
	encode := func(text string) []int {
		ids := make([]int, len(text))
		for i := range ids {
			ids[i] = int(text[i])
		}
		return ids
	}
	decode := func(ids []int) []byte {
		text := make([]byte, len(ids))
		for i := range text {
			text[i] = byte(ids[i])
		}
		return text
	}
	register(s, open("completions", "/v1/completions", openai.Completions), func(_ context.Context, in *completionInput) (out *struct{}, err error) {
		if read, err = in.Body.Requests(encode, decode); err != nil {
			return nil, err
		}
		return nil, errRead
	})
	register(s, open("chat", "/v1/chat/completions", openai.Chat), func(_ context.Context, in *chatInput) (out *struct{}, err error) {
		if read, err = in.Body.Requests(jobs.TemplatePlain, defaultNewTokens); err != nil {
			return nil, err
		}
		return nil, errRead
	})
	return func(path string, body []byte) string {
		read = nil
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		mux.ServeHTTP(w, r)
		if read == nil {
			var p Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Compat.Code == nil || p.Status == 500 {
				t.Fatalf("%s: %s: %d %s", path, body, w.Code, w.Body)
			}
			param := "-"
			if p.Compat.Param != nil {
				param = *p.Compat.Param
			}
			return fmt.Sprintf("%d %s, param %s: %s\n", p.Status, *p.Compat.Code, param, p.Compat.Message)
		}
		var b strings.Builder
		for _, r := range read {
			b.WriteString(oneLine(r))
		}
		return b.String()
	}
}

// oneLine writes the fields of a request that are not zero.
func oneLine(r jobs.Request) string {
	var fields []string
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		if f := reflect.Indirect(v.Field(i)); f.IsValid() && (!f.IsZero() || v.Field(i).Kind() == reflect.Pointer) {
			value, _ := json.Marshal(f.Interface()) // the fields are texts, numbers and lists
			fields = append(fields, v.Type().Field(i).Name+"="+string(value))
		}
	}
	return strings.Join(fields, " ") + "\n"
}

// TestBodiesBecomeRequests reads the bodies in testdata/openai.txt. Each becomes the requests
// or the refusal that follows it in the file. A case is a line with # and a name, the body,
// a line of dashes, and the result. The first word of the name is the path after /v1/.
func TestBodiesBecomeRequests(t *testing.T) {
	const file = "testdata/openai.txt"
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	read := reader(t)
	var got strings.Builder
	for c := range strings.SplitSeq(strings.TrimSuffix(string(golden), "\n"), "\n\n") {
		head, rest, _ := strings.Cut(c, "\n")
		body, want, ok := strings.Cut(rest, "\n----\n")
		path, _, _ := strings.Cut(strings.TrimPrefix(head, "# "), " ")
		if !ok {
			t.Fatalf("no case: %q", c)
		}
		result := read("/v1/"+path, []byte(body))
		fmt.Fprintf(&got, "%s\n%s\n----\n%s\n", head, body, result)
		if result != want+"\n" && !*update {
			t.Errorf("%s\n%s\nbecame\n%swant\n%s", head, body, result, want)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.TrimSuffix(got.String(), "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzOpenAIBody reads arbitrary bodies. The spelling of a body must not matter: the same
// members in another order, with and without members that ask for nothing, become the same.
//
// security: ASVS 2.2.1, ASVS 15.3.5
func FuzzOpenAIBody(f *testing.F) {
	golden, err := os.ReadFile("testdata/openai.txt")
	if err != nil {
		f.Fatal(err)
	}
	for c := range strings.SplitSeq(string(golden), "\n\n") {
		_, rest, _ := strings.Cut(c, "\n")
		body, _, _ := strings.Cut(rest, "\n----\n")
		f.Add(body, strings.HasPrefix(c, "# chat"))
	}
	read := reader(f)
	f.Fuzz(func(t *testing.T, body string, chat bool) {
		path, neutral := "/v1/completions", `"suffix":"","best_of":1,`
		if chat {
			path, neutral = "/v1/chat/completions", `"tools":[],"response_format":{"type":"text"},"store":false,`
		}
		first := read(path, []byte(body))
		var members map[string]json.RawMessage
		if strings.Contains(first, "invalid_request, ") || json.Unmarshal([]byte(body), &members) != nil || len(members) == 0 {
			return // the form of the JSON may be wrong, and the first of several faults depends on the order
		}
		for _, name := range []string{"suffix", "best_of", "tools", "response_format", "store"} {
			if members[name] != nil {
				return
			}
		}
		sorted, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		for _, same := range []string{string(sorted), "{" + neutral + string(sorted[1:])} {
			if again := read(path, []byte(same)); again != first {
				t.Errorf("%s\nbecame\n%s\n%s\nbecame\n%s", body, first, same, again)
			}
		}
	})
}
