package api

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/validation"
)

// Problem is the body of every error response, except those of the OAuth2 endpoints (see
// OAuthProblem). It is an RFC 9457 problem with an additional member "error", in which
// OpenAI's clients look for the message.
type Problem struct {
	Title    string   `json:"title" doc:"The kind of problem: the meaning of the status."`
	Status   int      `json:"status" doc:"The HTTP status."`
	Detail   string   `json:"detail,omitempty" doc:"What is wrong, and what to do about it."`
	Instance string   `json:"instance,omitempty" format:"uri" doc:"The id of the request, as in the X-Request-Id header. The service's log has it too."`
	Errors   []Fault  `json:"errors,omitempty" doc:"The parts of the request that are wrong."`
	Compat   ErrorObj `json:"error" doc:"The problem in the form that OpenAI's clients read."`

	headers http.Header
}

// Fault is a part of a request that is wrong. It never repeats what the client sent.
type Fault struct {
	Message  string `json:"message" doc:"What is wrong."`
	Location string `json:"location,omitempty" doc:"Which part, such as body.prompt."`
}

// ErrorObj is a problem in OpenAI's form.
type ErrorObj struct {
	Message string  `json:"message" doc:"The same as detail."`
	Type    string  `json:"type" doc:"invalid_request_error, authentication_error, rate_limit_error or server_error."`
	Param   *string `json:"param" doc:"The part of the request that is wrong."`
	Code    *string `json:"code" doc:"The kind of problem, for programs."`
}

// Error makes a Problem an error.
func (p *Problem) Error() string { return p.Detail }

// GetStatus tells Huma the status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders tells Huma the headers.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// ContentType tells Huma the media type.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// newProblem returns a problem with a code. Client programs tell problems apart by their
// codes.
func newProblem(status int, code, detail string) *Problem {
	p := &Problem{Title: http.StatusText(status), Status: status, Detail: detail}
	p.Compat = ErrorObj{Message: detail, Type: "invalid_request_error"}
	switch {
	case status == http.StatusUnauthorized:
		p.Compat.Type = "authentication_error"
	case status == http.StatusTooManyRequests:
		p.Compat.Type = "rate_limit_error"
	case status >= 500:
		p.Compat.Type = "server_error"
	}
	if code != "" {
		p.Compat.Code = &code
	}
	return p
}

// at names the part of the request that is wrong.
func (p *Problem) at(location string) *Problem {
	p.Errors = []Fault{{Message: p.Detail, Location: location}}
	p.Compat.Param = &location
	return p
}

// with sets a header of the response.
func (p *Problem) with(name, value string) *Problem {
	if p.headers == nil {
		p.headers = http.Header{}
	}
	p.headers.Set(name, value)
	return p
}

// again tells OpenAI's clients whether another try can succeed. Without it, they try again
// after 408, 409, 429 and 5xx, and wait for as long as Retry-After says.
func (p *Problem) again(can bool) *Problem {
	return p.with("X-Should-Retry", strconv.FormatBool(can))
}

func (p *Problem) retryAfter(d time.Duration) *Problem {
	return p.with("Retry-After", seconds(d))
}

// seconds formats a duration for Retry-After in whole seconds. The result is at least 1.
func seconds(d time.Duration) string { return strconv.Itoa(int(max(1, (d+time.Second-1)/time.Second))) }

// answer answers a request with a problem.
func (s *server) answer(w http.ResponseWriter, r *http.Request, p *Problem) {
	p.on(r.URL.Path).Instance = instance(r.Context())
	var body any = p
	if isOAuth(r.URL.Path) {
		body = p.oauth()
	}
	maps.Copy(w.Header(), p.headers)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	if err := huma.DefaultJSONFormat.Marshal(w, body); err != nil {
		s.Log.DebugContext(r.Context(), "problem not written", "request", requestID(r.Context()), "err", err)
	}
}

// refuse answers a request with a problem instead of calling its operation.
func (s *server) refuse(ctx huma.Context, p *Problem) {
	r, w := humago.Unwrap(ctx)
	s.answer(w, r, p)
}

// maxFaults is the largest number of faults in a problem. A body can have thousands of
// faults, and a list of all of them would be 30 times the size of the body.
const maxFaults = 10

// unknownQuery is Huma's message about a query parameter that an operation does not have.
const unknownQuery = "unknown query parameter"

// humaProblem turns Huma's own errors into problems. These are errors of validation, of
// parsing and of body limits. Huma's error details contain the submitted values, and
// humaProblem leaves these values out. It also leaves out the names of unknown members and
// parameters, and those in objects of any names, because the client has chosen them. It lists the known members instead, if the
// metadata of the operation has them.
func humaProblem(metadata map[string]any, status int, message string, errs ...error) *Problem {
	if status >= 500 {
		return newProblem(status, "internal", http.StatusText(status))
	}
	p := newProblem(status, "invalid_request", message)
	for _, err := range errs {
		d, ok := errors.AsType[*huma.ErrorDetail](err)
		if err == nil || !ok {
			continue
		}
		f := Fault{Message: d.Message, Location: d.Location}
		body, ok := metadata[bodyName].(bodySchema)
		switch {
		case f.Message == validation.MsgUnexpectedProperty && ok:
			var known string
			f.Location, known = body.members(f.Location)
			f.Message += "; known are " + known
		case f.Message == validation.MsgUnexpectedProperty, f.Message == unknownQuery:
			f.Location, _, _ = strings.Cut(f.Location, ".")
		case ok && strings.HasPrefix(f.Location, "body."):
			f.Location = body.known(f.Location)
		}
		if len(p.Errors) < maxFaults && !slices.Contains(p.Errors, f) {
			p.Errors = append(p.Errors, f)
		}
	}
	if len(p.Errors) > 0 {
		first := p.Errors[0]
		p.Detail = fmt.Sprintf("%s: %s", first.Location, first.Message)
		p.Compat.Message, p.Compat.Param = p.Detail, &first.Location
	}
	return p
}

func init() {
	// These variables are the only way to replace Huma's errors.
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return humaProblem(nil, status, message, errs...)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		return humaProblem(ctx.Operation().Metadata, status, message, errs...).on(ctx.Operation().Path)
	}
	// Otherwise Huma would read MAX_LENGTH as max_length, without the bounds of
	// max_length.
	huma.ValidateStrictCasing = true
}
