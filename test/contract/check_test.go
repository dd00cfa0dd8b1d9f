package contract

import (
	"bytes"
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

// findings are the differences between the service and its document.
type findings struct {
	limited bool // the service limits the rate of requests

	mu    sync.Mutex
	count map[string]int
	first map[string][]string // a few of each
}

// The kinds of findings. A run must end with none of each.
const (
	ownFault     = "answers of 500 and above"
	undocumented = "undocumented statuses"
	mismatch     = "schema mismatches"
	unnamed      = "undocumented headers"
	absent       = "documented headers that are missing or malformed"
	accepted     = "invalid inputs accepted"
	letIn        = "requests without an access token accepted"
	refused      = "valid inputs refused for a reason that no valid input has"
	unguarded    = "answers without the security headers"
	leaked       = "secrets in errors"
	crossed      = "other users' objects reached"
	panicked     = "panics"
)

var kinds = []string{ownFault, undocumented, mismatch, unnamed, absent, accepted, letIn, refused, unguarded, leaked, crossed, panicked}

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

// always are the headers that every answer has.
var always = []string{"X-Request-Id", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy",
	"Cross-Origin-Resource-Policy", "Permissions-Policy", "Content-Security-Policy", "Cache-Control"}

// uncounted are the paths without a rate limit.
var uncounted = map[string]bool{"/healthz": true, "/readyz": true}

// tooMany is the problem code of a request over the rate limit.
const tooMany = "rate_limit_exceeded"

// refusals are the problem codes, by operation, with which the service may refuse a
// request that the document allows: a document cannot express these reasons.
// mayRefuse adds the reasons that many operations share.
var refusals = map[string][]string{
	"register":        {"username_taken", "password_common", "invalid_idempotency_key", "idempotency_key_reused", "idempotency_key_in_flight"},
	"get-token":       {"invalid_credentials", "invalid_refresh_token"},
	"change-password": {"wrong_password", "password_common"},
	"erase-account":   {"wrong_password"},
	"disable-user":    {"own_account", "account_erased"},
	"enable-user":     {"account_erased"},
	"generate":        {"no_room", "prompt_blank", "prompt_word", "invalid_idempotency_key", "idempotency_key_reused", "job_cancelled"},
	"submit-job":      {"no_room", "prompt_blank", "prompt_word", "invalid_idempotency_key", "idempotency_key_reused", "job_cancelled"},
}

// mayRefuse reports whether the answer is a legitimate refusal of a valid request.
func (f *findings) mayRefuse(g *generator, r *request, a apitest.Answer) bool {
	switch code := a.Code(); code {
	case tooMany:
		return f.limited
	case "not_found":
		return strings.Contains(r.op.path, "{")
	case "invalid_access_token":
		return r.op.private()
	case "forbidden":
		return r.op.Roles != nil && !slices.Contains(r.op.Roles, g.who.role)
	case "invalid_request":
		return r.op.OperationID == "get-token" && strings.Contains(string(a.Body), "is required with")
	default:
		return slices.Contains(refusals[r.op.OperationID], code)
	}
}

// judge checks an answer against the document and adds what it finds.
func (f *findings) judge(g *generator, r *request, sent *http.Request, a apitest.Answer) {
	say := func(kind, format string, args ...any) {
		f.add(kind, "%s\n    answered %d %s: %s", r, a.Status, limited(string(a.Body)), fmt.Sprintf(format, args...))
	}
	for _, name := range always {
		if a.Header.Get(name) == "" {
			say(unguarded, "no %s", name)
		}
	}
	if a.Status >= 400 {
		for _, secret := range []string{g.who.password, g.who.access, g.who.refresh} {
			if bytes.Contains(a.Body, []byte(secret)) {
				say(leaked, "the answer repeats a secret")
			}
		}
		if _, err := a.Problem(); err != nil {
			say(mismatch, "%v", err)
		}
	}
	if a.Status >= 500 {
		say(ownFault, "")
	}
	if r.stray {
		if a.Status != 404 && a.Status != 405 && a.Status != 401 && a.Status != 422 && !(a.Status == 429 && f.limited) {
			// The other method or path may be that of another operation.
			if !g.doc.has(sent) {
				say(undocumented, "to a request of no operation")
			}
		}
		return
	}
	if r.guest && a.Status != 401 && !(a.Status == 429 && f.limited) {
		say(letIn, "")
	}
	if a.Status/100 == 2 {
		if r.invalid {
			say(accepted, "")
		} else if ok, errs := g.doc.check.ValidateHttpRequestSync(again(sent, r)); !ok {
			say(accepted, "%s", summary(errs))
		}
	}
	if r.valid && a.Status >= 400 && a.Status < 500 && !f.mayRefuse(g, r, a) {
		say(refused, "")
	}
	if ok, errs := g.doc.check.ValidateHttpResponse(again(sent, r), response(a)); !ok { //nolint:bodyclose // made of bytes
		kind := mismatch
		for _, err := range errs {
			if err.ValidationSubType == helpers.ResponseBodyResponseCode {
				kind = undocumented
			}
		}
		say(kind, "%s", summary(errs))
	}
	if described, ok := r.op.Responses[strconv.Itoa(a.Status)]; ok {
		for name, want := range described.Headers {
			got, sent := a.Header[http.CanonicalHeaderKey(name)]
			due := want.Required || f.limited && strings.HasPrefix(name, "RateLimit") && !uncounted[r.op.path]
			if sent && !regexp.MustCompile(want.Schema.Pattern).MatchString(got[0]) || !sent && due {
				say(absent, "%s: %q", name, got)
			}
		}
		for name := range a.Header {
			same := func(known string) bool { return strings.EqualFold(known, name) }
			if name != "Content-Type" && !slices.ContainsFunc(always, same) && !slices.ContainsFunc(sortedKeys(described.Headers), same) {
				say(unnamed, "%s", name)
			}
		}
	}
	if a.Status == 200 && strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream") {
		if why := g.doc.checkStream(sent, r, a); why != "" {
			say(mismatch, "%s", why)
		}
	}
}

