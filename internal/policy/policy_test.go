package policy

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// texts returns a generator of strings with many characters that the rules treat
// specially.
func texts() *rapid.Generator[string] {
	special := []rune("hateHATEviolenceVIOLENCE<>{}; \t\n\r\x00\x7f\u0085\u00a0\u00ad\u0301\u0345\u200b\u200d\u2028\u2800\u3164\ufdfa\ufe0f\ufeff\uff1c\uff28ﬁİıſßẞΣςǅ\u1e9eᾳK\ufffd_-'!123аеV")
	return rapid.StringOf(rapid.OneOf(rapid.SampledFrom(special), rapid.Rune()))
}

func TestFoldIsIdempotent(t *testing.T) {
	for r := range unicode.MaxRune + 1 {
		if 0xac00 < r && r < 0xd7a0 || unicode.Is(unicode.Unified_Ideograph, r) || unicode.IsOneOf([]*unicode.RangeTable{unicode.Co, unicode.Cs}, r) || !unicode.IsGraphic(r) && !unicode.IsControl(r) {
			continue // skipped to save time; characters of these classes have no case
		}
		if once := fold(string(r)); fold(once) != once {
			t.Errorf("%U: %q folds to %q, and that to %q", r, r, once, fold(once))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := texts().Draw(t, "text")
		if once := fold(text); fold(once) != once {
			t.Fatalf("%q folds to %q, and that to %q", text, once, fold(once))
		}
	})
}

func TestCaseVariantsFoldAlike(t *testing.T) {
	for r := range unicode.MaxRune + 1 {
		if other := unicode.SimpleFold(r); other != r && fold(string(r)) != fold(string(other)) {
			t.Errorf("%c (%U) and %c (%U) fold to %q and %q", r, r, other, other, fold(string(r)), fold(string(other)))
		}
	}
}

// TestRefusalsAreDistinct compares every refusal with every other. errors.Is must
// distinguish the refusals, and errors.AsType must find each refusal.
func TestRefusalsAreDistinct(t *testing.T) {
	all := []Refusal{
		ErrPromptLength, ErrPromptEncoding, ErrPromptControl, ErrPromptBlank, ErrPromptWord,
		ErrUsernameLength, ErrUsernameEncoding, ErrUsernameScripts, ErrUsernameCharacters,
		ErrPasswordLength, ErrPasswordEncoding, ErrPasswordCommon, ErrPasswordUsername,
	}
	codes := map[string]bool{}
	for _, r := range all {
		if codes[r.Rule] || !strings.HasPrefix(r.Rule, r.Field+"_") || r.Message == "" {
			t.Errorf("%+v: the rule is repeated or does not begin with the field", r)
		}
		codes[r.Rule] = true
		if got, ok := errors.AsType[Refusal](error(r)); !ok || got != r {
			t.Errorf("%s is not found by errors.AsType", r.Rule)
		}
		for _, other := range all {
			if errors.Is(r, other) != (r == other) {
				t.Errorf("errors.Is(%s, %s) is wrong", r.Rule, other.Rule)
			}
		}
	}
}

// BenchmarkPassword measures the check of a password that is not common, for which
// Password searches the whole list.
func BenchmarkPassword(b *testing.B) {
	for b.Loop() {
		if _, err := Password("securepassword", "somebody"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestEveryCommonPasswordIsRefused tries every password of the built-in list in upper
// case. Each one must be refused. The list itself must be sorted and long enough.
//
// security: ASVS 6.2.4
func TestEveryCommonPasswordIsRefused(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(common, "\n"), "\n")
	if len(lines) < 3000 { // the report promises 3,000 passwords that are long enough
		t.Fatalf("the list has %d passwords", len(lines))
	}
	for i, line := range lines {
		if fold(line) != line {
			t.Errorf("line %d: %q is not folded, nothing will ever match it", i+1, line)
		}
		if n := len([]rune(line)); n < MinPassword {
			t.Errorf("line %d: %q is refused anyway", i+1, line)
		}
		if i > 0 && lines[i-1] >= line {
			t.Errorf("line %d: %q is out of order or repeated", i+1, line)
		}
		if _, err := Password(strings.ToUpper(line), "somebody"); !errors.Is(err, ErrPasswordCommon) {
			t.Errorf("%q in upper case: %v", line, err)
		}
	}
}

func TestNormalPasswordEqualsTheHashedForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		password := texts().Draw(t, "password")
		normal, err := Password(password, "somebody")
		if err != nil {
			return
		}
		if got := NormalPassword(password); got != normal {
			t.Fatalf("%q: hashed as %q, compared as %q", password, normal, got)
		}
		if !norm.NFKC.IsNormalString(normal) {
			t.Fatalf("%q: %q is not NFKC", password, normal)
		}
	})
}
