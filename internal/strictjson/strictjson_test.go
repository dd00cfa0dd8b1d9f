package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

const depth = 4

// read collects the members that Object returns.
func read(text string) (map[string]json.RawMessage, error) {
	members := map[string]json.RawMessage{}
	err := Object(strings.NewReader(text), func(name string, value []byte) error {
		members[name] = bytes.Clone(value)
		return nil
	})
	return members, err
}

func TestInvalidJSONIsRefusedAtItsOffset(t *testing.T) {
	for _, c := range []struct {
		name, text string
		object     error // the wanted error of Object
		check      error // the wanted error of Check
		offset     int64 // the wanted offset of Check's error
	}{
		{"an empty text", ``, ErrTruncated, ErrTruncated, 0},
		{"spaces", "  ", ErrTruncated, ErrTruncated, 0},
		{"a cut object", `{"a":1`, ErrTruncated, ErrTruncated, 6},
		{"a cut string", `{"a":"b`, ErrTruncated, ErrTruncated, 7},
		{"an array", `[1]`, ErrNotObject, nil, 0},
		{"null", `null`, ErrNotObject, nil, 0},
		{"a word", `secret`, ErrSyntax, ErrSyntax, 0},
		{"a bad value", `{"a":secret}`, ErrSyntax, ErrSyntax, 5},
		{"a comma at the end", `{"a":1,}`, ErrSyntax, ErrSyntax, 6},
		{"a name without quotes", `{secret:1}`, ErrSyntax, ErrSyntax, 1},
		{"a number for a name", `{1:1}`, ErrSyntax, ErrSyntax, 1},
		{"a control character", "{\"a\":\"\x01\"}", ErrSyntax, ErrSyntax, 6},
		{"two members of one name", `{"secret":1,"secret":1}`, ErrDuplicateName, ErrDuplicateName, 12},
		{"one name in two spellings", `{"a":1,"\u0061":1}`, ErrDuplicateName, ErrDuplicateName, 7},
		{"two members of one name in an inner object", `{"a":[{"secret":1,"secret":1}]}`, ErrDuplicateName, ErrDuplicateName, 18},
		{"invalid UTF-8", "{\"a\":\"b\xff\"}", ErrSyntax, ErrEncoding, 7},
		{"a surrogate as UTF-8", "{\"a\":\"\xed\xa0\x80\"}", ErrSyntax, ErrEncoding, 6},
		{"invalid UTF-8 in a name", "{\"a\xff\":1}", ErrSyntax, ErrEncoding, 3},
		{"a lone high surrogate", `{"a":"b\ud800"}`, ErrSyntax, ErrSurrogate, 7},
		{"a lone low surrogate", `{"a":"b\udc00"}`, ErrSyntax, ErrSurrogate, 7},
		{"a swapped pair", `{"a":"\udc00\ud800"}`, ErrSyntax, ErrSurrogate, 6},
		{"a lone surrogate in a name", `{"\ud800":1}`, ErrSyntax, ErrSurrogate, 2},
		{"a lone surrogate and a mistake", `{"a":"\ud800",}`, ErrSyntax, ErrSyntax, 6},
		{"two objects", `{"a":1}{}`, ErrTrailing, ErrTrailing, 7},
		{"two objects on two lines", "{\"a\":1}\n{}", ErrTrailing, ErrTrailing, 7},
		{"an object and text", `{"a":1} secret`, ErrTrailing, ErrTrailing, 7},
		{"an object and a bracket", `{"a":1}}`, ErrTrailing, ErrTrailing, 7},
		{"too deep", `{"a":[[[[]]]]}`, nil, ErrTooDeep, 9},
		{"deep enough", `{"a":[[[]]]}`, nil, nil, 0},
		{"pairs and escapes", `{"a\\ud800":"\ud83d\ude00\\"}  `, nil, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := read(c.text)
			if !errors.Is(err, c.object) || err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("Object: %v, want %v", err, c.object)
			}
			err = Check([]byte(c.text), depth)
			if !errors.Is(err, c.check) || err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("Check: %v, want %v", err, c.check)
			}
			if e, ok := errors.AsType[*Error](err); ok && e.Offset != c.offset {
				t.Errorf("Check: %v, want byte %d", err, c.offset)
			}
		})
	}
}

func TestObjectNamesTheRepeatedMember(t *testing.T) {
	for text, want := range map[string]string{
		`{"a/b~c":1,"a/b~c":2}`:   "a/b~c",
		`{"a":{"b":1,"b":2}}`:     "",
		`{"a":1,"b":{"a":1,"a":`:  "",
		`{"a":1,"b":{"a":1},"a":`: "a",
	} {
		_, err := read(text)
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason != ErrDuplicateName || e.Name != want {
			t.Errorf("%s: %#v, want the name %q", text, err, want)
		}
	}
}

func TestObjectCallsForEachMemberInOrder(t *testing.T) {
	var got []string
	// The reader returns one byte at a time, so the decoder reuses its buffer often.
	// Names and values must stay right.
	err := Object(iotest.OneByteReader(strings.NewReader(`{"b": [1, {"x":2}],"a":null}`)), func(name string, value []byte) error {
		got = append(got, name, string(value))
		return nil
	})
	if diff := cmp.Diff([]string{"b", `[1, {"x":2}]`, "a", "null"}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestObjectReturnsErrorsOfMemberAndReader(t *testing.T) {
	broken := errors.New("broken")
	if err := Object(strings.NewReader(`{"a":1,"b":2}`), func(string, []byte) error { return broken }); err != broken {
		t.Errorf("error of member: %v", err)
	}
	for _, text := range []string{``, `{`, `{"a":1}`} {
		r := io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken))
		err := Object(r, func(string, []byte) error { return nil })
		if _, ok := errors.AsType[*Error](err); ok || !errors.Is(err, broken) {
			t.Errorf("error of the reader after %q: %v", text, err)
		}
	}
}

// FuzzCheck passes arbitrary texts to Check. Check must refuse every text that package
// encoding/json refuses, and Object must agree with Check.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{`{"a":{"b":[1,-2e3,"\u00e9",null,true]}}`, `{"a":1,"a":2}`, `"\ud800"`, `[[[[[]]]]]`, `{}{}`, "\"\xff\"", ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		err := Check(text, depth)
		e, ok := errors.AsType[*Error](err)
		if err != nil && (!ok || e.Offset < 0 || e.Offset > int64(len(text))) {
			t.Fatalf("%q: %v", text, err)
		}
		if err == nil && !json.Valid(text) {
			t.Fatalf("%q is accepted", text)
		}
		if ok && json.Valid(text) {
			switch e.Reason {
			case ErrSyntax, ErrTrailing, ErrNotObject, ErrTruncated:
				t.Fatalf("%q is refused: %v", text, err)
			}
		}
		members, objectErr := read(string(text))
		isObject := bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{"))
		if tooDeep := errors.Is(err, ErrTooDeep); !tooDeep && (objectErr == nil) != (err == nil && isObject) {
			t.Fatalf("%q: Object returns %v, Check returns %v", text, objectErr, err)
		}
		if objectErr == nil {
			var want map[string]json.RawMessage
			if err := json.Unmarshal(text, &want); err != nil || !maps.EqualFunc(members, want, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
				t.Fatalf("%q: %s, want %s, %v", text, members, want, err)
			}
		}
	})
}
