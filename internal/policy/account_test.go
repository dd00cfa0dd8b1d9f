package policy_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"colophon/internal/policy"
)

func TestUsernameFollowsItsRules(t *testing.T) {
	for _, c := range []struct {
		name, in, key string
		err           error
	}{
		{"plain", "isaac", "isaac", nil},
		{"upper case", "ISAAC", "isaac", nil},
		{"full width", "Ｉｓａａｃ", "isaac", nil},
		{"composed", "René", "rené", nil},
		{"decomposed", "Rene\u0301", "rené", nil},
		{"sharp s", "Straße", "strasse", nil},
		{"final sigma", "ΟΔΥΣΣΕΥΣ", "οδυσσευσ", nil},
		{"a ligature", "ﬁona", "fiona", nil},
		{"marks", "a.b_c-d@e", "a.b_c-d@e", nil},
		{"emoji", "🦊🦊🦊", "🦊🦊🦊", nil},
		{"3 characters", "été", "été", nil},
		{"2 characters", "éé", "", policy.ErrUsernameLength},
		{"50 characters", strings.Repeat("é", 50), strings.Repeat("é", 50), nil},
		{"51 characters", strings.Repeat("é", 51), "", policy.ErrUsernameLength},
		{"empty", "", "", policy.ErrUsernameLength},
		{"blank", "     ", "", policy.ErrUsernameCharacters},
		{"blank braille", "\u2800\u2800\u2800", "", policy.ErrUsernameCharacters},
		{"blank hangul", "\u3164\u3164\u3164", "", policy.ErrUsernameCharacters},
		{"a space", "isaac newton", "", policy.ErrUsernameCharacters},
		{"a space at the end", "isaac ", "", policy.ErrUsernameCharacters},
		{"a line break", "isaac\nnewton", "", policy.ErrUsernameCharacters},
		{"a line separator", "isaac\u2028newton", "", policy.ErrUsernameCharacters},
		{"NUL", "isaac\x00", "", policy.ErrUsernameCharacters},
		{"zero width", "isa\u200bac", "", policy.ErrUsernameCharacters},
		{"text direction", "isaac\u202e", "", policy.ErrUsernameCharacters},
		{"a variation selector", "isaac\ufe0f", "", policy.ErrUsernameCharacters},
		{"private", "isaac\ue000", "", policy.ErrUsernameCharacters},
		{"unassigned", "isaac\u0378", "", policy.ErrUsernameCharacters},
		{"stripped in prompts", "<isaac>", "", policy.ErrUsernameCharacters},
		{"a brace", "isaac{", "", policy.ErrUsernameCharacters},
		{"a semicolon", "isaac;", "", policy.ErrUsernameCharacters},
		{"full width less-than", "＜isaac", "", policy.ErrUsernameCharacters},
		{"Greek question mark", "isaac\u037e", "", policy.ErrUsernameCharacters},
		{"an accent that folds to a space", "isaac\u00a8", "", policy.ErrUsernameCharacters},
		{"not UTF-8", "isaac\xff", "", policy.ErrUsernameEncoding},
		{"a lone surrogate", "isaac\ufffd", "", policy.ErrUsernameEncoding},
	} {
		t.Run(c.name, func(t *testing.T) {
			display, key, err := policy.Username(c.in)
			want := c.in
			if c.err != nil {
				want = ""
			}
			if display != want || key != c.key || !errors.Is(err, c.err) {
				t.Errorf("%q: %q, %q, %v; want %q, %v", c.in, display, key, err, c.key, c.err)
			}
		})
	}
}

