package api

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// inputSchema describes openai.Input.
type inputSchema struct{}

// Schema returns the schema.
func (inputSchema) Schema(huma.Registry) *huma.Schema {
	text := func(doc string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, MaxLength: new(32768), Description: doc}
	}
	word := func(doc string, values ...any) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, Enum: values, Description: doc}
	}
	part := &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"type", "text"},
		Properties: map[string]*huma.Schema{
			"type": word("The kind of part: only texts are read.", "input_text", "output_text"),
			"text": text("The text."),
		},
	}
	id := &huma.Schema{Type: huma.TypeString, Nullable: true, MaxLength: new(512), Description: "The id that GET /v1/responses/{id}/input_items shows."}
	status := &huma.Schema{Type: huma.TypeString, Nullable: true, MaxLength: new(64), Description: "Without effect."}
	phase := word("Without effect.", "commentary", "final_answer", nil)
	phase.Nullable = true
	return &huma.Schema{OneOf: []*huma.Schema{text("A text of the user."), {Type: huma.TypeArray, MinItems: new(1), MaxItems: new(1024), Items: &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"role", "content"},
		Properties: map[string]*huma.Schema{
			"type":   word("The kind of item: only messages are read.", "message"),
			"id":     id,
			"role":   word("Who speaks.", "system", "developer", "user", "assistant"),
			"status": status,
			"phase":  phase,
			"content": {
				OneOf:       []*huma.Schema{text("The text."), {Type: huma.TypeArray, MaxItems: new(256), Items: part}},
				Description: "The text, or parts of it that are joined.",
			},
		},
	}}}}
}

// metadataSchema describes openai.Metadata.
type metadataSchema struct{}

// Schema returns the schema.
func (metadataSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeObject, MaxProperties: new(16),
		AdditionalProperties: &huma.Schema{Type: huma.TypeString, MaxLength: new(512), Description: "A text of the client."},
	}
}

// nullable describes an object that may be null. Huma has no tag for that.
type nullable[T any] struct{}

// Schema returns the schema.
func (nullable[T]) Schema(r huma.Registry) *huma.Schema {
	s := huma.SchemaFromType(r, reflect.TypeFor[T]())
	s.Nullable = true
	return s
}
