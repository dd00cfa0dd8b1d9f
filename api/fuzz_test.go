package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/strictjson"
	"colophon/model"
)

// FuzzNesting counts the members of a JSON text by the colons outside of strings. It
// counts again after decoding, which keeps each name once. If the counts differ or the
// text is nested too deep, the text must be refused. Otherwise it must be accepted.
//
// security: ASVS 1.5.3
func FuzzNesting(f *testing.F) {
	for _, seed := range []string{`{"a":1,"a":2}`, `{"a":{"b":[{"c":1}]},"b":":"}`, `[{"a":"\":"},{"a":1}]`, `{"\u0061":1,"a":1}`, strings.Repeat("[", 40) + strings.Repeat("]", 40)} {
		f.Add([]byte(seed))
	}
	var members func(v any) (n, depth int)
	members = func(v any) (n, depth int) {
		var inside []any
		switch v := v.(type) {
		case map[string]any:
			n = len(v)
			for _, e := range v {
				inside = append(inside, e)
			}
		case []any:
			inside = v
		default:
			return 0, 0
		}
		for _, e := range inside {
			more, deep := members(e)
			n, depth = n+more, max(depth, deep)
		}
		return n, depth + 1
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := strictjson.Check(data, strictjson.MaxDepth)
		var v any
		var compact bytes.Buffer
		if !utf8.Valid(data) || errors.Is(err, strictjson.ErrSurrogate) || json.Unmarshal(data, &v) != nil || json.Compact(&compact, data) != nil {
			return // the text is refused for other reasons
		}
		colons, inside := 0, false
		for i, text := 0, compact.Bytes(); i < len(text); i++ {
			switch {
			case inside && text[i] == '\\':
				i++
			case text[i] == '"':
				inside = !inside
			case text[i] == ':' && !inside:
				colons++
			}
		}
		// A text with a name that occurs twice must be refused. Decoding drops one of the
		// two members, so depth may be too small for such a text.
		n, depth := members(v)
		if twice := colons != n; (err != nil) != (twice || depth > strictjson.MaxDepth) {
			t.Fatalf("%q: %v, with %d colons, %d members, %d deep", data, err, colons, n, depth)
		}
	})
}

// FuzzGenerateBody sends bodies through Huma's checks. If a body passes, all its values
// must be within the bounds of the OpenAPI description.
//
// security: ASVS 1.4.2, ASVS 15.3.3, ASVS 1.5.2
func FuzzGenerateBody(f *testing.F) {
	for _, seed := range []string{`{"prompt":"light"}`, `{"prompt":"light","max_length":10,"temperature":0,"top_k":1000,"top_p":1,"seed":9007199254740991,"stop":["a"],"max_new_tokens":1}`, `{"prompt":"light","presence_penalty":-2,"frequency_penalty":2,"repetition_penalty":1.2,"min_p":0.5,"min_tokens":9,"logit_bias":{"7":-100,"x":1}}`, `{"PROMPT":"a","max_length":1e2}`, `{"prompt":"a","max_length":50.0,"seed":-0,"top_k":1e999}`} {
		f.Add([]byte(seed))
	}
	s, _, err := build(Options{})
	if err != nil {
		f.Fatal(err)
	}
	check := checker(s, "/jobs")
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		var b generateBody
		if unmarshalJSON(data, &v) != nil || !check(v) {
			return
		}
		if err := unmarshalJSON(data, &b); err != nil {
			t.Fatalf("%q is valid: %v", data, err)
		}
		n := utf8.RuneCountInString(b.Prompt)
		outside := func(v *float64, low, high float64) bool { return v != nil && !(*v >= low && *v <= high) }
		if n < 1 || n > 500 || b.MaxLength != 0 && (b.MaxLength < 10 || b.MaxLength > 200) || b.MaxNewTokens < 0 || b.MaxNewTokens > 1024 ||
			outside(b.Temperature, 0, 2) || b.TopK != nil && (*b.TopK < 0 || *b.TopK > 1000) || b.TopP < 0 || b.TopP > 1 || b.Seed != nil && *b.Seed > 1<<53-1 || len(b.Stop) > 4 ||
			outside(&b.PresencePenalty, -2, 2) || outside(&b.FrequencyPenalty, -2, 2) || b.RepetitionPenalty != 0 && outside(&b.RepetitionPenalty, 0.01, 2) ||
			outside(&b.MinP, 0, 1) || b.Logprobs != nil && (*b.Logprobs < 0 || *b.Logprobs > 20) || b.MinTokens < 0 || b.MinTokens > 1024 || len(b.LogitBias) > 1024 {
			t.Fatalf("%q passed as %+v", data, b)
		}
		for _, bias := range b.LogitBias {
			if outside(&bias, -100, 100) {
				t.Fatalf("%q passed with the bias %g", data, bias)
			}
		}
		for _, stop := range b.Stop {
			if n := utf8.RuneCountInString(stop); n < 1 || n > 32 {
				t.Fatalf("%q passed with the stop text %q", data, stop)
			}
		}
	})
}

