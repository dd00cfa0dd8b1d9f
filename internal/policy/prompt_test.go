package policy_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"colophon/internal/policy"
)

func TestPromptFollowsItsRules(t *testing.T) {
	rules := policy.Default()
	for _, c := range []struct {
		name, in, want string
		err            error
	}{
		{"plain", "The dog", "The dog", nil},
		{"one character", "a", "a", nil},
		{"nothing else is changed", " \tＡ\r\n e\u0301 \u200d👩\u200d🚀 ", " \tＡ\r\n e\u0301 \u200d👩\u200d🚀 ", nil},
		{"stripped", "a<b>c{d}e;f", "abcdef", nil},
		{"a script", "<script>alert(1);</script> dog", "scriptalert(1)/script dog", nil},
		{"empty", "", "", policy.ErrPromptLength},
		{"500 characters", strings.Repeat("é", 500), strings.Repeat("é", 500), nil},
		{"501 characters", strings.Repeat("é", 501), "", policy.ErrPromptLength},
		{"501 characters, 500 after stripping", strings.Repeat("a", 500) + ";", "", policy.ErrPromptLength},
		{"nothing left", "<>{};", "", policy.ErrPromptBlank},
		{"white space left", " <\n>\t{}\u3000;\u00a0", "", policy.ErrPromptBlank},
		{"only invisible", "\u200b\u2060\ufeff\u3164\u2800", "", policy.ErrPromptBlank},
		{"NUL", "a\x00b", "", policy.ErrPromptControl},
		{"escape", "a\x1b[31mb", "", policy.ErrPromptControl},
		{"C1", "a\u0085b", "", policy.ErrPromptControl},
		{"DEL", "a\x7f", "", policy.ErrPromptControl},
		{"text from right to left", "a\u202eb", "", policy.ErrPromptControl},
		{"a word from right to left", "\u202eetah\u202c", "", policy.ErrPromptControl},
		{"text from left to right", "a\u202db", "", policy.ErrPromptControl},
		{"Hebrew and an isolate", "\u2067שלום\u2069", "\u2067שלום\u2069", nil},
		{"not UTF-8", "a\xffb", "", policy.ErrPromptEncoding},
		{"a surrogate as bytes", "a\xed\xa0\x80b", "", policy.ErrPromptEncoding},
		{"what JSON makes of a lone surrogate", "a\ufffdb", "", policy.ErrPromptEncoding},

		{"the word", "hate", "", policy.ErrPromptWord},
		{"with a mark", "Hate!", "", policy.ErrPromptWord},
		{"with a hyphen", "no hate-speech", "", policy.ErrPromptWord},
		{"with a slash", "love/hate", "", policy.ErrPromptWord},
		{"with an apostrophe", "hate's", "", policy.ErrPromptWord},
		{"in quotes", "«violence»", "", policy.ErrPromptWord},
		{"emphasised", "_hate_", "", policy.ErrPromptWord},
		{"upper case", "VIOLENCE", "", policy.ErrPromptWord},
		{"on a line", "I\nhate\nit", "", policy.ErrPromptWord},
		{"behind an emoji", "👍hate👍", "", policy.ErrPromptWord},
		{"full width", "ＨＡＴＥ", "", policy.ErrPromptWord},
		{"mathematical", "𝓿𝓲𝓸𝓵𝓮𝓷𝓬𝓮", "", policy.ErrPromptWord},
		{"a soft hyphen inside", "ha\u00adte", "", policy.ErrPromptWord},
		{"a zero-width space inside", "vio\u200blence", "", policy.ErrPromptWord},
		{"made by stripping", "ha<>te", "", policy.ErrPromptWord},
		{"whatever", "whatever", "whatever", nil},
		{"chateau", "the chateau", "the chateau", nil},
		{"nonviolence", "nonviolence", "nonviolence", nil},
		{"hateful", "hateful, hates, hated", "hateful, hates, hated", nil},
		{"violent", "violences", "violences", nil},
		{"a mark", "hatê", "", policy.ErrPromptWord},
		{"a mark of its own", "hate\u0302", "", policy.ErrPromptWord},
		{"a letter before", "éhate", "éhate", nil},
		{"a digit after", "hate2", "hate2", nil},
		{"in Chinese", "我hate你", "", policy.ErrPromptWord},
		{"in Thai", "คนhateกัน", "", policy.ErrPromptWord},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := rules.Prompt(c.in)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("%q: %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
			}
		})
	}
}

func FuzzPrompt(f *testing.F) {
	for _, s := range []string{"The dog", "<>{};", "Hate!", "what<ever", "a\x00", "\xff", "ﬁ\u0301", "ha\u00adte"} {
		f.Add(s)
	}
	f.Fuzz(checkPrompt)
}

func TestAcceptedPromptsAreClean(t *testing.T) {
	pieces := []string{"hate", "violence", "HATE", "<", ";", " ", "\n", "-", "_", "e\u0301", "\u200b", "ＨＡＴＥ", "x", "\x01", "\ufffd", "\xc3"}
	rapid.Check(t, func(rt *rapid.T) {
		parts := rapid.SliceOf(rapid.OneOf(rapid.SampledFrom(pieces), rapid.String())).Draw(rt, "parts")
		checkPrompt(t, strings.Join(parts, ""))
	})
}

func checkPrompt(t *testing.T, text string) {
	rules := policy.Default()
	clean, err := rules.Prompt(text)
	if err != nil {
		r, ok := errors.AsType[policy.Refusal](err)
		if !ok || r.Field != "prompt" || clean != "" {
			t.Fatalf("%q: %q, %v", text, clean, err)
		}
		return
	}
	if strings.ContainsAny(clean, "<>{};") {
		t.Fatalf("%q: %q has a character that must be removed", text, clean)
	}
	if want := strings.NewReplacer("<", "", ">", "", "{", "", "}", "", ";", "").Replace(text); clean != want {
		t.Fatalf("%q: %q, want %q", text, clean, want)
	}
	if n := utf8.RuneCountInString(clean); n < 1 || n > policy.MaxPrompt || strings.TrimSpace(clean) == "" {
		t.Fatalf("%q: %q passed", text, clean)
	}
	for word := range strings.FieldsSeq(strings.ToLower(clean)) {
		if word == "hate" || word == "violence" {
			t.Fatalf("%q has the word %q", text, word)
		}
	}
	if again, err := rules.Prompt(clean); again != clean || err != nil {
		t.Fatalf("%q: %q does not pass again: %q, %v", text, clean, again, err)
	}
}
