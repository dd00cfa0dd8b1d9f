package api

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"colophon/api/openai"
)

// fieldTable writes the table of the fields of an operation for docs/openai.md.
func fieldTable(o openai.Operation) string {
	var rows []string
	row := func(name, treatment, text string) {
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", name, treatment, strings.ReplaceAll(text, "|", `\|`)))
	}
	for _, f := range reflect.VisibleFields(o.Honoured) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		doc := f.Tag.Get("doc")
		if name == "" {
			continue
		}
		if hint, ok := strings.CutPrefix(doc, "A hint, without effect"); ok {
			row(name, "a hint, without effect", strings.TrimLeft(hint, ":. "))
			continue
		}
		if value := f.Tag.Get("default"); value != "" {
			doc += " Default: " + value + "."
		}
		row(name, "honoured", doc)
	}
	for _, f := range o.Refused {
		neutral := "`null`"
		for _, value := range f.Neutral {
			neutral += ", `" + value + "`"
		}
		row(f.Name, "refused unless "+neutral, f.Why)
	}
	slices.Sort(rows)
	return "| field | treatment | note |\n|---|---|---|\n" + strings.Join(rows, "\n") + "\n"
}

// TestFieldsAreDocumented compares the tables in docs/openai.md with those of the code.
func TestFieldsAreDocumented(t *testing.T) {
	const file = "../docs/openai.md"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(old)
	for name, fields := range map[string]openai.Operation{"completions": openai.Completions, "chat": openai.Chat, "responses": openai.Responses} {
		begin, end := "<!-- fields of "+name+" -->\n", "<!-- end of fields -->"
		before, rest, ok := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no table of %s", file, name)
		}
		text = before + begin + fieldTable(fields) + end + after
	}
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != string(old) {
		t.Errorf("%s is out of date: go test ./api -run TestFieldsAreDocumented -update", file)
	}
}
