package client

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"
)

// A Problem is an error answer of the service, in the form of an RFC 9457 problem. An
// error answer in another form, for example from a proxy, has only Status, Title and
// RetryAfter. Use [errors.AsType] to find the Problem in the error of a call.
type Problem struct {
	Status   int    // the HTTP status
	Title    string // the meaning of the status
	Code     string // what went wrong, in a form for programs, such as too_many_jobs
	Detail   string // what went wrong and what to do about it, for people
	Instance string // the id of the request, which is also in the service's log
	Faults   []Fault

	// RetryAfter is the wait that the service asks for before the next try. It is 0 if
	// the answer does not ask for a wait.
	RetryAfter time.Duration
}

// A Fault is an invalid part of a request.
type Fault struct {
	Message  string `json:"message"`
	Location string `json:"location"` // such as body.prompt
}

// Codes of problems that callers often tell apart.
const (
	CodeJobFailed    = "job_failed"    // the job that a call waited for has failed
	CodeJobCancelled = "job_cancelled" // the job that a call waited for was cancelled
	CodeJobErased    = "job_erased"    // the job that a call waited for was erased
	CodeDamaged      = "damaged"       // the service cannot read the events of the job any more

	CodeNotAcceptedYet   = "not_accepted_yet"   // the job did not exist at the requested time
	CodeNoSuchVersion    = "no_such_version"    // the job does not have the requested version yet
	CodeNoRepeatableText = "no_repeatable_text" // the job has no complete text, or one of several kinds of arithmetic
	CodeTextLength       = "text_length"        // the text has too many tokens to be examined
	CodeTimeInFuture     = "time_in_future"     // the requested time has not come yet
)

// Error returns the status, the code, the detail and the instance.
func (p *Problem) Error() string {
	text := strconv.Itoa(p.Status) + " " + cmp.Or(p.Code, p.Title)
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	if p.Instance != "" {
		text += " (" + p.Instance + ")"
	}
	return text
}

// maxProblem bounds the body of an error answer, in bytes.
const maxProblem = 64 << 10

// readProblem reads an error answer. It always returns a problem.
func readProblem(status int, header http.Header, body io.Reader) *Problem {
	p := &Problem{Status: status, Title: http.StatusText(status), RetryAfter: retryAfter(header.Get("Retry-After"), time.Now())}
	content, err := io.ReadAll(io.LimitReader(body, maxProblem))
	if err != nil {
		return p
	}
	var read struct {
		Title, Detail, Instance string
		Code                    string
		Errors                  []Fault
		Error                   json.RawMessage
		Description             string `json:"error_description"`
	}
	if json.Unmarshal(content, &read) != nil {
		return p
	}
	p.Title = cmp.Or(read.Title, p.Title)
	p.Detail, p.Instance, p.Faults = read.Detail, read.Instance, read.Errors
	var object struct{ Message, Code string }
	if json.Unmarshal(read.Error, &p.Code) == nil { // the form of OAuth2, RFC 6749
		p.Code = cmp.Or(read.Code, p.Code) // the code of the service is more specific than that of OAuth2
		object.Message = read.Description
	} else if json.Unmarshal(read.Error, &object) == nil {
		p.Code = object.Code
	}
	p.Detail = cmp.Or(p.Detail, object.Message)
	return p
}

// retryAfter returns the wait of a Retry-After header, whose value is a number of seconds
// or a date. It returns 0 for any other value.
func retryAfter(value string, now time.Time) time.Duration {
	if isDigits([]byte(value)) {
		seconds, err := strconv.Atoi(value)
		if err != nil || seconds > int((1<<63-1)/time.Second) {
			return 1<<63 - 1
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, date.Sub(now))
}
