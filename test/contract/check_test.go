package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	verrors "github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/helpers"

	"colophon/test/apitest"
)

// findings collects the differences between the service and its OpenAPI document.
type findings struct {
	rateLimited bool // the service limits the rate of requests

	mu    sync.Mutex
	count map[string]int
	first map[string][]string // up to 6 findings of each kind
}

// The kinds of findings. A finding of any kind fails the run.
const (
	serverError           = "answers of 500 and above"
	undocumentedStatus    = "undocumented statuses"
	schemaMismatch        = "schema mismatches"
	undocumentedHeader    = "undocumented headers"
	wrongHeader           = "documented headers that are missing or malformed"
	acceptedInvalid       = "invalid inputs accepted"
	acceptedUnauthorized  = "requests without an access token accepted"
	refusedValid          = "valid inputs refused without a listed reason"
	missingSecurityHeader = "answers without the security headers"
	leakedSecret          = "secrets in errors"
	reachedForeign        = "other users' objects reached"
	panicked              = "panics"
	leakedInternal        = "errors in the words of Go or Postgres"
	repeatedInput         = "errors that repeat submitted values"
	malformedAnswer       = "missing or malformed answers"
	smuggledRequest       = "answers to smuggled requests"
)

var kinds = []string{serverError, undocumentedStatus, schemaMismatch, undocumentedHeader, wrongHeader, acceptedInvalid, acceptedUnauthorized, refusedValid, missingSecurityHeader, leakedSecret, reachedForeign, panicked,
	leakedInternal, repeatedInput, malformedAnswer, smuggledRequest}

func (f *findings) add(kind, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil {
		f.count, f.first = map[string]int{}, map[string][]string{}
	}
	if f.count[kind]++; len(f.first[kind]) < 6 {
		f.first[kind] = append(f.first[kind], fmt.Sprintf(format, args...))
	}
}

// dueHeaders are the headers that an answer with a status must have, although they are described
// as optional.
var dueHeaders = map[int][]string{202: {"Location"}, 401: {"WWW-Authenticate"}, 429: {"Retry-After"}, 503: {"Retry-After"}}

// commonHeaders are the headers that every answer has.
var commonHeaders = []string{"X-Request-Id", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy",
	"Cross-Origin-Resource-Policy", "Permissions-Policy", "Content-Security-Policy", "Cache-Control"}

// unlimitedPaths are the paths without a rate limit.
var unlimitedPaths = map[string]bool{"/healthz": true, "/readyz": true}

// rateLimitExceeded is the problem code of a request over the rate limit.
const rateLimitExceeded = "rate_limit_exceeded"

// refusals lists problem codes by operation. The service may answer with such a code even
// if the document allows the request, because a document cannot express these reasons.
// mayRefuse adds the reasons that many operations share.
var refusals = map[string][]string{
	"register":                    {"username_taken", "password_common", "invalid_idempotency_key", "idempotency_key_reused", "idempotency_key_in_flight"},
	"get-token":                   {"invalid_credentials", "invalid_refresh_token"},
	"create-key":                  {"expiry_in_past", "key_name", "too_many_keys"},
	"change-password":             {"wrong_password", "password_common"},
	"erase-account":               {"wrong_password"},
	"detect":                      {"text_length"},
	"create-webhook":              {"webhook_url", "webhook_not_https", "webhook_address", "too_many_webhooks"},
	"update-webhook":              {"webhook_url", "webhook_not_https", "webhook_address"},
	"resend-delivery":             {"webhook_disabled"},
	"disable-user":                {"own_account", "account_erased"},
	"enable-user":                 {"account_erased"},
	"generate":                    {"no_room", "min_tokens_above_maximum", "unknown_token", "prompt_blank", "prompt_word", "invalid_idempotency_key", "idempotency_key_reused", "job_cancelled", "job_erased"},
	"get-job":                     {"not_accepted_yet", "no_such_version", "time_in_future", "invalid_time"},
	"job-logprobs":                {"no_repeatable_text", "invalid_idempotency_key", "idempotency_key_reused", "job_erased"},
	"history":                     {"time_in_future"},
	"log-checkpoint":              {"no_checkpoint"},
	"log-key":                     {"no_checkpoint"},
	"receipt":                     {"not_in_checkpoint"},
	"usage":                       {"invalid_range"},
	"submit-job":                  {"no_room", "min_tokens_above_maximum", "unknown_token", "prompt_blank", "prompt_word", "invalid_idempotency_key", "idempotency_key_reused", "job_cancelled", "job_erased"},
	"create-completion":           {"model_not_found", "context_length_exceeded", "token_ids_not_text", "too_many_choices", "min_tokens_above_maximum", "unknown_token", "prompt_blank", "prompt_word", "invalid_idempotency_key", "idempotency_key_reused", "job_cancelled", "job_erased", "unsupported_parameter"},
	"create-chat-completion":      {"model_not_found", "context_length_exceeded", "min_tokens_above_maximum", "unknown_token", "prompt_blank", "prompt_word", "invalid_idempotency_key", "idempotency_key_reused", "job_cancelled", "job_erased", "top_logprobs_alone"},
	"get-model":                   {"model_not_found"},
	"create-batch":                {"too_many_batches", "too_many_batch_lines", "metadata_form", "invalid_idempotency_key", "idempotency_key_reused"},
	"upload-file":                 {"too_many_files"},
	"create-response":             {"model_not_found", "context_length_exceeded", "prompt_blank", "prompt_word", "invalid_idempotency_key", "idempotency_key_reused", "job_cancelled", "job_erased", "response_erased", "background_not_stored", "previous_response_not_found", "previous_response_erased", "previous_response_unfinished"},
	"count-response-input-tokens": {"model_not_found", "prompt_blank", "prompt_word", "previous_response_not_found", "previous_response_erased", "previous_response_unfinished"},
	"list-response-input-items":   {"invalid_request"},
}

