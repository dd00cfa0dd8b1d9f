package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReportIsWhatTheTestsSay keeps docs/reports/security.md from drifting.
func TestReportIsWhatTheTestsSay(t *testing.T) {
	got, err := report("../..")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../../docs/reports/security.md")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("docs/reports/security.md is out of date: go run ./internal/evidence > docs/reports/security.md")
	}
}

// TestAllOfLevel1IsThere counts: version 5.0.0 has 70 requirements of level 1.
func TestAllOfLevel1IsThere(t *testing.T) {
	all, err := read(requirements)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, r := range all {
		switch {
		case strings.HasPrefix(r.id, "ASVS "):
			n["level "+r.level]++
		default:
			n[r.id[:3]]++
		}
	}
	if n["level 1"] != 70 || n["API"] != 10 || n["LLM"] != 10 {
		t.Errorf("%v", n)
	}
}

func TestWhatIsMissingIsFound(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a/a_test.go", "package a\n\n// TestA says.\n//\n// security: X 1, X 2\nfunc TestA(t *testing.T) {}\n")
	write(".ci/run", "#security: X 3\nstep_c() {\n}\n")
	shown, err := collect(dir)
	if err != nil || len(shown) != 2 || shown[1].name != "TestA" || shown[1].file != "a/a_test.go" || shown[0].name != "step_c" {
		t.Fatalf("%+v, %v", shown, err)
	}
	for text, says := range map[string]string{
		"X 1|1|a|\nX 2|1|b|\nX 3|1|c|":                        "",
		"X 1|1|a|\nX 2|1|b|\nX 3|1|c|\nX 4|1|d|":              "no test shows X 4",
		"X 1|1|a|\nX 2|1|b|":                                  `"X 3"`,
		"X 1|1|a|n/a: no\nX 2|1|b|\nX 3|1|c|":                 "does not apply",
		"X 1|1|a|not met: why\nX 2|1|b|\nX 3|1|c|":            "",
		"X 4|2|d|otherwise: so\nX 1|1|a|\nX 2|1|b|\nX 3|1|c|": "",
	} {
		all, err := read(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := match(all, shown); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, bad := range []string{"X 1|1|a", "X 1|1|a|\nX 1|1|b|", "X 1|1|a|maybe"} {
		if _, err := read(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	write("a/b_test.go", "package a\n\n// security: X 1\n\nfunc TestB(t *testing.T) {}\n")
	if _, err := collect(dir); err == nil || !strings.Contains(err.Error(), "above no test") {
		t.Errorf("a tag that belongs to nothing: %v", err)
	}
}
