package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"colophon/model/gpt2"
	"colophon/model/opticks"
)

// TestReadmeFiguresAreTrue computes figures from the files that they describe. The README
// must contain the same figures.
func TestReadmeFiguresAreTrue(t *testing.T) {
	readme := readFile(t, "../../README.md")
	config, err := gpt2.ReadConfig(opticks.Files())
	if err != nil {
		t.Fatal(err)
	}
	d, inner := config.Embd, config.Inner
	block := 4*d + d*3*d + 3*d + d*d + d + d*inner + inner + inner*d + d
	parameters := (config.Vocab+config.Context)*d + config.Layers*block + 2*d
	result := regexp.MustCompile(`(\d+) jobs under (\d+) kills`).FindStringSubmatch(readFile(t, "../../docs/reports/chaos.md"))
	if result == nil {
		t.Fatal("docs/reports/chaos.md does not say how many jobs it ran")
	}
	for _, figure := range []string{
		fmt.Sprintf("has %.1f million parameters", float64(parameters)/1e6),
		fmt.Sprintf("%s jobs under %s kills", thousands(result[1]), result[2]),
	} {
		if !strings.Contains(readme, figure) {
			t.Errorf("README.md does not say %q", figure)
		}
	}
}

// linkToTest matches a Markdown link to a test: the name of the test, and the path of its
// file from the page.
var linkToTest = regexp.MustCompile(`\[(\w+)\]\(([^)#]+_test\.go)\)`)

// TestLinkedTestsExist reads the Markdown pages. Each test that a page links to must be
// in the file that the link names.
func TestLinkedTestsExist(t *testing.T) {
	t.Parallel()
	pages := []string{"../../README.md", "../../SECURITY.md", "../../CHANGELOG.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d pages, %v", pattern, len(found), err)
		}
		pages = append(pages, found...)
	}
	for _, page := range pages {
		text := readFile(t, page)
		links := linkToTest.FindAllStringSubmatch(text, -1)
		if all := strings.Count(text, "_test.go)"); len(links) != all {
			t.Errorf("%s: %d of %d links to tests have the name of a test", page, len(links), all)
		}
		for _, link := range links {
			source := readFile(t, filepath.Join(filepath.Dir(page), link[2]))
			if !strings.Contains(source, "\nfunc "+link[1]+"(") {
				t.Errorf("%s: %s has no function %s", page, link[2], link[1])
			}
		}
	}
}

// TestPromisesLinkToTheirTests reads the promises in the README and in the architecture's
// table of guarantees. A list item and a table row must end with links to tests. In other
// text, a link to a test must follow each sentence with a word such as always or never.
func TestPromisesLinkToTheirTests(t *testing.T) {
	t.Parallel()
	absolute := regexp.MustCompile(`(?i)\b(always|never|only|same|every)\b`)
	section := func(page, title string) string {
		_, text, ok := strings.Cut(readFile(t, page), "\n## "+title+"\n")
		if !ok {
			t.Fatalf("%s has no section %q", page, title)
		}
		text, _, _ = strings.Cut(text, "\n## ")
		return text
	}
	promises := 0
	for line := range strings.Lines(section("../../README.md", "What you can rely on")) {
		text := strings.TrimSpace(line)
		unshown := text // what follows the last link
		if links := linkToTest.FindAllStringIndex(text, -1); links != nil {
			unshown = text[links[len(links)-1][1]:]
			promises += len(links)
		}
		if strings.HasPrefix(text, "- ") && unshown == text || absolute.MatchString(unshown) {
			t.Errorf("README.md: no test follows %q", unshown)
		}
	}
	rows := 0
	for line := range strings.Lines(section("../../docs/architecture.md", "Guarantees, and the tests that show them")) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || cells[0] == "| guarantee" {
			continue
		}
		if rows++; !linkToTest.MatchString(cells[len(cells)-1]) {
			t.Errorf("docs/architecture.md: no test shows %q", cells[0])
		}
	}
	if promises < 20 || rows < 20 {
		t.Errorf("%d promises and %d rows found", promises, rows)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// thousands puts a comma between thousands and hundreds. The number must be below a
// million.
func thousands(digits string) string {
	if len(digits) < 4 {
		return digits
	}
	return digits[:len(digits)-3] + "," + digits[len(digits)-3:]
}

// TestRunbookMessagesExist takes the log messages from the runbook. The source must
// contain each of these messages.
func TestRunbookMessagesExist(t *testing.T) {
	_, table, ok := strings.Cut(readFile(t, "../../docs/runbook.md"), "## What the log says")
	if !ok {
		t.Fatal("docs/runbook.md has no table of log messages")
	}
	source := &strings.Builder{}
	for _, dir := range []string{"api", "cmd", "events", "internal", "jobs"} {
		err := filepath.WalkDir("../../"+dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				source.WriteString(readFile(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	messages := 0
	for row := range strings.Lines(table) {
		cells := strings.SplitN(row, "|", 3)
		if len(cells) < 3 || strings.Contains(cells[1], "Notifier") { // River logs this message
			continue
		}
		for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			messages++
			if message := strings.TrimRight(quoted[1], " …"); !strings.Contains(source.String(), message) {
				t.Errorf("the program does not log %q", message)
			}
		}
	}
	if messages < 20 {
		t.Errorf("%d messages found in the table", messages)
	}
}
