package main

import (
	"fmt"
	"strings"
)

const head = `# Evidence of security

` + "`go run ./tools/evidence`" + ` writes this page from comments above the tests, and a test fails when the two disagree. The
requirements are those of the OWASP Application Security Verification Standard 5.0.0 (all 70 of level 1, and those of
the higher levels that fit a service of this kind), the OWASP API Security Top 10 of 2023 and the OWASP Top 10 for LLM
Applications of 2025. Ids name them, and the short texts are our own words: the standard's text counts. A requirement
that is not met, or only in part, says so, and may have tests of the met part. A higher-level requirement that is
missing here does not apply or has not been examined. A test shows that a property held in the cases it tries, and no
more than that.

`

// lists has the heading of each list of requirements. All ids of a list have its prefix
// and its suffix.
var lists = []struct{ prefix, suffix, title string }{
	{"ASVS ", "", "OWASP ASVS 5.0.0"},
	{"API", ":2023", "OWASP API Security Top 10, 2023"},
	{"LLM", ":2025", "OWASP Top 10 for LLM Applications, 2025"},
}

func render(all []*requirement, tests int) string {
	var b strings.Builder
	b.WriteString(head)
	byTests, elsewhere, unmet, absent := 0, 0, 0, 0
	for _, r := range all {
		switch {
		case strings.HasPrefix(r.reason, notApplicable):
			absent++
		case strings.HasPrefix(r.reason, notMet):
			unmet++
		case r.reason != "" && len(r.shown) == 0:
			elsewhere++
		default:
			byTests++
		}
	}
	fmt.Fprintf(&b, "%d requirements are shown by %d tests and steps, %d otherwise; %d are not met, or only in part; %d do not apply.\n",
		byTests, tests, elsewhere, unmet, absent)
	for _, list := range lists {
		fmt.Fprintf(&b, "\n## %s\n\n| | level | in short | shown by |\n|---|---|---|---|\n", list.title)
		var rest strings.Builder
		for _, r := range all {
			if !strings.HasPrefix(r.id, list.prefix) || !strings.HasSuffix(r.id, list.suffix) {
				continue
			}
			id := strings.TrimPrefix(r.id, "ASVS ")
			if because, ok := strings.CutPrefix(r.reason, notApplicable); ok {
				fmt.Fprintf(&rest, "| %s | %s | %s | %s |\n", id, r.level, r.summary, because)
				continue
			}
			var by []string
			for _, e := range r.shown {
				by = append(by, fmt.Sprintf("[%s](../../%s)", e.name, e.file))
			}
			if text, ok := strings.CutPrefix(r.reason, notMet); ok {
				by = append(by, "**not met:** "+text)
			} else if r.reason != "" {
				by = append(by, strings.TrimPrefix(r.reason, otherwise))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", id, r.level, r.summary, strings.Join(by, ", "))
		}
		if rest.Len() > 0 {
			fmt.Fprintf(&b, "\nRequirements that do not apply:\n\n| | level | in short | because |\n|---|---|---|---|\n%s", rest.String())
		}
	}
	return b.String()
}
