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
