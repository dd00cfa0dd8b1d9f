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

// members takes the location of an unknown member. It returns the location of the object
// around that member, and the object's known members in the order of openapi.yaml. The
// client has chosen the unknown name, so the results contain only names of the schema.
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

// known returns a location in the body without the names that the client has chosen. These
// are the names in an object of any names, and what follows them.
func (b bodySchema) known(location string) string {
	names := strings.Split(location, ".")
	at := b.schema
	for i := 1; i < len(names) && at != nil; i++ {
		name, _, _ := strings.Cut(names[i], "[")
		if anyNames(at) && at.Properties[name] == nil {
			return strings.Join(names[:i], ".")
		}
		at = b.object(at.Properties[name])
	}
	return location
}

// anyNames reports whether a schema is that of an object of any names.
func anyNames(s *huma.Schema) bool {
	_, ok := s.AdditionalProperties.(*huma.Schema)
	return ok
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
	if s == nil || len(s.Properties) == 0 && !anyNames(s) {
		return nil
	}
	return s
}
