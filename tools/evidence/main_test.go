package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReportIsUpToDate fails if docs/reports/security.md differs from the report on the
// current tests.
func TestReportIsUpToDate(t *testing.T) {
	got, err := report("../..")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../../docs/reports/security.md")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("docs/reports/security.md is out of date: go run ./tools/evidence > docs/reports/security.md")
	}
}

// level1 lists all 70 requirements of level 1 of OWASP ASVS 5.0.0, by chapter.
const level1 = `
	1.2.1 1.2.2 1.2.3 1.2.4 1.2.5 1.3.1 1.3.2 1.5.1
	2.1.1 2.2.1 2.2.2 2.3.1
	3.2.1 3.2.2 3.3.1 3.4.1 3.4.2 3.5.1 3.5.2 3.5.3
	4.1.1 4.4.1
	5.2.1 5.2.2 5.3.1 5.3.2
	6.1.1 6.2.1 6.2.2 6.2.3 6.2.4 6.2.5 6.2.6 6.2.7 6.2.8 6.3.1 6.3.2 6.4.1 6.4.2
	7.2.1 7.2.2 7.2.3 7.2.4 7.4.1 7.4.2
	8.1.1 8.2.1 8.2.2 8.3.1
	9.1.1 9.1.2 9.1.3 9.2.1
	10.4.1 10.4.2 10.4.3 10.4.4 10.4.5
	11.3.1 11.3.2 11.4.1
	12.1.1 12.2.1 12.2.2
	13.4.1
	14.2.1 14.3.1
	15.1.1 15.2.1 15.3.1`

func TestAllOfLevel1IsListed(t *testing.T) {
	all, err := read(requirements)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	others := map[string]int{}
	for _, r := range all {
		if id, ok := strings.CutPrefix(r.id, "ASVS "); !ok {
			others[r.id[:3]]++
		} else if r.level == "1" {
			got = append(got, id)
		}
	}
	if want := strings.Fields(level1); len(want) != 70 || !slices.Equal(got, want) {
		t.Errorf("%d of %d requirements of level 1, or not in their order: %q", len(got), len(want), got)
	}
	if others["API"] != 10 || others["LLM"] != 10 {
		t.Errorf("%v", others)
	}
}

func TestMissingEvidenceIsAnError(t *testing.T) {
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
		t.Errorf("a tag above no test: %v", err)
	}
}