// mayRefuse reports whether the answer is a legitimate refusal of a valid request.
func (f *findings) mayRefuse(g *generator, r *request, a apitest.Answer) bool {
	switch code := a.Code(); code {
	case rateLimitExceeded:
		return f.rateLimited
	case "not_found":
		return strings.Contains(r.op.path, "{") || r.op.OperationID == "create-batch" // the id of a file
	case "invalid_access_token":
		return r.op.private()
	case "forbidden":
		// A user may not give a key the scope admin, and a document cannot express this.
		return r.op.OperationID == "create-key" || r.op.Roles != nil && !slices.Contains(r.op.Roles, g.caller.role)
	case "invalid_request":
		if (r.op.OperationID == "detect" || strings.HasPrefix(r.op.path, "/v1/")) && a.Status == 413 { // the longest texts fit into a body only if few of their characters need several bytes
			return true
		}
		return r.op.OperationID == "get-token" && strings.Contains(string(a.Body), "is required with")
	default:
		return slices.Contains(refusals[r.op.OperationID], code)
	}
}

// report returns a function that adds findings about an answer. sent describes the
// request.
func (f *findings) report(sent fmt.Stringer, a apitest.Answer) func(kind, format string, args ...any) {
	return func(kind, format string, args ...any) {
		f.add(kind, "%s\n    answered %d %s: %s", sent, a.Status, truncate(string(a.Body)), fmt.Sprintf(format, args...))
	}
}

// unavailable lists the problem codes with which the service may answer 503.
var unavailable = []string{"busy", "queue_full", "streams_full", "detector_busy", "not_ready", "interrupted", "not_in_checkpoint", "unavailable", "database_read_only", "database_exhausted", "database_contended"}

// internalWords matches text that only errors of Go's packages and of Postgres have.
var internalWords = regexp.MustCompile(`(?i)\bgo (struct|value|type)\b|goroutine|runtime error|\.go:\d|nil pointer|unmarshal|invalid character|unexpected EOF|unexpected end of|` +
	`\b(json|strconv|reflect|url|http|net|pgx|pgconn|time|uuid|huma|io|errors|context|sql)\.[a-z]|\b(u?int|float)(8|16|32|64)\b|\[\]byte|\[\]string|map\[|interface \{|%!|sqlstate`)

// checkError checks an error answer to any request. The answer must be a complete problem
// document (RFC 9457) and must not show details of the implementation.
func checkError(a apitest.Answer, report func(kind, format string, args ...any)) {
	if a.Status < 400 {
		return
	}
	if _, err := a.Problem(); err != nil {
		report(schemaMismatch, "%v", err)
	}
	if a.Status >= 500 && !(a.Status == 503 && slices.Contains(unavailable, a.Code())) {
		report(serverError, "")
	}
	if word := internalWords.Find(a.Body); word != nil {
		report(leakedInternal, "%q", word)
	}
}

func checkHeaders(a apitest.Answer, report func(kind, format string, args ...any)) {
	for _, name := range commonHeaders {
		if a.Header.Get(name) == "" {
			report(missingSecurityHeader, "no %s", name)
		}
	}
}

// checkSafety checks the rules that hold for the answers of all operations: complete
// headers, no leaked secrets, and no success for an invalid request.
func (f *findings) checkSafety(g *generator, r *request, _ *http.Request, a apitest.Answer) {
	report := f.report(r, a)
	checkHeaders(a, report)
	checkError(a, report)
	if a.Status >= 400 {
		for _, secret := range []string{g.caller.password, g.caller.access, g.caller.refresh} {
			if bytes.Contains(a.Body, []byte(secret)) {
				report(leakedSecret, "the answer repeats a secret")
			}
		}
		for _, value := range r.values() {
			if len(value) >= 8 && !strings.Contains(g.doc.text, value) && strings.Contains(string(a.Body), value) {
				report(repeatedInput, "the answer repeats %q", truncate(value))
			}
		}
	}
	if r.unauthorized && a.Status != 401 && !r.unknownRoute && !(a.Status == 429 && f.rateLimited) {
		report(acceptedUnauthorized, "")
	}
	if r.invalid && a.Status/100 == 2 && !r.unknownRoute {
		report(acceptedInvalid, "")
	}
}

