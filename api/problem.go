package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/pg"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
)

// Problem is the body of every error response: an RFC 9457 problem, with a
// member "error" besides, in which OpenAI's clients look for the message.
type Problem struct {
	Title    string   `json:"title" doc:"What kind of problem this is: the meaning of the status."`
	Status   int      `json:"status" doc:"The HTTP status."`
	Detail   string   `json:"detail,omitempty" doc:"What is wrong this time, and what to do about it."`
	Instance string   `json:"instance,omitempty" format:"uri" doc:"The id of the request, as in the X-Request-Id header; the log knows it too."`
	Errors   []Fault  `json:"errors,omitempty" doc:"The parts of the request that are at fault."`
	Compat   ErrorObj `json:"error" doc:"The same in the form that OpenAI's clients read."`

	headers http.Header
}

// Fault is one part of a request that is wrong. It never repeats what was sent.
type Fault struct {
	Message  string `json:"message" doc:"What is wrong."`
	Location string `json:"location,omitempty" doc:"Where, such as body.prompt."`
}

// ErrorObj is a problem in OpenAI's form.
type ErrorObj struct {
	Message string  `json:"message"`
	Type    string  `json:"type" doc:"invalid_request_error, authentication_error, rate_limit_error or server_error."`
	Param   *string `json:"param" doc:"The member of the body that is at fault."`
	Code    *string `json:"code" doc:"What went wrong, for programs."`
}

// Error makes a Problem an error.
func (p *Problem) Error() string { return p.Detail }

// GetStatus tells Huma the status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders tells Huma the headers.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// ContentType tells Huma the media type.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// newProblem returns a problem; code is for programs and may be empty.
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

