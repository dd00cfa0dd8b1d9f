package api

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDescriptionIsComplete walks through the published description. Every schema and every
// member must be described, and no name may come from the code.
func TestDescriptionIsComplete(t *testing.T) {
	t.Parallel()
	s, _, err := build(Options{})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := s.document()
	if err != nil {
		t.Fatal(err)
	}
	schemas := doc["components"].(object)["schemas"].(object)
	for name, schema := range schemas {
		if schema.(object)["description"] == nil {
			t.Errorf("schema %s: describe it in schemaDocs", name)
		}
		if name != "EventBody" && (strings.Contains(name, "Body") || strings.Contains(name, "Input") || strings.Contains(name, "Output") || strings.HasSuffix(name, "Response")) {
			t.Errorf("schema %s: add a name to schemaNames that does not come from the code", name)
		}
	}
	for name := range schemaDocs {
		if schemas[name] == nil {
			t.Errorf("schemaDocs has %s, and the description does not", name)
		}
	}
	members := 0
	eachObject(doc, func(o object) {
		for name, member := range properties(o) {
			if members++; member["description"] == nil {
				text, _ := json.Marshal(member)
				t.Errorf("the member %s is not described: %s", name, text)
			}
		}
	})
	if members < 100 {
		t.Errorf("only %d members", members)
	}
	for path, item := range doc["paths"].(object) {
		for method, op := range item.(object) {
			for _, member := range []string{"description", "summary", "security", "operationId"} {
				if op.(object)[member] == nil {
					t.Errorf("%s %s has no %s", method, path, member)
				}
			}
		}
	}
}

// TestMembersOfRequestsAreOptional looks for members that a generator would make mandatory.
func TestMembersOfRequestsAreOptional(t *testing.T) {
	t.Parallel()
	s, _, err := build(Options{})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := s.document()
	if err != nil {
		t.Fatal(err)
	}
	schemas := doc["components"].(object)["schemas"].(object)
	for name := range reachable(doc, schemas) {
		for member, property := range properties(schemas[name].(object)) {
			if property["default"] != nil {
				t.Errorf("%s.%s has a default, which some generators take for a promise that it is sent", name, member)
			}
		}
	}
	generate := schemas["GenerateRequest"].(object)
	if diff := cmp.Diff([]any{"prompt"}, generate["required"]); diff != "" {
		t.Error(diff)
	}
	if doc := generate["properties"].(object)["top_k"].(object)["description"].(string); !strings.HasSuffix(doc, "Default: 40.") {
		t.Errorf("top_k: %s", doc)
	}
	for name, schema := range schemas {
		for member, property := range properties(schema.(object)) {
			if types, ok := property["type"].([]any); ok && !reachable(doc, schemas)[name] && types[0] == "array" {
				t.Errorf("%s.%s of an answer may be null", name, member)
			}
		}
	}
}

// TestOlderFormSaysTheSame turns what is new in OpenAPI 3.1 into OpenAPI 3.0.
func TestOlderFormSaysTheSame(t *testing.T) {
	t.Parallel()
	form := func(schema string) (o object) {
		t.Helper()
		if err := json.Unmarshal([]byte(`{"info":{"license":{"name":"Apache-2.0","identifier":"Apache-2.0"}},"schema":`+schema+`}`), &o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	for newer, want := range map[string]string{
		`{"type":["string","null"]}`:                                `{"type":"string","nullable":true}`,
		`{"type":["string","null"],"enum":["a"]}`:                   `{"type":"string","nullable":true,"enum":["a",null]}`,
		`{"type":"number","exclusiveMinimum":0,"maximum":1}`:        `{"type":"number","minimum":0,"exclusiveMinimum":true,"maximum":1}`,
		`{"type":"number","exclusiveMaximum":2}`:                    `{"type":"number","maximum":2,"exclusiveMaximum":true}`,
		`{"type":"string","examples":["a"]}`:                        `{"type":"string","example":"a"}`,
		`{"type":"string","contentEncoding":"base64"}`:              `{"type":"string","format":"byte"}`,
		`{"$ref":"#/x"}`:                                            `{"$ref":"#/x"}`,
		`{"$ref":"#/x","description":"d"}`:                          `{"allOf":[{"$ref":"#/x"}],"description":"d"}`,
		`{"items":{"type":["integer","null"]},"type":"array"}`:      `{"items":{"type":"integer","nullable":true},"type":"array"}`,
		`{"properties":{"type":{"type":["array","null"]}},"x":"y"}`: `{"properties":{"type":{"type":"array","nullable":true}},"x":"y"}`,
	} {
		doc := form(newer)
		older(doc)
		if diff := cmp.Diff(form(want)["schema"], doc["schema"]); diff != "" {
			t.Errorf("%s: %s", newer, diff)
		}
	}
	// No keyword that OpenAPI 3.0 lacks may be left in the whole description.
	s, _, err := build(Options{})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := s.document()
	if err != nil {
		t.Fatal(err)
	}
	older(doc)
	eachObject(doc, func(o object) {
		for _, name := range []string{"const", "contentEncoding", "contentMediaType", "$defs", "prefixItems", "patternProperties", "dependentRequired", "propertyNames", "webhooks", "identifier", "if"} {
			if _, ok := o[name].(string); ok {
				t.Errorf("OpenAPI 3.0 has no %s: %v", name, o)
			}
		}
		for _, name := range []string{"exclusiveMinimum", "exclusiveMaximum"} {
			if _, ok := o[name].(float64); ok {
				t.Errorf("%s is a number: %v", name, o)
			}
		}
		if _, ok := o["type"].([]any); ok {
			t.Errorf("a list of types: %v", o)
		}
	})
}
