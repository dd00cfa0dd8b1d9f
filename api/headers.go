package api

import (
	"maps"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// commonHeaders describes the headers that answers of all operations may have.
func commonHeaders() map[string]*huma.Header {
	header := func(doc, example, form string, required bool) *huma.Header {
		return &huma.Header{Description: doc, Required: required, Schema: &huma.Schema{Type: huma.TypeString, Pattern: form}, Example: example}
	}
	return map[string]*huma.Header{
		"X-Request-Id":     header("The id of the request. The service's log has it too.", "0f3b8c1e-5a51-4d1e-9d51-6d3f7c1f2a44", uuidForm, true),
		"RateLimit-Policy": header("The limit that counted the request: its name, its requests, and its window in seconds.", `"jobs";q=5;w=60`, `^"[a-z]+";q=[0-9]+;w=[0-9]+$`, false),
		"RateLimit":        header("What is left of the limit: requests, and seconds until the next window.", `"jobs";r=4;t=60`, `^"[a-z]+";r=[0-9]+;t=[0-9]+$`, false),
		// Some statuses always have one of these headers, and others sometimes. One generator
		// mixes answers up that differ in this alone, so all are described as optional.
		"Retry-After":      header("Seconds after which to try again. Every 429 and 503 has it.", "2", secondsForm, false),
		"WWW-Authenticate": header("How to authenticate (RFC 6750). Every 401 has it.", `Bearer realm="colophon"`, "^Bearer ", false),
	}
}

// secondsForm is the pattern of Retry-After.
const secondsForm = "^[1-9][0-9]*$"

// documentHeaders adds the common headers to the responses of an operation. It also marks
// the headers of the operation itself that are always present.
func documentHeaders(_ *huma.OpenAPI, op *huma.Operation) {
	if same := op.Responses["304"]; same != nil { // a 304 has the headers of the 200 that it replaces
		same.Headers = maps.Clone(op.Responses["200"].Headers)
	}
	for status, response := range op.Responses {
		names := []string{"X-Request-Id"}
		if op.Metadata[limitName] != uncounted || status == "421" { // the service answers 421 before it knows the operation
			names = append(names, "RateLimit-Policy", "RateLimit")
		}
		switch status {
		case "401":
			names = append(names, "WWW-Authenticate")
		case "429", "503":
			names = append(names, "Retry-After")
		}
		if response.Headers == nil {
			response.Headers = map[string]*huma.Header{}
		}
		for name, h := range response.Headers {
			h.Required = slices.Contains([]string{"ETag", "Cache-Control", "Vary"}, name)
		}
		if status == "409" && slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "Idempotency-Key" }) {
			response.Headers["Retry-After"] = &huma.Header{
				Description: "With idempotency_key_in_flight: seconds after which to try again.", Schema: &huma.Schema{Type: huma.TypeString, Pattern: secondsForm},
			}
		}
		if isOpenAI(op.Path) && slices.Contains([]string{"409", "429", "500"}, status) {
			response.Headers["X-Should-Retry"] = &huma.Header{
				Description: "false if another try cannot succeed soon. OpenAI's clients obey it.", Schema: &huma.Schema{Type: huma.TypeString, Pattern: "^(true|false)$"},
			}
		}
		if status == "403" && op.Metadata[scopeName] != nil {
			response.Headers["WWW-Authenticate"] = &huma.Header{
				Description: "With insufficient_scope: the scope that the API key lacks (RFC 6750).", Schema: &huma.Schema{Type: huma.TypeString, Pattern: "^Bearer "},
			}
		}
		for _, name := range names {
			if response.Headers[name] == nil {
				response.Headers[name] = &huma.Header{Ref: "#/components/headers/" + name}
			}
		}
	}
}
