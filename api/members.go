package api

import (
	"maps"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// bodyName is the key of an operation's metadata that holds the bodySchema.
const bodyName = "body"

// bodySchema is the schema of an operation's request body.
type bodySchema struct {
	registry huma.Registry
	schema   *huma.Schema
}

// members returns the members of the object that has an unknown member, in the order of the
// OpenAPI description, and the object's location. The parameter location is that of the
// unknown member. The client has chosen its last part, so the results contain only names of
// the schema.
func (b bodySchema) members(location string) (object, known string) {
	object, rest, _ := strings.Cut(location, ".")
	at := b.schema
	for {
		name, after, more := strings.Cut(rest, ".")
		name, _, _ = strings.Cut(name, "[") // the index in an array
		next := b.object(at.Properties[name])
		if !more || next == nil {
			break
		}
		object, at, rest = object+"."+name, next, after
	}
	return object, strings.Join(slices.Sorted(maps.Keys(at.Properties)), ", ")
}

// object returns the schema of an object, or of the objects in an array. It returns nil if
// the schema is neither.
func (b bodySchema) object(s *huma.Schema) *huma.Schema {
	if s != nil && s.Items != nil {
		s = s.Items
	}
	if s != nil && s.Ref != "" {
		s = b.registry.SchemaFromRef(s.Ref)
	}
	if s == nil || len(s.Properties) == 0 {
		return nil
	}
	return s
}
