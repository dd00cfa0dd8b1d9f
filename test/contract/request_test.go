package contract

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// request is a request to send. It has the properties that the checks use.
type request struct {
	op   *operation
	kind string // "valid", or the name of the mutation
	part string // the mutated part, such as body.prompt; "" if the document does not name the part

	valid        bool // the document allows the request in every respect
	invalid      bool // the document does not allow the request, so the service must refuse it
	unauthorized bool // the operation needs an access token, but the request has no valid access token
	unknownRoute bool // the route was changed, mostly to a route without an operation

	method string
	path   []string // the segments of the path, not escaped
	query  [][2]string
	more   string // appended to the query, not escaped
	header [][2]string
	media  string
	body   any    // a JSON value, or the fields of a form
	raw    []byte // if not nil, sent instead of body
}

// compose returns a random request that the document allows for the operation.
func (g *generator) compose(op *operation) *request {
	r := &request{op: op, kind: "valid", valid: true, method: op.method}
	values := map[string]string{}
	for _, p := range op.Parameters {
		if !p.Required && !g.chance(0.4) {
			continue
		}
		value := plain(g.valid(p.Schema, p.Name))
		switch p.In {
		case "path":
			values[p.Name] = value
			if strings.Contains(value, "/") || value == "." || value == ".." {
				r.valid = false // the service refuses paths with empty segments and with dots, whatever the schema of a segment
			}
		case "query":
			r.query = append(r.query, [2]string{p.Name, value})
		case "header":
			if p.Name == "Accept" && g.chance(0.7) {
				value = "application/json"
			}
			r.header = append(r.header, [2]string{p.Name, headerText(value)})
		}
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(op.path, "/"), "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			segment = values[strings.TrimSuffix(name, "}")]
		}
		r.path = append(r.path, segment)
	}
	if op.RequestBody != nil {
		kinds := sortedKeys(op.RequestBody.Content)
		r.media = kinds[g.IntN(len(kinds))]
		r.body = g.valid(op.RequestBody.Content[r.media].Schema, "body")
		r.valid = r.valid && len(r.content()) > 0 || !op.RequestBody.Required // a form without fields is an empty body
	}
	if op.private() {
		r.header = append(r.header, [2]string{"Authorization", "Bearer " + g.caller.access})
	}
	return r
}

// without returns the query without the named parameter.
func (r *request) without(name string) [][2]string {
	return slices.DeleteFunc(slices.Clone(r.query), func(q [2]string) bool { return q[0] == name })
}

// plain returns a value in the form that a URL, a header or a form needs.
func plain(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case verbatim:
		return string(v)
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = plain(e)
		}
		return strings.Join(parts, ",")
	}
	return encode(v)
}

// headerText returns a text that a header can hold. A server refuses other characters
// before any handler sees them. A server also removes the spaces around a value.
func headerText(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '~'
		}
		return r
	}, text))
}

// multipartType is the media type of a form with parts, which boundary separates.
const multipartType, boundary = "multipart/form-data", "----the-boundary"

// content returns the body's bytes.
func (r *request) content() []byte {
	switch {
	case r.raw != nil:
		return r.raw
	case r.body == nil:
		return nil
	case r.media == "application/x-www-form-urlencoded":
		var fields []string
		o, _ := r.body.(object)
		for _, m := range o {
			fields = append(fields, url.QueryEscape(m.name)+"="+url.QueryEscape(plain(m.value)))
		}
		return []byte(strings.Join(fields, "&"))
	case r.media == multipartType:
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		_ = w.SetBoundary(boundary) // it is a valid one, and a buffer returns no errors
		o, _ := r.body.(object)
		for _, m := range o {
			part, _ := w.CreateFormField(m.name)
			_, _ = io.WriteString(part, plain(m.value))
		}
		_ = w.Close()
		return b.Bytes()
	}
	return []byte(encode(r.body))
}

// values returns the names and values of the request that a client chooses.
func (r *request) values() []string {
	values := append(slices.Clone(r.path), r.more)
	for _, pair := range slices.Concat(r.query, r.header) {
		values = append(values, pair[0], pair[1])
	}
	var add func(v any)
	add = func(v any) {
		switch v := v.(type) {
		case object:
			for _, m := range v {
				values = append(values, m.name)
				add(m.value)
			}
		case []any:
			for _, e := range v {
				add(e)
			}
		case string, verbatim, int64, float64:
			values = append(values, plain(v))
		}
	}
	add(r.body)
	return append(values, r.media)
}

// head writes the request line and the headers of an HTTP request to the host. It ends
// before the headers that tell the length of the body.
func head(out *http.Request, host string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", out.Method, out.RequestURI, host)
	_ = out.Header.Write(&b) // a strings.Builder returns no errors
	return b.String()
}

// http returns the request without its body. It returns nil if the target of the request
// is invalid, because a server refuses such a target before any handler sees the request.
func (r *request) http() *http.Request {
	var target strings.Builder
	for _, segment := range r.path {
		target.WriteString("/" + url.PathEscape(segment))
	}
	if target.Len() == 0 {
		target.WriteByte('/')
	}
	for i, q := range r.query {
		target.WriteByte("?&"[min(i, 1)])
		target.WriteString(url.QueryEscape(q[0]) + "=" + url.QueryEscape(q[1]))
	}
	if r.more != "" {
		target.WriteString("?&"[min(len(r.query), 1):][:1] + r.more)
	}
	at, err := url.ParseRequestURI(target.String())
	if err != nil {
		return nil
	}
	out := &http.Request{
		Method: r.method, URL: at, RequestURI: target.String(), Host: "service.test",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, ContentLength: int64(len(r.content())),
	}
	for _, h := range r.header {
		out.Header.Add(h[0], h[1])
	}
	switch {
	case r.media == multipartType && r.raw == nil:
		out.Header.Set("Content-Type", r.media+"; boundary="+boundary)
	case r.media != "":
		out.Header.Set("Content-Type", r.media)
	}
	return out
}

// String returns all data that is needed to send the request again, except the access
// token.
func (r *request) String() string {
	headers := slices.Clone(r.header)
	for i, h := range headers {
		if h[0] == "Authorization" && !r.unauthorized {
			headers[i][1] = "Bearer ..."
		}
	}
	return fmt.Sprintf("%s: %s /%s %q %s %q %s %s", r.kind, r.method, strings.Join(r.path, "/"), r.query, r.more, headers, r.media, truncate(strconv.QuoteToASCII(string(r.content()))))
}

func truncate(text string) string {
	if len(text) > 2000 {
		return text[:2000] + "..."
	}
	return text
}
