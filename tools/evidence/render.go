package main

import (
	"fmt"
	"strings"
)

const head = `# What shows that the service is closed by default

Written by ` + "`go run ./tools/evidence`" + ` from comments above the tests; a test fails when this page is not what they say.
The requirements are those of the OWASP Application Security Verification Standard 5.0.0 (all 70 of level 1, and of
the higher levels what fits a service of this kind), the OWASP API Security Top 10 of 2023 and the OWASP Top 10 for LLM
Applications of 2025. They are named by their ids and said in our own words: what counts is the standard's text. What is
not met, or not wholly, says so, and may have tests of what is. A requirement of a higher level that is not here
is about something that is not here, or nobody has looked whether it is met. A test shows that something held in the
cases that it tries, and no more than that.

`

// lists are the headings of the report, by what the ids of their rows begin with.
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
		case strings.HasPrefix(r.excuse, notHere):
			absent++
		case strings.HasPrefix(r.excuse, notMet):
			unmet++
		case r.excuse != "" && len(r.shown) == 0:
			elsewhere++
		default:
			byTests++
		}
	}
	fmt.Fprintf(&b, "%d requirements are shown by %d tests and steps, %d otherwise; %d are not met, or not wholly; %d are about things that are not here.\n",
		byTests, tests, elsewhere, unmet, absent)
	for _, list := range lists {
		fmt.Fprintf(&b, "\n## %s\n\n| | level | in short | shown by |\n|---|---|---|---|\n", list.title)
		var rest strings.Builder
		for _, r := range all {
			if !strings.HasPrefix(r.id, list.prefix) || !strings.HasSuffix(r.id, list.suffix) {
				continue
			}
			id := strings.TrimPrefix(r.id, "ASVS ")
			if because, ok := strings.CutPrefix(r.excuse, notHere); ok {
				fmt.Fprintf(&rest, "| %s | %s | %s | %s |\n", id, r.level, r.wants, because)
				continue
			}
			var by []string
			for _, e := range r.shown {
				by = append(by, fmt.Sprintf("[%s](../../%s)", e.name, e.file))
			}
			if text, ok := strings.CutPrefix(r.excuse, notMet); ok {
				by = append(by, "**not met:** "+text)
			} else if r.excuse != "" {
				by = append(by, strings.TrimPrefix(r.excuse, otherwise))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", id, r.level, r.wants, strings.Join(by, ", "))
		}
		if rest.Len() > 0 {
			fmt.Fprintf(&b, "\nWhat does not apply:\n\n| | level | in short | because |\n|---|---|---|---|\n%s", rest.String())
		}
	}
	return b.String()
}
