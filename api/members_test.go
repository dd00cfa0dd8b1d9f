package api

import (
	"reflect"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

// TestMembersOfNestedObjectsAreKnown reads the members of objects in objects, of objects in
// arrays, and of objects that the schema only refers to.
func TestMembersOfNestedObjectsAreKnown(t *testing.T) {
	type inner struct {
		Size int `json:"size"`
		From int `json:"from"`
	}
	type outer struct {
		One  inner   `json:"one"`
		Many []inner `json:"many"`
		Text string  `json:"text"`

		Any map[string]inner `json:"any"`
	}
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	b := bodySchema{registry, registry.Schema(reflect.TypeFor[outer](), false, "")}
	for location, want := range map[string][2]string{
		"body.x":             {"body", "any, many, one, text"},
		"body.one.x":         {"body.one", "from, size"},
		"body.one.x.y":       {"body.one", "from, size"},
		"body.many[3].x":     {"body.many", "from, size"},
		"body.text.x":        {"body", "any, many, one, text"},
		"body.hunter2.one.x": {"body", "any, many, one, text"},
		"body":               {"body", "any, many, one, text"},
	} {
		if at, known := b.members(location); at != want[0] || known != want[1] {
			t.Errorf("%s: %s has %s, want %v", location, at, known, want)
		}
	}
	for location, want := range map[string]string{
		"body.any.hunter2":      "body.any",
		"body.any.hunter2.size": "body.any",
		"body.any":              "body.any",
		"body.one.size":         "body.one.size",
		"body.many[3].size":     "body.many[3].size",
		"body":                  "body",
	} {
		if got := b.known(location); got != want {
			t.Errorf("%s is shown as %s, want %s", location, got, want)
		}
	}
}
