package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"colophon/internal/strictjson"
)

func TestLoneSurrogatesAreRefused(t *testing.T) {
	for text, want := range map[string]error{
		`"plain"`:                    nil,
		`"\u0041"`:                   nil,
		`"\ud83d\ude00"`:             nil,
		`"\ud83d\ude00\ud83d\ude00"`: nil,
		`"\\ud800"`:                  nil, // the text \ud800, in which the backslash is escaped
		`"\\\\ud800"`:                nil,
		`"\ud800"`:                   strictjson.ErrSurrogate,
		`"\\\ud800"`:                 strictjson.ErrSurrogate,
		`"\uDC00"`:                   strictjson.ErrSurrogate,
		`"\ud800x"`:                  strictjson.ErrSurrogate,
		`"\ud800\n"`:                 strictjson.ErrSurrogate,
		`"\ud800\u0041"`:             strictjson.ErrSurrogate,
		`"\ud800\ud800"`:             strictjson.ErrSurrogate,
		`"\udc00\ud800"`:             strictjson.ErrSurrogate,
		`"\ud800`:                    strictjson.ErrTruncated,
		`"\u`:                        strictjson.ErrTruncated,
		`"\`:                         strictjson.ErrTruncated,
	} {
		var v any
		if err := unmarshalJSON([]byte(text), &v); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

// FuzzUnmarshalJSON decodes JSON texts without U+FFFD. If a text is accepted, no
// character of a string may become U+FFFD.
func FuzzUnmarshalJSON(f *testing.F) {
	for _, seed := range []string{`"a"`, `{"a":"\ud83d\ude00"}`, `"\ud800"`, "\"\xff\"", `{"a":1} x`, `["\\ud800"]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if err := unmarshalJSON(data, &v); err != nil {
			return
		}
		text := string(data)
		if strings.ContainsRune(text, utf8.RuneError) || strings.Contains(strings.ToLower(text), `\ufffd`) {
			return // the client sent U+FFFD itself
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(string(out), utf8.RuneError) || strings.Contains(string(out), `\ufffd`) {
			t.Fatalf("%s became %s", data, out)
		}
	})
}

func TestFormsBecomeObjects(t *testing.T) {
	for form, want := range map[string]string{
		"":                      `{}`,
		"a=1&b=x+y%20z":         `{"a":"1","b":"x y z"}`,
		"a=%26%3D":              `{"a":"\u0026="}`,
		"username=%C3%A5&b=":    `{"username":"å"}`,
		"a=1&a=2":               "",
		"a=%zz":                 "",
		"a=%ff":                 "",
		"%ff=a":                 "",
		"a=1;b=2":               "",
		"Username=x&b=1":        `{"b":"1"}`, // the unknown name Username is left out
		"paſſword=x":            `{}`,
		"Username=x&Username=y": "",
		"password=" + "p%00w":   `{"password":"p\u0000w"}`,
	} {
		var v map[string]string
		err := unmarshalForm([]byte(form), &v)
		if want == "" {
			if err == nil {
				t.Errorf("%q was read as %v", form, v)
			}
			continue
		}
		if got, _ := json.Marshal(v); err != nil || string(got) != want {
			t.Errorf("%q: %s, %v; want %s", form, got, err, want)
		}
	}
}

func TestDeepAndAmbiguousJSONIsRefused(t *testing.T) {
	deep := func(n int, open, end string) string { return strings.Repeat(open, n) + "1" + strings.Repeat(end, n) }
	for text, want := range map[string]error{
		`{}`: nil, `[]`: nil, `1`: nil, `"x"`: nil, `null`: nil, ``: strictjson.ErrTruncated,
		`{"a":1,"b":1}`:                           nil,
		`{"a":{"a":{"a":1}},"b":{"a":1}}`:         nil,
		`[{"a":1},{"a":1},{"b":[{"a":1}]}]`:       nil,
		`{"a":"b","b":"a"}`:                       nil,
		`{"a":["a","a"],"b":"a"}`:                 nil,
		`{"a":1e400}`:                             nil,
		`{"a":1,"a":1}`:                           strictjson.ErrDuplicateName,
		`{"a":1,"A":1}`:                           nil, // A and a are different names
		`{"a":1,"\u0061":2}`:                      strictjson.ErrDuplicateName,
		`{"a":{"b":1,"b":2}}`:                     strictjson.ErrDuplicateName,
		`{"a":{"b":1},"a":2}`:                     strictjson.ErrDuplicateName,
		`{"a":[1,2],"c":{},"a":2}`:                strictjson.ErrDuplicateName,
		`[{"a":1},{"b":1,"c":2,"b":3}]`:           strictjson.ErrDuplicateName,
		`{"":1,"":2}`:                             strictjson.ErrDuplicateName,
		deep(strictjson.MaxDepth, "[", "]"):       nil,
		deep(strictjson.MaxDepth+1, "[", "]"):     strictjson.ErrTooDeep,
		deep(strictjson.MaxDepth, `{"a":`, "}"):   nil,
		deep(strictjson.MaxDepth+1, `{"a":`, "}"): strictjson.ErrTooDeep,
		strings.Repeat("[", 60_000):               strictjson.ErrTooDeep,
		strings.Repeat(`{"a":[`, 10_000):          strictjson.ErrTooDeep,
		strings.Repeat("[],", 100) + "[]":         strictjson.ErrTrailing,
		`[` + strings.Repeat("[],", 100) + `[]]`:  nil,
		`"` + strings.Repeat("[", 100) + `"`:      nil,
		`}`:                                       strictjson.ErrSyntax, `]`: strictjson.ErrSyntax, `{"a"}`: strictjson.ErrSyntax, `{"a":1}}`: strictjson.ErrTrailing, `[}`: strictjson.ErrSyntax, `{1:2}`: strictjson.ErrSyntax,
	} {
		var raw json.RawMessage // json.RawMessage and not any, because a number may be too large for float64
		if err := unmarshalJSON([]byte(text), &raw); !errors.Is(err, want) {
			t.Errorf("%.60s: %v, want %v", text, err, want)
		}
	}
}

// FuzzJSON decodes accepted texts with unmarshalJSON and with encoding/json. Both must
// return the same value.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,{"b":"\ud83d\ude00"}]}`, `{"a":1,"a":2}`, `[[[[`, `"\ud800"`, `{"a":`, "\xff", `1 2`, `{"\u0061":1,"a":2}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want any
		if err := unmarshalJSON(data, &got); err != nil {
			return
		}
		err := json.Unmarshal(data, &want)
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return // the text has a number beyond float64; the schema checks the size of numbers
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q is read as %v, by encoding/json as %v, %v", data, got, want, err)
		}
		// No member may be dropped. The value must have as many names and scalars as the
		// text.
		tokens, d := 0, json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		for {
			token, err := d.Token()
			if err != nil {
				break
			}
			if _, ok := token.(json.Delim); !ok {
				tokens++
			}
		}
		if n := scalars(got, 0); n != tokens {
			t.Fatalf("%q: %d names and scalars of %d", data, n, tokens)
		}
	})
}

// scalars returns n plus the number of member names and scalars in v.
func scalars(v any, n int) int {
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			n = scalars(member, n+1)
		}
	case []any:
		for _, element := range v {
			n = scalars(element, n)
		}
	default:
		n++
	}
	return n
}
