package api

import (
	"strings"
	"testing"
)

func TestReadKeyAcceptsStringsAndTokens(t *testing.T) {
	long := strings.Repeat("k", 255)
	for line, want := range map[string]string{
		`"8e03978e-40d5-43dd-bc93-6894a57f9324"`: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`8e03978e-40d5-43dd-bc93-6894a57f9324`:   "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`  "a key, with; \"all\" \\ "  `:         `a key, with; "all" \ `,
		`" "`:                                    " ",
		`YWJjZA==`:                               "YWJjZA==",
		`"` + long + `"`:                         long,
		long:                                     long,
		`a:b/c.d`:                                "a:b/c.d",
		``:                                       "",
		`""`:                                     "",
		`  `:                                     "",
		long + "k":                               "",
		`"` + long + `k"`:                        "",
		`"unfinished`:                            "",
		`"unfinished\`:                           "",
		`"a\b"`:                                  "",
		`"a" b`:                                  "",
		`"a"; b=c`:                               "",
		`"a", "b"`:                               "",
		`a, b`:                                   "",
		`a b`:                                    "",
		`a"b`:                                    "",
		"\"a\tb\"":                               "",
		"\"a\x00b\"":                             "",
		"\"\xc3\xa9\"":                           "",
		"caf\xc3\xa9":                            "",
		"\"a\x7f\"":                              "",
	} {
		key, ok := readKey([]string{line})
		if ok != (want != "") || ok && key != want {
			t.Errorf("%q: %q, %v, want %q", line, key, ok, want)
		}
	}
	for _, lines := range [][]string{nil, {"a", "a"}, {`"a"`, `"b"`}} {
		if _, ok := readKey(lines); ok {
			t.Errorf("%q is accepted as a key", lines)
		}
	}
}

func FuzzReadKey(f *testing.F) {
	for _, line := range []string{`"a"`, `a`, `"\""`, `"\\"`, ``, `"`, `\`, `"a"b`} {
		f.Add(line)
	}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	f.Fuzz(func(t *testing.T, line string) {
		key, ok := readKey([]string{line})
		if !ok {
			return
		}
		if len(key) < 1 || len(key) > maxKey {
			t.Fatalf("%q: a key of %d characters", line, len(key))
		}
		if again, ok := readKey([]string{`"` + quote.Replace(key) + `"`}); !ok || again != key {
			t.Fatalf("%q gives %q, which in quotes gives %q, %v", line, key, again, ok)
		}
	})
}
