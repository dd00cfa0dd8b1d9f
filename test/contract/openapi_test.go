package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/content"
)

// document is the part of an OpenAPI document that the tests use.
type document struct {
	operations []*operation // sorted by path and method
	schemas    map[string]*schema
	check      validator.Validator
	text       string
}

type operation struct {
	method, path string

	OperationID string
	Parameters  []parameter
	RequestBody *struct {
		Required bool
		Content  map[string]struct{ Schema *schema }
	}
	Responses map[string]struct {
		Headers map[string]*responseHeader
		Content map[string]struct{ Schema *schema }
	}
	Security []map[string][]string
	Roles    []string `json:"x-role"`  // nil if every role may call the operation
	Scope    string   `json:"x-scope"` // the scope that an API key needs; "" if API keys are refused
}

// responseHeader describes a header of a response.
type responseHeader struct {
	Ref      string `json:"$ref"`
	Required bool
	Schema   struct{ Pattern string }
}

type parameter struct {
	Name, In string
	Required bool
	Schema   *schema
}

type schema struct {
	Ref                                string `json:"$ref"`
	Type                               types
	Format, Pattern                    string
	Enum, Examples                     []any
	Minimum, Maximum                   *float64
	ExclusiveMinimum, ExclusiveMaximum *float64
	MinLength, MaxLength               *int
	MinItems, MaxItems                 *int
	Items                              *schema
	Properties                         map[string]*schema
	Required                           []string
	AdditionalProperties               any
	OneOf                              []*schema
}

// types holds one or more JSON types of a schema.
type types []string

func (t *types) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = types{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// is reports whether a value of a type may be valid. One form of several is enough.
func (s *schema) is(kind string) bool {
	return slices.Contains(s.Type, kind) || slices.ContainsFunc(s.OneOf, func(one *schema) bool { return one.is(kind) })
}

var methods = []string{"get", "post", "put", "patch", "delete"}

// first returns a resolved schema. Of several forms, it returns the first.
func (d *document) first(s *schema) *schema {
	if s = d.resolve(s); len(s.OneOf) > 0 {
		return d.resolve(s.OneOf[0])
	}
	return s
}

// fetchDocument reads the document that the service serves.
func (s *service) fetchDocument() *document {
	s.t.Helper()
	raw := s.as(nil).Do("GET", "/openapi.json", "").Must(s.t, 200)
	var d struct {
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas map[string]*schema
			Headers map[string]*responseHeader
		}
	}
	raw.Into(s.t, &d)
	doc := &document{schemas: d.Components.Schemas, text: string(raw.Body)}
	for path, item := range d.Paths {
		for method, body := range item {
			if !slices.Contains(methods, method) {
				s.t.Errorf("%s %s: the tests do not support this method", method, path)
				continue
			}
			op := &operation{method: strings.ToUpper(method), path: path}
			if err := json.Unmarshal(body, op); err != nil {
				s.t.Fatal(err)
			}
			for _, response := range op.Responses {
				for name, h := range response.Headers {
					if h.Ref != "" {
						response.Headers[name] = d.Components.Headers[strings.TrimPrefix(h.Ref, "#/components/headers/")]
					}
				}
			}
			doc.operations = append(doc.operations, op)
		}
	}
	slices.SortFunc(doc.operations, func(a, b *operation) int { return strings.Compare(a.String(), b.String()) })
	parsed, err := libopenapi.NewDocument(raw.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	check, errs := validator.NewValidator(parsed, config.WithFormatAssertions(), config.WithBodyDecoder("application/x-www-form-urlencoded", content.DecoderFunc(decodeForm)), config.WithBodyDecoder(multipartType, content.DecoderFunc(decodeParts)))
	if len(errs) > 0 {
		s.t.Fatal(errs)
	}
	doc.check = check
	return doc
}

// decodeForm decodes a form for the validator. The validator's own decoder refuses some
// escaped characters.
func decodeForm(in *content.DecodeInput) (any, error) {
	raw, err := io.ReadAll(in.Body)
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	for name, value := range values {
		if len(value) > 1 {
			return nil, fmt.Errorf("%s is given %d times", name, len(value))
		}
		fields[name] = value[0]
	}
	return fields, nil
}

// decodeParts decodes a form with parts for the validator.
func decodeParts(in *content.DecodeInput) (any, error) {
	fields := map[string]any{}
	for form := multipart.NewReader(in.Body, boundary); ; {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return fields, nil
		}
		if err != nil {
			return nil, err
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		fields[part.FormName()] = string(value)
	}
}

func (op *operation) String() string { return op.path + " " + op.method }

// private reports whether the operation needs an access token.
func (op *operation) private() bool { return len(op.Security) > 0 }

// hashesPassword reports whether the service hashes a password for the operation.
func (d *document) hashesPassword(op *operation) bool {
	if op.RequestBody == nil {
		return false
	}
	for _, content := range op.RequestBody.Content {
		for _, property := range d.resolve(content.Schema).Properties {
			if d.resolve(property).Format == "password" {
				return true
			}
		}
	}
	return false
}

// operation returns the operation with the given id.
func (d *document) operation(t *testing.T, id string) *operation {
	t.Helper()
	for _, op := range d.operations {
		if op.OperationID == id {
			return op
		}
	}
	t.Fatalf("the document has no operation %s", id)
	return nil
}

// resolve follows the references of a schema.
func (d *document) resolve(s *schema) *schema {
	for s.Ref != "" {
		s = d.schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	return s
}

// TestDocumentIsValidOpenAPI requires that the document is valid under OpenAPI's own
// schema.
func TestDocumentIsValidOpenAPI(t *testing.T) {
	t.Parallel()
	doc := newService(t).fetchDocument()
	if ok, errs := doc.check.ValidateDocument(); !ok {
		for _, err := range errs {
			t.Errorf("%v", err)
		}
	}
}
