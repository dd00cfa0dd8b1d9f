package api

import "github.com/danielgtaylor/huma/v2"

// commonHeaders describe the headers that answers of all operations may have.
func commonHeaders() map[string]*huma.Header {
	header := func(doc, example string) *huma.Header {
		return &huma.Header{Description: doc, Schema: &huma.Schema{Type: huma.TypeString}, Example: example}
	}
	return map[string]*huma.Header{
		"X-Request-Id":     header("The id of the request; the log knows it too.", "0f3b8c1e-5a51-4d1e-9d51-6d3f7c1f2a44"),
		"RateLimit-Policy": header("The limit that the request was counted against: its name, requests, and seconds of its window.", `"jobs";q=5;w=60`),
		"RateLimit":        header("What is left of it: requests, and seconds until the next window.", `"jobs";r=4;t=60`),
		"Retry-After":      header("Seconds after which to try again.", "2"),
		"WWW-Authenticate": header("How to authenticate (RFC 6750).", `Bearer realm="colophon"`),
	}
}

// documentHeaders adds them to the responses of an operation.
func documentHeaders(_ *huma.OpenAPI, op *huma.Operation) {
	for status, response := range op.Responses {
		names := []string{"X-Request-Id"}
		if op.Metadata[limitName] != uncounted || status == "421" { // which is said before it is looked what was asked
			names = append(names, "RateLimit-Policy", "RateLimit")
		}
		switch status {
		case "401":
			names = append(names, "WWW-Authenticate")
		case "409", "429", "503":
			names = append(names, "Retry-After")
		}
		if response.Headers == nil {
			response.Headers = map[string]*huma.Header{}
		}
		for _, name := range names {
			if response.Headers[name] == nil {
				response.Headers[name] = &huma.Header{Ref: "#/components/headers/" + name}
			}
		}
	}
}
