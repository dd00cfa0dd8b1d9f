package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"colophon/model/gpt2"
	"colophon/model/opticks"
)

// TestReadmeFiguresAreTrue compares the figures of the README with the files that they
// describe.
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

// thousands puts a comma before the last three of four or more digits.
func thousands(digits string) string {
	if len(digits) < 4 {
		return digits
	}
	return digits[:len(digits)-3] + "," + digits[len(digits)-3:]
}