// checkAnswer compares an answer with the document and adds the differences as findings.
func (f *findings) checkAnswer(g *generator, r *request, sent *http.Request, a apitest.Answer) {
	report := f.report(r, a)
	f.checkSafety(g, r, sent, a)
	if r.unknownRoute {
		if a.Status != 404 && a.Status != 405 && a.Status != 401 && a.Status != 422 && !(a.Status == 429 && f.rateLimited) {
			// The mutation may have changed the method or path to that of another
			// operation.
			if !g.doc.hasOperation(sent) {
				report(undocumentedStatus, "the document has no such operation")
			}
		}
		return
	}
	if a.Status/100 == 2 && !r.invalid {
		if ok, errs := g.doc.check.ValidateHttpRequestSync(withBody(sent, r)); !ok {
			report(acceptedInvalid, "%s", summary(errs))
		}
	}
	if r.valid && a.Status >= 400 && a.Status < 500 && !f.mayRefuse(g, r, a) {
		report(refusedValid, "")
	}
	if ok, errs := g.doc.check.ValidateHttpResponse(withBody(sent, r), response(a)); !ok { //nolint:bodyclose // made of bytes
		kind := schemaMismatch
		for _, err := range errs {
			if err.ValidationSubType == helpers.ResponseBodyResponseCode {
				kind = undocumentedStatus
			}
		}
		report(kind, "%s", summary(errs))
	}
	if described, ok := r.op.Responses[strconv.Itoa(a.Status)]; ok {
		for name, want := range described.Headers {
			got, sent := a.Header[http.CanonicalHeaderKey(name)]
			due := want.Required || slices.Contains(dueHeaders[a.Status], name) || f.rateLimited && strings.HasPrefix(name, "RateLimit") && !unlimitedPaths[r.op.path]
			if sent && !regexp.MustCompile(want.Schema.Pattern).MatchString(got[0]) || !sent && due {
				report(wrongHeader, "%s: %q", name, got)
			}
		}
		for name := range a.Header {
			same := func(known string) bool { return strings.EqualFold(known, name) }
			if name != "Content-Type" && !slices.ContainsFunc(commonHeaders, same) && !slices.ContainsFunc(sortedKeys(described.Headers), same) {
				report(undocumentedHeader, "%s", name)
			}
		}
	}
	if a.Status == 200 && strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream") {
		if why := g.doc.checkStream(sent, r, a); why != "" {
			report(schemaMismatch, "%s", why)
		}
	}
}

// withBody returns a copy of the request whose body has not been read.
func withBody(sent *http.Request, r *request) *http.Request {
	out := sent.Clone(sent.Context())
	out.Body = io.NopCloser(bytes.NewReader(r.content()))
	return out
}

func summary(errs []*verrors.ValidationError) string {
	var all []string
	for _, err := range errs {
		all = append(all, truncate(err.Error()))
	}
	return strings.Join(all, "; ")
}

// response converts an answer to the type that the validator takes.
func response(a apitest.Answer) *http.Response {
	return &http.Response{StatusCode: a.Status, Header: a.Header, Body: io.NopCloser(bytes.NewReader(a.Body))}
}

// hasOperation reports whether the document has an operation for the request.
func (d *document) hasOperation(sent *http.Request) bool {
	segments := strings.Split(sent.URL.EscapedPath(), "/")
	for _, op := range d.operations {
		path := strings.Split(op.path, "/")
		same := len(path) == len(segments) && (op.method == sent.Method || op.method == "GET" && sent.Method == "HEAD")
		for i := range path {
			same = same && (path[i] == segments[i] || strings.HasPrefix(path[i], "{"))
		}
		if same {
			return true
		}
	}
	return false
}

// checkStream compares the events of a stream with the document, which describes the
// events as a list. It returns the first difference, or "".
func (d *document) checkStream(sent *http.Request, r *request, a apitest.Answer) string {
	var events []string
	for m, err := range apitest.Messages(bytes.NewReader(a.Body)) {
		if err != nil {
			return err.Error()
		}
		if strings.HasPrefix(r.op.path, "/v1/") { // the document describes these messages in words
			if m.Data != "" && m.Data != "[DONE]" && !json.Valid([]byte(m.Data)) {
				return "a message that is not JSON"
			}
			continue
		}
		if m.Data != "" {
			events = append(events, m.Data)
		}
	}
	if strings.HasPrefix(r.op.path, "/v1/") {
		return ""
	}
	list := apitest.Answer{Status: a.Status, Header: a.Header.Clone(), Body: []byte("[" + strings.Join(events, ",") + "]")}
	list.Header.Set("Content-Type", "application/json")
	if ok, errs := d.check.ValidateHttpResponse(withBody(sent, r), response(list)); !ok { //nolint:bodyclose // made of bytes
		return summary(errs)
	}
	return ""
}
