package catalog

import (
	"strings"
	"testing"
	"testing/fstest"

	"colophon/model/modeltest"
)

func TestLicenceIsThatOfTheFrontMatter(t *testing.T) {
	for card, want := range map[string]string{
		"---\nlanguage: en\nlicense: mit\n---\n# GPT-2\n":    "mit",
		"---\r\nlicense: \"apache-2.0\"\r\n---\r\n":          "apache-2.0",
		"\ufeff---\nlicense: 'cc-by-4.0'\n---":               "cc-by-4.0",
		"---\nlanguage: en\n---\nlicense: mit\n":             "",
		"license: mit\n":                                     "",
		"---\nlicense:\n- mit\n---\n":                        "",
		"---\nlicense: \x1b[31mred\n---\n":                   "",
		"---\nlicense: " + strings.Repeat("a", 60) + "\n---": "",
		"---\n  license: mit\n---\n":                         "",
		"":                                                   "",
	} {
		if got := parseLicence(card); got != want {
			t.Errorf("%q: %q, want %q", card, got, want)
		}
	}
}

func TestDescribeReadsEveryFormOfACheckpoint(t *testing.T) {
	for _, v := range modeltest.Variants() {
		d, err := Describe(v.Files)
		size := 0
		for _, f := range v.Files {
			size += len(f.Data)
		}
		types := "F32"
		switch v.Name {
		case "F64", "F16", "BF16":
			types = v.Name
		case "mixed types":
			types = "BF16+F16+F32+F64"
		}
		if err != nil || d != (Description{int64(size), types, 40, ""}) {
			t.Errorf("%s: %+v, %v, want %d bytes of %s", v.Name, d, err, size, types)
		}
	}
	files := modeltest.NewNetwork(nil).Files()
	files["README.md"] = &fstest.MapFile{Data: []byte("---\nlicense: mit\n---")}
	if d, err := Describe(files); err != nil || d.Licence != "mit" {
		t.Errorf("%+v, %v", d, err)
	}
	delete(files, "merges.txt")
	if _, err := Describe(files); err == nil {
		t.Error("a model without merges.txt is described")
	}
}

func FuzzLicence(f *testing.F) {
	f.Add("---\nlicense: mit\n---")
	f.Fuzz(func(t *testing.T, card string) {
		if got := parseLicence(card); len(got) > 40 || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("licence %q", got)
		}
	})
}