// at names the part of the request that is at fault.
func (p *Problem) at(location string) *Problem {
	p.Errors = append(p.Errors, Fault{Message: p.Detail, Location: location})
	if p.Compat.Param == nil {
		param := location
		p.Compat.Param = &param
	}
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

func (p *Problem) retryAfter(d time.Duration) *Problem {
	return p.with("Retry-After", seconds(d))
}

// seconds is a time as Retry-After wants it: whole seconds, one at least.
func seconds(d time.Duration) string { return strconv.Itoa(int(max(1, (d+time.Second-1)/time.Second))) }

// unauthorized is the answer to a request without a valid access token. It says
// the same whatever is wrong with the token.
func unauthorized(given bool) *Problem {
	if !given {
		return newProblem(http.StatusUnauthorized, "missing_access_token", "sign in first: send an access token from POST /token as Authorization: Bearer").
			with("WWW-Authenticate", `Bearer realm="colophon"`)
	}
	return newProblem(http.StatusUnauthorized, "invalid_access_token", "the access token is not valid, or no longer: get a new one from POST /token").
		with("WWW-Authenticate", `Bearer realm="colophon", error="invalid_token"`)
}

// jobsWait is after how long it is worth a try whether jobs have ended.
const jobsWait = 5 * time.Second

// problemOf is the one place that says what an error means to a client. What
// it does not know is logged and not shown.
func problemOf(ctx context.Context, log *slog.Logger, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if refusal, ok := errors.AsType[policy.Refusal](err); ok {
		p := newProblem(http.StatusUnprocessableEntity, refusal.Rule, refusal.Message)
		return p.at("body." + refusal.Field)
	}
	if noRoom, ok := errors.AsType[*jobs.NoRoomError](err); ok {
		return newProblem(http.StatusUnprocessableEntity, "no_room", noRoom.Error()+": shorten the prompt or allow more").at("body.prompt")
	}
	if throttled, ok := errors.AsType[*auth.ThrottledError](err); ok {
		return newProblem(http.StatusTooManyRequests, "too_many_wrong_passwords",
			"too many wrong passwords from your network: wait "+seconds(throttled.Wait)+" s").retryAfter(throttled.Wait)
	}
	if outstanding, ok := errors.AsType[*jobs.OutstandingError](err); ok {
		return newProblem(http.StatusTooManyRequests, "too_many_jobs", outstanding.Error()+": wait until one has ended, or cancel one").retryAfter(jobsWait)
	}
	if budget, ok := errors.AsType[*jobs.BudgetError](err); ok {
		if budget.Needed > budget.Limit {
			// No day is long enough for it, so there is nothing to wait for.
			return newProblem(http.StatusUnprocessableEntity, "over_token_budget", budget.Error()+": shorten the prompt or ask for fewer tokens")
		}
		return newProblem(http.StatusTooManyRequests, "token_budget_spent", budget.Error()+": ask for fewer, or wait until midnight UTC").retryAfter(budget.Reset)
	}
	switch {
	case errors.Is(err, jobs.ErrQueueFull):
		return newProblem(http.StatusServiceUnavailable, "queue_full", "as many jobs are waiting as the service takes on: try again later").retryAfter(jobsWait)
	case errors.Is(err, events.ErrNotFound):
		return newProblem(http.StatusNotFound, "not_found", "there is no such thing here, or it belongs to somebody else")
	case errors.Is(err, events.ErrKeyReused):
		return newProblem(http.StatusUnprocessableEntity, "idempotency_key_reused",
			"this Idempotency-Key has been used with another request: send a new one, a UUID for example").at("header.Idempotency-Key")
	case errors.Is(err, events.ErrInFlight):
		return newProblem(http.StatusConflict, "idempotency_key_in_flight",
			"a request with this Idempotency-Key is being accepted: send it again in a moment").retryAfter(time.Second)
	case errors.Is(err, auth.ErrTaken):
		return newProblem(http.StatusConflict, "username_taken", "the user name is taken: choose another one").at("body.username")
	case errors.Is(err, auth.ErrCredentials):
		return newProblem(http.StatusUnauthorized, "invalid_credentials", "the user name or the password is wrong").
			with("WWW-Authenticate", `Bearer realm="colophon"`)
	case errors.Is(err, auth.ErrPassword):
		// Not 401: the access token is good, and a new one would change nothing.
		return newProblem(http.StatusForbidden, "wrong_password", "the current password is another one")
	case errors.Is(err, auth.ErrForbidden):
		return newProblem(http.StatusForbidden, "forbidden", "your account's role does not allow this")
	case errors.Is(err, auth.ErrOneself):
		return newProblem(http.StatusConflict, "own_account", "nobody can disable himself: ask another administrator")
	case errors.Is(err, auth.ErrAccountErased):
		return newProblem(http.StatusConflict, "account_erased", "the account has been erased, which is for good")
	case errors.Is(err, auth.ErrAccessToken):
		return unauthorized(true)
	case errors.Is(err, auth.ErrRefreshToken):
		return newProblem(http.StatusUnauthorized, "invalid_refresh_token", "the refresh token is not valid, or no longer: sign in again").
			with("WWW-Authenticate", `Bearer realm="colophon"`)
	case errors.Is(err, auth.ErrBusy):
		return newProblem(http.StatusServiceUnavailable, "busy", "too many sign-ins at once: try again in a moment").retryAfter(time.Second)
	case errors.Is(err, vault.ErrErased):
		return unauthorized(true)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		if ctx.Err() == nil { // the client is still there
			log.WarnContext(ctx, "a request was interrupted", "request", requestID(ctx), "err", err)
		}
		return newProblem(http.StatusServiceUnavailable, "interrupted", "the request was interrupted: try again").retryAfter(time.Second)
	}
	if pg.Unavailable(err) {
		log.WarnContext(ctx, "the database was not there for a request", "request", requestID(ctx), "err", err)
		return newProblem(http.StatusServiceUnavailable, "unavailable", "the service cannot serve requests at the moment: try again").retryAfter(2 * time.Second)
	}
	log.ErrorContext(ctx, "a request failed", "request", requestID(ctx), "err", err)
	return newProblem(http.StatusInternalServerError, "internal", "something went wrong on our side; the instance identifies this request in our log")
}

// humaProblem is what Huma's own errors become: validation, parsing, limits.
// Huma's details carry the submitted values: those stay behind.
func humaProblem(status int, message string, errs ...error) huma.StatusError {
	if status >= 500 {
		return newProblem(status, "internal", http.StatusText(status))
	}
	p := newProblem(status, "invalid_request", message)
	for _, err := range errs {
		if err == nil {
			continue
		}
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			p.Errors = append(p.Errors, Fault{Message: d.Message, Location: d.Location})
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
	// Huma makes its errors through this variable and has no other way to ask for one's own.
	huma.NewError = humaProblem
	// Otherwise MAX_LENGTH would be read as max_length, without its bounds.
	huma.ValidateStrictCasing = true
}
