package api

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLoneSurrogatesAreFound(t *testing.T) {
	for text, lone := range map[string]bool{
		`"plain"`:                    false,
		`"\u0041"`:                   false,
		`"\ud83d\ude00"`:             false,
		`"\ud83d\ude00\ud83d\ude00"`: false,
		`"\\ud800"`:                  false, // a backslash and five letters
		`"\\\\ud800"`:                false,
		`"\ud800"`:                   true,
		`"\\\ud800"`:                 true,
		`"\uDC00"`:                   true,
		`"\ud800x"`:                  true,
		`"\ud800\n"`:                 true,
		`"\ud800\u0041"`:             true,
		`"\ud800\ud800"`:             true,
		`"\udc00\ud800"`:             true,
		`"\ud800`:                    true,
		`"\u`:                        false, // not JSON, which is for others to say
		`"\`:                         false,
	} {
		if got := loneSurrogate([]byte(text)); got != lone {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// FuzzUnmarshalJSON looks for JSON strings that would reach the service other
// than they were sent.
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
			return // it was sent like that
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
		"":                    `{}`,
		"a=1&b=x+y%20z":       `{"a":"1","b":"x y z"}`,
		"a=%26%3D":            `{"a":"\u0026="}`,
		"username=%C3%A5&b=":  `{"b":"","username":"å"}`,
		"a=1&a=2":             "",
		"a=%zz":               "",
		"a=%ff":               "",
		"%ff=a":               "",
		"a=1;b=2":             "",
		"password=" + "p%00w": `{"password":"p\u0000w"}`,
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