// again returns a copy of the request with an unread body.
func again(sent *http.Request, r *request) *http.Request {
	out := sent.Clone(sent.Context())
	out.Body = io.NopCloser(bytes.NewReader(r.content()))
	return out
}

func summary(errs []*verrors.ValidationError) string {
	var all []string
	for _, err := range errs {
		all = append(all, limited(err.Error()))
	}
	return strings.Join(all, "; ")
}

// response returns an answer as the validator reads it.
func response(a apitest.Answer) *http.Response {
	return &http.Response{StatusCode: a.Status, Header: a.Header, Body: io.NopCloser(bytes.NewReader(a.Body))}
}

// has reports whether the document has an operation for the request.
func (d *document) has(sent *http.Request) bool {
	at := strings.Split(sent.URL.EscapedPath(), "/")
	for _, op := range d.operations {
		path := strings.Split(op.path, "/")
		same := len(path) == len(at) && (op.method == sent.Method || op.method == "GET" && sent.Method == "HEAD")
		for i := range path {
			same = same && (path[i] == at[i] || strings.HasPrefix(path[i], "{"))
		}
		if same {
			return true
		}
	}
	return false
}

// checkStream checks the events of a stream. The document has a schema for them as
// a list, and the function returns what is wrong, or "".
func (d *document) checkStream(sent *http.Request, r *request, a apitest.Answer) string {
	var events []string
	for m, err := range apitest.Messages(bytes.NewReader(a.Body)) {
		if err != nil {
			return err.Error()
		}
		if m.Data != "" {
			events = append(events, m.Data)
		}
	}
	list := apitest.Answer{Status: a.Status, Header: a.Header.Clone(), Body: []byte("[" + strings.Join(events, ",") + "]")}
	list.Header.Set("Content-Type", "application/json")
	if ok, errs := d.check.ValidateHttpResponse(again(sent, r), response(list)); !ok { //nolint:bodyclose // made of bytes
		return summary(errs)
	}
	return ""
}