// FuzzForm compares unmarshalForm with net/url. If a form is accepted, both must read the
// same parameters. Empty parameters and names that are not in lower case do not count.
//
// security: ASVS 1.1.1
func FuzzForm(f *testing.F) {
	for _, seed := range []string{"a=1&b=2", "a=%00&%C3%A9=+", "a=1&a=2", "a;b", "grant_type=password&username=x&password=%26%3D"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := map[string]string{}
		if unmarshalForm(data, &got) != nil {
			return
		}
		want, err := url.ParseQuery(string(data))
		lower := regexp.MustCompile("^[\x00-@[-\x7f]*$") // names without upper-case and non-ASCII characters
		maps.DeleteFunc(want, func(name string, _ []string) bool { return !lower.MatchString(name) })
		maps.DeleteFunc(want, func(_ string, values []string) bool { return values[0] == "" })
		if err != nil || len(want) != len(got) {
			t.Fatalf("%q was read as %v, want %v, %v", data, got, want, err)
		}
		for name, value := range want {
			if len(value) != 1 || got[name] != value[0] {
				t.Fatalf("%q was read as %v, want %v", data, got, want)
			}
		}
	})
}

// FuzzID parses texts that match uuidForm. Every such text must be an id, and may differ
// from the id's usual spelling only in upper and lower case.
//
// security: ASVS 1.1.1
func FuzzID(f *testing.F) {
	for _, seed := range []string{"018f0000-0000-7000-8000-000000000000", "{018f0000-0000-7000-8000-000000000000}", "urn:uuid:018f0000-0000-7000-8000-000000000000", "018F0000-0000-7000-8000-00000000000A"} {
		f.Add(seed)
	}
	form := regexp.MustCompile(uuidForm)
	f.Fuzz(func(t *testing.T, text string) {
		if !form.MatchString(text) {
			return
		}
		id, err := uuid.Parse(text)
		if err != nil || id.String() != strings.ToLower(text) {
			t.Fatalf("%q was read as %s, %v", text, id, err)
		}
	})
}

// FuzzEventBody encodes events with arbitrary texts. The JSON of an event must fit on one
// line of a stream, and a client must decode the same texts.
//
// security: ASVS 1.2.1, ASVS 1.2.3, LLM05:2025
func FuzzEventBody(f *testing.F) {
	f.Add("a\nb", "\r\n\r\nevent: x", "\u2028", uint64(1))
	f.Add("\xff", "\x00", "\"}", uint64(1<<63))
	f.Fuzz(func(t *testing.T, text, stop, reason string, seed uint64) {
		for _, fact := range []events.Fact{
			events.JobAccepted{Prompt: text, Stop: []string{stop}, Params: model.Params{Seed: seed, TopP: 1}, Model: reason},
			events.JobAdvanced{Tokens: []int{1}, Text: text},
			events.JobCancelled{By: "owner", Reason: reason},
			events.JobFailed{Attempt: 1, Reason: stop},
		} {
			data, err := eventBody(events.Event{Version: 1, At: time.Unix(1, 0).UTC(), Fact: fact})
			if err != nil {
				t.Fatal(err)
			}
			if bytes.ContainsAny(data, "\r\n\x00") || !utf8.Valid(data) {
				t.Fatalf("%q does not fit on a line", data)
			}
			var got EventBody
			d := json.NewDecoder(bytes.NewReader(data))
			d.DisallowUnknownFields()
			if err := d.Decode(&got); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			if !utf8.ValidString(text) || !utf8.ValidString(stop) || !utf8.ValidString(reason) {
				continue // all texts of the service are valid UTF-8
			}
			if diff := cmp.Diff(text, got.Prompt+got.Text); diff != "" && got.Prompt+got.Text != "" {
				t.Fatal(diff)
			}
			if got.Reason != "" && got.Reason != reason && got.Reason != stop {
				t.Fatalf("the reason became %q", got.Reason)
			}
		}
	})
}

// checker returns a function that reports whether a body passes Huma's checks for a POST
// to the path.
func checker(s *server, path string) func(v any) bool {
	registry := s.api.OpenAPI().Components.Schemas
	schema := s.api.OpenAPI().Paths[path].Post.RequestBody.Content["application/json"].Schema
	return func(v any) bool {
		res := &huma.ValidateResult{}
		huma.Validate(registry, schema, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, v, res)
		return len(res.Errors) == 0
	}
}