// TestNewNamesDoNotMixScripts checks names for new accounts. A name must be refused if it
// mixes scripts that are not written together.
func TestNewNamesDoNotMixScripts(t *testing.T) {
	for name, ok := range map[string]bool{
		"isaac": true, "rené-7": true, "наташа_1": true, "οδυσσευς": true, "🦊🦊🦊": true, "123": true, "ひらカタ漢abc": true, "漢ㄅabc": true, "한국漢abc": true, "straße": true,
		"аdmin": false, "admіn": false, "pаypаl": false, "αdmin": false, "наташаa": false, "ひら한국": false, "漢字б": false, "աdmin": false,
	} {
		_, _, _, err := policy.NewUsername(name)
		if ok && err != nil || !ok && !errors.Is(err, policy.ErrUsernameScripts) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestLookalikesHaveTheSameSkeleton compares skeletons of names. Names in different
// scripts that look alike must have the same skeleton. Names that differ in ASCII
// characters must have different skeletons.
func TestLookalikesHaveTheSameSkeleton(t *testing.T) {
	skeleton := func(name string) string {
		t.Helper()
		_, _, s, err := policy.NewUsername(name)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		return s
	}
	for name, lookalike := range map[string]string{"aca": "аса", "cope": "соре", "admın": "admin", "OXO": "ОХО", "kiss": "kiſſ", "vov": "νον"} {
		if a, b := skeleton(name), skeleton(lookalike); a != b {
			t.Errorf("%q has the skeleton %q, %q has %q", name, a, lookalike, b)
		}
	}
	for a, b := range map[string]string{"user1": "userl", "modern": "modem", "o0o": "ooo", "rené": "rene", "аса": "аса1", "isaac": "isaak"} {
		if skeleton(a) == skeleton(b) {
			t.Errorf("%q and %q have the same skeleton %q", a, b, skeleton(a))
		}
	}
	for _, ascii := range []string{"isaac", "a.b_c-d@e", "mmm", "l1|"} {
		if s := skeleton(ascii); s != ascii {
			t.Errorf("%q has the skeleton %q", ascii, s)
		}
	}
}

func FuzzUsername(f *testing.F) {
	for _, s := range []string{"isaac", "ＩＳＡＡＣ", "René", "Rene\u0301", "a\u00a8b", "ǅabc", "\u0345\u0345α", "ﷺﷺﷺ", "İİİ", "\u0345\u0301Ψ", "<a>", "\xff\xff\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		display, key, err := policy.Username(name)
		if err != nil {
			r, ok := errors.AsType[policy.Refusal](err)
			if !ok || r.Field != "username" || display != "" || key != "" {
				t.Fatalf("%q: %q, %q, %v", name, display, key, err)
			}
			return
		}
		if n := utf8.RuneCountInString(name); display != name || n < policy.MinUsername || n > policy.MaxUsername {
			t.Fatalf("%q passed as %q", name, display)
		}
		if strings.ContainsFunc(display+key, unicode.IsSpace) || strings.ContainsFunc(display+key, unicode.IsControl) || strings.ContainsAny(display+key, "<>{};") {
			t.Fatalf("%q: %q passed", name, key)
		}
		if len(key) == 0 || len(key) > 2500 { // a database index entry has room for 2,700 bytes
			t.Fatalf("%q: a key of %d bytes", name, len(key))
		}
		// All valid variants of the name must have the same key. Upper and lower case are
		// made only from the NFD form, because in other forms a change of case can also
		// change other characters.
		nfd := norm.NFD.String(name)
		for _, variant := range []string{nfd, norm.NFC.String(name), norm.NFKD.String(name), strings.ToUpper(nfd), strings.ToLower(nfd)} {
			if strings.EqualFold(variant, nfd) || norm.NFKD.String(variant) == norm.NFKD.String(name) {
				if _, other, err := policy.Username(variant); err == nil && other != key {
					t.Fatalf("%q has the key %q, %q has %q", name, key, variant, other)
				}
			}
		}
		if _, again, err := policy.Username(key); err == nil && again != key {
			t.Fatalf("the key %q of %q has the key %q", key, name, again)
		}
	})
}

// TestPasswordFollowsItsRules checks passwords against every rule: length, encoding,
// common passwords, and parts of the user's or the service's name.
//
// security: ASVS 6.2.1, ASVS 6.2.5, ASVS 6.2.9, ASVS 6.2.11
func TestPasswordFollowsItsRules(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		err            error
	}{
		{"the example of the first service", "securepassword", "securepassword", nil},
		{"8 characters", "tz4 é—xy", "tz4 é—xy", nil},
		{"7 characters", "tz4 é—x", "", policy.ErrPasswordLength},
		{"8 characters that compose to 7", "tz4xyve\u0301", "", policy.ErrPasswordLength},
		{"1 character that decomposes to 18", "ﷺ", "", policy.ErrPasswordLength},
		{"64 characters", strings.Repeat("ab2-", 16), strings.Repeat("ab2-", 16), nil},
		{"256 characters", strings.Repeat("𝄞♪", 128), strings.Repeat("𝄞♪", 128), nil},
		{"257 characters", strings.Repeat("𝄞♪", 128) + "x", "", policy.ErrPasswordLength},
		{"empty", "", "", policy.ErrPasswordLength},
		{"spaces count", "a b c d e", "a b c d e", nil},
		{"what is shown as two characters", "👨\u200d👩\u200d👧\u200d👦👩\u200d👧\u200d👧", "👨\u200d👩\u200d👧\u200d👦👩\u200d👧\u200d👧", nil},
		{"control characters", "tab\tand\x00nul", "tab\tand\x00nul", nil},
		{"full width", "ｐｅｒｉｗｉｎｋｌｅ", "periwinkle", nil},
		{"decomposed", "cafe\u0301 au lait", "café au lait", nil},
		{"case is kept", "PeriWinkle", "PeriWinkle", nil},
		{"common", "password123", "", policy.ErrPasswordCommon},
		{"common in another case", "PassWord123", "", policy.ErrPasswordCommon},
		{"common in another width", "ｐａｓｓｗｏｒｄ１２３", "", policy.ErrPasswordCommon},
		{"the service's name", "Colophon123", "", policy.ErrPasswordService},
		{"the service's name in what is long enough without", "my colophon, 1704", "my colophon, 1704", nil},
		{"the service's name and what is guessed first", "colophonPassword1", "", policy.ErrPasswordService},
		{"one character", "zzzzzzzzzzzz", "", policy.ErrPasswordCommon},
		{"counting", "3456789:;<=", "", policy.ErrPasswordCommon},
		{"the alphabet backwards", "zyxwvutsrq", "", policy.ErrPasswordCommon},
		{"the user name", "isaac.newton", "", policy.ErrPasswordUsername},
		{"the user name in another case", "Isaac.NEWTON", "", policy.ErrPasswordUsername},
		{"the user name and a year", "isaac.newton1704", "", policy.ErrPasswordUsername},
		{"the user name twice, in other forms", "ｉｓａａｃ.newton-ISAAC.newton", "", policy.ErrPasswordUsername},
		{"the user name and what is guessed first", "isaac.newton12345678", "", policy.ErrPasswordUsername},
		{"the user name and the service's name", "isaac.newton@colophon", "", policy.ErrPasswordUsername},
		{"the user name in what is long enough without", "sir isaac.newton, knight", "sir isaac.newton, knight", nil},
		{"not UTF-8", "periwinkle\xff", "", policy.ErrPasswordEncoding},
		{"a lone surrogate", "periwinkle\ufffd", "", policy.ErrPasswordEncoding},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := policy.Password(c.in, "isaac.newton")
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("%q: %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
			}
		})
	}
}

