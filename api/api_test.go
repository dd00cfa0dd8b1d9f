package api

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

// TestDescriptionIsCommitted compares openapi/openapi.yaml with the description that the
// code generates. Both must be equal, because people read the file in the repository.
//
// security: ASVS 2.1.1, API9:2023
func TestDescriptionIsCommitted(t *testing.T) {
	got, err := Description()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../openapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("openapi/openapi.yaml is out of date: go run ./cmd/colophon openapi > openapi/openapi.yaml")
	}
}

// TestEveryParameterIsBounded walks through the OpenAPI description. Every value that a
// client may send must have an upper bound.
//
// security: ASVS 2.1.1, ASVS 2.2.1, API4:2023, LLM10:2025
func TestEveryParameterIsBounded(t *testing.T) {
	s, _, err := build(Options{})
	if err != nil {
		t.Fatal(err)
	}
	registry := s.api.OpenAPI().Components.Schemas
	var check func(where string, schema *huma.Schema)
	lenient := false // true for forms, which must accept unknown members (OAuth2)
	check = func(where string, schema *huma.Schema) {
		for schema.Ref != "" {
			schema = registry.SchemaFromRef(schema.Ref)
		}
		switch schema.Type {
		case huma.TypeString:
			if schema.MaxLength == nil && len(schema.Enum) == 0 && schema.Format == "" {
				t.Errorf("%s: a string without maxLength", where)
			}
		case huma.TypeInteger, huma.TypeNumber:
			if schema.Maximum == nil || schema.Minimum == nil && schema.ExclusiveMinimum == nil {
				t.Errorf("%s: a number without minimum and maximum", where)
			}
		case huma.TypeArray:
			if schema.MaxItems == nil {
				t.Errorf("%s: an array without maxItems", where)
			}
			check(where+"[]", schema.Items)
		case huma.TypeObject:
			if values, ok := schema.AdditionalProperties.(*huma.Schema); ok {
				if schema.MaxProperties == nil {
					t.Errorf("%s: an object of any names without maxProperties", where)
				}
				check(where+".*", values)
			} else if schema.AdditionalProperties != lenient {
				t.Errorf("%s: an object that accepts unknown members: %v, want %v", where, schema.AdditionalProperties, lenient)
			}
			for name, property := range schema.Properties {
				check(where+"."+name, property)
			}
		}
	}
	operations := 0
	for path, item := range s.api.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodPatch: item.Patch, http.MethodDelete: item.Delete} {
			if op == nil {
				continue
			}
			operations++
			for _, p := range op.Parameters {
				check(method+" "+path+" "+p.Name, p.Schema)
			}
			if op.RequestBody != nil {
				for media, content := range op.RequestBody.Content {
					lenient = media == formType
					check(method+" "+path+" body", content.Schema)
				}
				lenient = false
			}
			if open := len(op.Security) == 0; open != strings.Contains(",POST /users,POST /token,POST /revoke,GET /.well-known/jwks.json,GET /log/checkpoint,GET /log/key,GET /healthz,GET /readyz,", ","+method+" "+path+",") {
				t.Errorf("%s %s: open to everyone: %v", method, path, open)
			}
		}
	}
	if operations < 10 {
		t.Errorf("only %d operations", operations)
	}
}
