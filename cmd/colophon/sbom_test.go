package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"colophon/internal/sbom"
)

// TestBillOfMaterialsListsLinkedModules compares the bill of materials with the build
// information. The bill must list every linked module.
//
// security: ASVS 15.1.2, LLM03:2025
func TestBillOfMaterialsListsLinkedModules(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"version", "--sbom"}, noEnvironment, strings.NewReader(""), &out, &out); err != nil {
		t.Fatal(err)
	}
	var b struct {
		Format     string `json:"bomFormat"`
		Spec       string `json:"specVersion"`
		Version    int
		Components []sbom.Component
	}
	if err := json.Unmarshal(out.Bytes(), &b); err != nil || b.Format != "CycloneDX" || b.Spec != "1.6" || b.Version != 1 {
		t.Fatalf("%v in %.300s", err, out.String())
	}
	listed := map[string]sbom.Component{}
	for _, c := range b.Components {
		if c.Name == "" || c.Version == "" || !regexp.MustCompile(`^pkg:(golang|npm)/\S+@\S+$`).MatchString(c.PURL) || listed[c.Name].Name != "" {
			t.Errorf("component %+v", c)
		}
		listed[c.Name] = c
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the test has no build information")
	}
	for _, m := range info.Deps {
		if c := listed[m.Path]; m.Replace == nil && (c.Version != m.Version || len(c.Properties) != 1 || c.Properties[0].Value != m.Sum) {
			t.Errorf("%s %s is listed as %+v", m.Path, m.Version, c)
		}
	}
	if want := len(info.Deps) + 2; len(listed) != want {
		t.Errorf("%d components, want %d", len(listed), want)
	}
	for _, name := range []string{"std", "swagger-ui-dist"} {
		if listed[name].Name == "" {
			t.Errorf("%s is not listed", name)
		}
	}
	if err := sbom.Write(&out, nil); err == nil {
		t.Error("a program without build information has a bill")
	}
}
