package api

import (
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// uuidForm is the pattern of ids, and uuidText describes the pattern in words. Huma and
// uuid.Parse accept other forms too, but ids of this API have only this form.
const (
	uuidForm = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
	uuidText = "8-4-4-4-12 hexadecimal digits"
)

// strict makes the OpenAPI description of an operation agree with what the service
// accepts. An id in a parameter must match uuidForm. A text in the query must not be
// empty. A body member that is not required may be null.
func strict(oapi *huma.OpenAPI, op *huma.Operation) {
	for _, p := range op.Parameters {
		if p.Schema == nil {
			continue
		}
		if p.Schema.Format == "uuid" {
			p.Schema.Pattern, p.Schema.PatternDescription = uuidForm, uuidText
		} else if p.In == "query" && p.Schema.Type == huma.TypeString && p.Schema.MinLength == nil {
			p.Schema.MinLength = new(1)
		}
		p.Schema.PrecomputeMessages()
	}
	if op.RequestBody == nil {
		return
	}
	for media, content := range op.RequestBody.Content {
		body := content.Schema
		if body == nil {
			continue
		}
		if body.Ref != "" {
			body = oapi.Components.Schemas.SchemaFromRef(body.Ref)
		}
		if op.Metadata == nil {
			op.Metadata = map[string]any{}
		}
		op.Metadata[bodyName] = bodySchema{oapi.Components.Schemas, body}
		if media == formType {
			body.AdditionalProperties = true // as OAuth2 requires; see unmarshalForm
		}
		if media != "application/json" {
			continue // a form has no null
		}
		required := map[string]bool{}
		for _, name := range body.Required {
			required[name] = true
		}
		for name, member := range body.Properties {
			if !required[name] && member.Type != "" && len(member.Enum) == 0 {
				member.Nullable = true
			}
		}
	}
}

// accept refuses a body whose media type the operation does not document. It also refuses
// a compressed body.
func (s *server) accept(ctx huma.Context, next func(huma.Context)) {
	body := ctx.Operation().RequestBody
	given := ctx.Header("Content-Type")
	if body == nil {
		next(ctx)
		return
	}
	if coding := ctx.Header("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		s.refuse(ctx, newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type", "send the body uncompressed, without Content-Encoding"))
		return
	}
	if given == "" {
		if r, _ := humago.Unwrap(ctx); body.Content[formType] != nil {
			r.Header.Set("Content-Type", formType) // otherwise Huma would read the form as JSON
		}
		next(ctx)
		return
	}
	media, _, err := mime.ParseMediaType(given)
	if _, ok := body.Content[media]; err != nil || !ok {
		wanted := make([]string, 0, 1)
		for name := range body.Content {
			wanted = append(wanted, name)
		}
		s.refuse(ctx, newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type", "send the body as "+strings.Join(wanted, " or ")))
		return
	}
	next(ctx)
}

func isTime(text string) bool {
	_, err := time.Parse(time.RFC3339Nano, text)
	return err == nil
}

// integerForm is the pattern of integers in JSON. strconv also accepts other spellings,
// such as +1 and 01.
var integerForm = regexp.MustCompile("^-?(0|[1-9][0-9]*)$")

var idForm = regexp.MustCompile(uuidForm)

// exact refuses parameters that Huma would ignore or accept. These are parameters of a
// malformed query, repeated or empty parameters, and integers in spellings that only Go
// accepts, and texts that Postgres does not take. It also refuses malformed ids, because Huma's answer would repeat a part of
// the id, and malformed times, because Huma's answer would show a layout of Go.
func (s *server) exact(ctx huma.Context, next func(huma.Context)) {
	at := ctx.URL()
	query, err := url.ParseQuery(at.RawQuery)
	if err != nil {
		s.refuse(ctx, newProblem(http.StatusUnprocessableEntity, "invalid_request", "the query of the URL is not well-formed"))
		return
	}
	headers := map[string][]string{}
	ctx.EachHeader(func(name, value string) { headers[name] = append(headers[name], value) })
	for _, p := range ctx.Operation().Parameters {
		var given []string
		switch p.In {
		case "path":
			given = []string{ctx.Param(p.Name)}
		case "query":
			given = query[p.Name]
		case "header":
			if p.Schema.Type != huma.TypeString { // a text header may be split over several lines
				given = headers[http.CanonicalHeaderKey(p.Name)]
			}
			if p.Name == "Last-Event-ID" && len(given) == 1 && given[0] == "" {
				continue // EventSource has an empty id until the first message
			}
		}
		where := p.In + "." + p.Name
		switch {
		case len(given) > 1 || len(given) == 1 && given[0] == "":
			s.refuse(ctx, newProblem(http.StatusUnprocessableEntity, "invalid_request", where+": give one value, or leave it out").at(where))
			return
		case len(given) == 1 && p.In == "query" && (!utf8.ValidString(given[0]) || strings.Contains(given[0], "\x00")):
			s.refuse(ctx, newProblem(http.StatusUnprocessableEntity, "invalid_request", where+": expected a text in UTF-8 without NUL").at(where))
			return
		case len(given) == 1 && p.Schema.Type == huma.TypeInteger && !integerForm.MatchString(given[0]):
			s.refuse(ctx, newProblem(http.StatusUnprocessableEntity, "invalid_request", where+": expected an integer in decimal digits").at(where))
			return
		case len(given) == 1 && p.Schema.Format == "date-time" && !isTime(given[0]):
			s.refuse(ctx, newProblem(http.StatusUnprocessableEntity, "invalid_request", where+": expected a time such as 2026-11-23T03:03:29Z (RFC 3339)").at(where))
			return
		case len(given) == 1 && p.Schema.Format == "uuid" && !idForm.MatchString(given[0]):
			s.refuse(ctx, newProblem(http.StatusUnprocessableEntity, "invalid_request", where+": expected "+uuidText).at(where))
			return
		}
	}
	next(ctx)
}
