// Command evidence writes docs/reports/security.md. This report lists the requirements
// of three public lists and, for each requirement, the tests that show it.
//
// The comment line directly above a test names the requirements that the test shows:
//
//	// security: ASVS 6.2.1, API2:2023
//
// A step of .ci/run has the same line with #security: instead. The file requirements.txt
// lists the requirements. If a requirement does not apply or is not met, the file also has
// the reason. A requirement without a test or a reason is an error, and so is an unknown
// id. A change that removes a test must therefore give its requirements another test or a
// reason.
package main

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	text, err := report(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(text)
}

// requirements has a line for each requirement. Bars separate the four fields of a
// line, which are the id, the level, a summary in our own words, and the reason if no
// test shows the requirement.
//
//go:embed requirements.txt
var requirements string

type requirement struct {
	id, level, summary, reason string
	shown                      []evidence
}

// evidence is a test, or a step of .ci/run, that shows that requirements are met.
type evidence struct {
	name, file string
	ids        []string
}

// These prefixes mark the kinds of reasons in requirements. A requirement that does not
// apply has no tests. A requirement with another kind of reason may have tests.
const (
	otherwise     = "otherwise: "
	notMet        = "not met: "
	notApplicable = "n/a: "
)

// report returns the report on the repository at root.
func report(root string) (string, error) {
	all, err := read(requirements)
	if err != nil {
		return "", err
	}
	shown, err := collect(root)
	if err != nil {
		return "", err
	}
	if err := match(all, shown); err != nil {
		return "", err
	}
	return render(all, len(shown)), nil
}

func read(text string) ([]*requirement, error) {
	var all []*requirement
	known := map[string]bool{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if lines.Text() == "" || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		fields := strings.SplitN(lines.Text(), "|", 4)
		if len(fields) != 4 {
			return nil, fmt.Errorf("requirements.txt: %q does not have four fields", lines.Text())
		}
		for i, f := range fields {
			fields[i] = strings.TrimSpace(f)
		}
		r := &requirement{id: fields[0], level: fields[1], summary: fields[2], reason: fields[3]}
		if known[r.id] {
			return nil, fmt.Errorf("requirements.txt: %s appears twice", r.id)
		}
		known[r.id] = true
		if r.reason != "" && !strings.HasPrefix(r.reason, otherwise) && !strings.HasPrefix(r.reason, notMet) && !strings.HasPrefix(r.reason, notApplicable) {
			return nil, fmt.Errorf("requirements.txt: %s has the reason %q, which is of no known kind", r.id, r.reason)
		}
		all = append(all, r)
	}
	return all, nil
}

// match assigns to each requirement the evidence that shows it.
func match(all []*requirement, shown []evidence) error {
	byID := map[string]*requirement{}
	for _, r := range all {
		byID[r.id] = r
	}
	var errs []error
	for _, e := range shown {
		for _, id := range e.ids {
			if r := byID[id]; r != nil {
				r.shown = append(r.shown, e)
			} else {
				errs = append(errs, fmt.Errorf("%s: %s shows %q, which requirements.txt does not know", e.file, e.name, id))
			}
		}
	}
	for _, r := range all {
		switch {
		case r.reason == "" && len(r.shown) == 0:
			errs = append(errs, fmt.Errorf("requirements.txt: no test shows %s (%s), and no reason is given", r.id, r.summary))
		case strings.HasPrefix(r.reason, notApplicable) && len(r.shown) > 0:
			errs = append(errs, fmt.Errorf("requirements.txt: %s does not apply, and %s shows it", r.id, r.shown[0].name))
		}
	}
	return errors.Join(errs...)
}

// collect returns all evidence below root, in the order of the files.
func collect(root string) ([]evidence, error) {
	var all []evidence
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); path != root && (name == ".git" || name == "testdata" || name == "models" || name == "data") {
				return fs.SkipDir
			}
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case strings.HasSuffix(name, "_test.go"):
			found, err := inTests(path)
			all = append(all, withFile(found, name)...)
			return err
		case name == filepath.Join(".ci", "run"):
			found, err := inSteps(path)
			all = append(all, withFile(found, name)...)
			return err
		}
		return nil
	})
	return all, err
}

func withFile(found []evidence, file string) []evidence {
	for i := range found {
		found[i].file = filepath.ToSlash(file)
	}
	return found
}

// tagged is the prefix of a comment line that names the requirements of a test.
const tagged = "// security:"

// inTests finds the tags above functions that are tests.
func inTests(path string) ([]evidence, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []evidence
	claimed := map[*ast.Comment]bool{}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Doc == nil || !isTest(f) {
			continue
		}
		var ids []string
		for _, c := range f.Doc.List {
			if tag, ok := strings.CutPrefix(c.Text, tagged); ok {
				claimed[c] = true
				ids = append(ids, split(tag)...)
			}
		}
		if ids != nil {
			found = append(found, evidence{name: f.Name.Name, ids: ids})
		}
	}
	for _, group := range file.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, tagged) && !claimed[c] {
				return nil, fmt.Errorf("%s: %q stands above no test", path, c.Text)
			}
		}
	}
	return found, nil
}

// isTest reports whether a function has a parameter of type *testing.T, *testing.B or
// *testing.F.
func isTest(f *ast.FuncDecl) bool {
	for _, p := range f.Type.Params.List {
		star, _ := p.Type.(*ast.StarExpr)
		if star == nil {
			continue
		}
		if s, ok := star.X.(*ast.SelectorExpr); ok && fmt.Sprint(s.X) == "testing" {
			return true
		}
	}
	return false
}

var (
	stepTag  = regexp.MustCompile(`^#security:(.*)$`)
	stepName = regexp.MustCompile(`^(\w+)\(\) \{`)
)

// inSteps finds the tags above the functions of a shell script.
func inSteps(path string) ([]evidence, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []evidence
	var ids []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if m := stepTag.FindStringSubmatch(line); m != nil {
			ids = append(ids, split(m[1])...)
		} else if m := stepName.FindStringSubmatch(line); m != nil && ids != nil {
			found, ids = append(found, evidence{name: m[1], ids: ids}), nil
		} else if ids != nil && !strings.HasPrefix(line, "#") {
			return nil, fmt.Errorf("%s: a tag stands above %q", path, line)
		}
	}
	return found, nil
}

func split(tag string) []string {
	ids := strings.Split(tag, ",")
	for i, id := range ids {
		ids[i] = strings.TrimSpace(id)
	}
	return slices.DeleteFunc(ids, func(id string) bool { return id == "" })
}