// TestDifferentPasswordsStayDifferent passes pairs of similar passwords to Password.
// Password must neither truncate nor fold them, so the results must differ.
func TestDifferentPasswordsStayDifferent(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 16)
	for _, pair := range [][2]string{
		{long[:255] + "x", long[:255] + "y"},
		{"x" + long[:90], "y" + long[:90]},
		{long[:72] + "1", long[:72] + "2"},
		{"periwinkle", "Periwinkle"},
		{"periwinkle ", "periwinkle"},
		{"nul\x00 and one", "nul\x00 and two"},
	} {
		a, errA := policy.Password(pair[0], "isaac")
		b, errB := policy.Password(pair[1], "isaac")
		if errA != nil || errB != nil || a == b {
			t.Errorf("%q and %q become %q, %v and %q, %v", pair[0], pair[1], a, errA, b, errB)
		}
	}
}

func FuzzPassword(f *testing.F) {
	for _, s := range []string{"securepassword", "12345678", "ﷺﷺ", "\xff", "e\u0301e\u0301e\u0301e\u0301"} {
		f.Add(s, "isaac")
	}
	f.Fuzz(func(t *testing.T, password, username string) {
		normal, err := policy.Password(password, username)
		if err != nil {
			if r, ok := errors.AsType[policy.Refusal](err); !ok || r.Field != "password" || normal != "" {
				t.Fatalf("%q: %q, %v", password, normal, err)
			}
			return
		}
		if password == username || utf8.RuneCountInString(password) < policy.MinPassword || utf8.RuneCountInString(normal) < policy.MinPassword {
			t.Fatalf("%q of %q passed", password, username)
		}
		if username != "" && strings.ReplaceAll(password, username, "") == "" {
			t.Fatalf("%q of %q passed", password, username)
		}
		if again := policy.NormalPassword(normal); utf8.RuneCountInString(normal) <= policy.MaxPassword && again != normal {
			t.Fatalf("%q becomes %q, and that becomes %q", password, normal, again)
		}
	})
}
