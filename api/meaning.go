package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"colophon/internal/auth"
	"colophon/internal/pg"
)

// coded is an error that clients may know about. The package that returns the error
// chooses its code. The codes are part of the API. The text of a coded error contains no
// secret and no cause. Secrets and causes may be in the errors that wrap a coded error.
type coded interface {
	error
	Code() string
}

// temporary is a coded error that says when the client may try again.
type temporary interface {
	RetryAfter() time.Duration
}

// located is a coded error that says which member of the body is wrong. An empty name means
// the body as a whole.
type located interface {
	Param() string
}

// meaning describes the problem that clients get for a coded error.
type meaning struct {
	status    int
	detail    string        // the text that replaces the error's own text
	advice    string        // the text that is added to the error's own text
	at        string        // the part of the request that is wrong
	wait      time.Duration // the smallest value of Retry-After
	challenge string        // the value of WWW-Authenticate
	as        string        // the code that clients see instead of the error's own code
}

// jobsWait is the Retry-After of a refusal that lasts until a job or a stream ends.
const jobsWait = 5 * time.Second

// meanings has a row for each code of a coded error.
var meanings = map[string]meaning{
	"account_erased":      {status: http.StatusConflict, detail: "the account has been erased, which is final"},
	"forbidden":           {status: http.StatusForbidden, detail: "your account's role does not allow this"},
	"invalid_credentials": {status: http.StatusUnauthorized, challenge: challenge},
	"own_account":         {status: http.StatusConflict, advice: "ask another administrator"},
	"username_taken":      {status: http.StatusConflict, advice: "choose another one", at: "body.username"},
	// The status is not 401, because the access token is valid. A new access token would
	// not help.
	"wrong_password": {status: http.StatusForbidden, detail: "the current password is wrong"},

	"busy":                     {status: http.StatusServiceUnavailable, detail: "too many sign-ins at once: try again in a moment", wait: time.Second},
	"too_many_wrong_passwords": {status: http.StatusTooManyRequests, wait: time.Second},
	"invalid_access_token": {status: http.StatusUnauthorized, detail: "the access token is invalid, expired or revoked: get a new one from POST /token",
		challenge: challenge + `, error="invalid_token"`},
	"invalid_api_key": {status: http.StatusUnauthorized, detail: "the API key is malformed, unknown, expired or revoked: create a new one with POST /keys",
		challenge: challenge + `, error="invalid_token"`},
	"invalid_refresh_token": {status: http.StatusUnauthorized, detail: "the refresh token is invalid, used, expired or revoked: sign in again",
		challenge: challenge},
	"owner_erased": {as: "invalid_access_token"},

	"expiry_in_past": {status: http.StatusUnprocessableEntity, detail: "the API key would be expired at once", at: "body.expires_at"},
	"key_name":       {status: http.StatusUnprocessableEntity, at: "body.name"},
	"too_many_keys":  {status: http.StatusConflict, advice: "revoke one first"},

	"damaged": {status: http.StatusGone, detail: "the record of this is damaged and cannot be read: the operator finds it by its id"},

	"no_checkpoint":     {status: http.StatusNotFound, advice: "try again in a few seconds, or ask the operator which process signs the log"},
	"not_in_checkpoint": {status: http.StatusServiceUnavailable, advice: "try again in a few seconds, or ask the operator which process signs the log"},
	"no_such_tile":      {status: http.StatusNotFound, advice: "the latest checkpoint says how large the log is"},

	"batch_cancelled":      {status: http.StatusConflict},
	"batch_expired":        {status: http.StatusConflict},
	"file_in_use":          {status: http.StatusConflict, advice: "cancel the batch or wait for its end"},
	"file_too_large":       {status: http.StatusRequestEntityTooLarge, advice: "split it", at: "body.file"},
	"line_too_long":        {status: http.StatusUnprocessableEntity, at: "body.file"},
	"too_many_batches":     {status: http.StatusConflict, advice: "cancel one or wait until one has ended"},
	"too_many_batch_lines": {status: http.StatusConflict, advice: "delete the output and error files of ended batches first"},
	"too_many_files":       {status: http.StatusConflict, advice: "delete one first"},
	"too_many_lines":       {status: http.StatusUnprocessableEntity, advice: "split it", at: "body.file"},

	"background_not_stored":        {status: http.StatusBadRequest},
	"metadata_form":                {status: http.StatusUnprocessableEntity},
	"previous_response_erased":     {status: http.StatusBadRequest},
	"previous_response_not_found":  {status: http.StatusBadRequest},
	"previous_response_unfinished": {status: http.StatusBadRequest},
	"model_not_found":              {status: http.StatusNotFound, advice: "GET /v1/models has the names"},
	"token_ids_not_text":           {status: http.StatusUnprocessableEntity},
	"too_many_choices":             {status: http.StatusUnprocessableEntity},
	"top_logprobs_alone":           {status: http.StatusBadRequest},
	"response_erased":              {status: http.StatusNotFound},
	"unknown_parameter":            {status: http.StatusBadRequest},
	"unsupported_parameter":        {status: http.StatusBadRequest},

	"detector_busy": {status: http.StatusServiceUnavailable, advice: "try again in a moment", wait: time.Second},
	"text_length":   {status: http.StatusUnprocessableEntity, advice: "send a part of it", at: "body.text"},

	"not_found": {status: http.StatusNotFound, detail: "there is nothing here, or it belongs to another account"},
	"idempotency_key_reused": {status: http.StatusUnprocessableEntity, at: "header.Idempotency-Key",
		detail: "this Idempotency-Key was used with another request: send a new one, such as a UUID"},
	"idempotency_key_in_flight": {status: http.StatusConflict, wait: time.Second,
		detail: "a request with this Idempotency-Key is being accepted: send it again in a moment"},

	"min_tokens_above_maximum": {status: http.StatusUnprocessableEntity, advice: "lower it or allow more", at: "body.min_tokens"},
	"unknown_token":            {status: http.StatusUnprocessableEntity, advice: "POST /tokenize returns the ids of a text", at: "body.logit_bias"},

	"no_repeatable_text": {status: http.StatusConflict},
	"too_many_webhooks":  {status: http.StatusConflict, advice: "delete one first"},
	"webhook_address":    {status: http.StatusUnprocessableEntity, at: "body.url"},
	"webhook_disabled":   {status: http.StatusConflict, advice: "enable it first"},
	"webhook_not_https":  {status: http.StatusUnprocessableEntity, at: "body.url"},
	"webhook_url":        {status: http.StatusUnprocessableEntity, at: "body.url"},

	"no_token":           {status: http.StatusUnprocessableEntity, advice: "remove it"},
	"no_room":            {status: http.StatusUnprocessableEntity, advice: "shorten the prompt or allow more", at: "body.prompt"},
	"over_token_budget":  {status: http.StatusUnprocessableEntity, advice: "shorten the prompt or ask for fewer tokens"},
	"queue_full":         {status: http.StatusServiceUnavailable, advice: "try again later", wait: jobsWait},
	"token_budget_spent": {status: http.StatusTooManyRequests, advice: "ask for fewer, or wait until midnight UTC"},
	"too_many_jobs":      {status: http.StatusTooManyRequests, advice: "wait until one has ended, or cancel one", wait: jobsWait},

	"password_common":     {status: http.StatusUnprocessableEntity, at: "body.password"},
	"password_encoding":   {status: http.StatusUnprocessableEntity, at: "body.password"},
	"password_length":     {status: http.StatusUnprocessableEntity, at: "body.password"},
	"password_service":    {status: http.StatusUnprocessableEntity, at: "body.password"},
	"password_username":   {status: http.StatusUnprocessableEntity, at: "body.password"},
	"prompt_blank":        {status: http.StatusUnprocessableEntity, at: "body.prompt"},
	"prompt_control":      {status: http.StatusUnprocessableEntity, at: "body.prompt"},
	"prompt_encoding":     {status: http.StatusUnprocessableEntity, at: "body.prompt"},
	"prompt_end_of_text":  {status: http.StatusUnprocessableEntity, advice: "remove it", at: "body.prompt"},
	"prompt_length":       {status: http.StatusUnprocessableEntity, at: "body.prompt"},
	"prompt_word":         {status: http.StatusUnprocessableEntity, at: "body.prompt"},
	"username_scripts":    {status: http.StatusUnprocessableEntity, at: "body.username"},
	"username_characters": {status: http.StatusUnprocessableEntity, at: "body.username"},
	"username_encoding":   {status: http.StatusUnprocessableEntity, at: "body.username"},
	"username_length":     {status: http.StatusUnprocessableEntity, at: "body.username"},

	// These codes are the states of the database; see pg.State. The answer gives no
	// details, because clients cannot use them.
	"unavailable":        {status: http.StatusServiceUnavailable, detail: tryAgain, wait: 2 * time.Second},
	"database_read_only": {status: http.StatusServiceUnavailable, detail: tryAgain, wait: 2 * time.Second},
	"database_exhausted": {status: http.StatusServiceUnavailable, detail: tryAgain, wait: stateFor},
	"database_contended": {status: http.StatusServiceUnavailable, detail: tryAgain, wait: time.Second},
}

const (
	cannotServe = "the service cannot serve requests at the moment"
	tryAgain    = cannotServe + ": try again"
)

// explain turns a coded error into a problem. It reports false if meanings has no row for
// the error's code.
func explain(err coded) (p *Problem, ok bool) {
	code := err.Code()
	if as := meanings[code].as; as != "" {
		code = as
	}
	m, ok := meanings[code]
	if !ok {
		return nil, false
	}
	detail := m.detail
	if detail == "" {
		detail = err.Error()
	}
	if m.advice != "" {
		detail += ": " + m.advice
	}
	p = newProblem(m.status, code, detail)
	if m.at != "" {
		p = p.at(m.at)
	}
	if l, ok := err.(located); ok {
		p = p.at(strings.TrimSuffix("body."+l.Param(), "."))
	}
	wait := m.wait
	if t, ok := err.(temporary); ok {
		wait = max(wait, t.RetryAfter())
	}
	if wait > 0 {
		p = p.retryAfter(wait)
	}
	if m.challenge != "" {
		p = p.with("WWW-Authenticate", m.challenge)
	}
	return p, true
}

// problemOf returns the problem for an error of any operation. An unknown error is
// logged, and the client does not see its text.
func (s *server) problemOf(ctx context.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if known, ok := errors.AsType[coded](err); ok {
		p, ok := explain(known)
		if ok && p.Status == http.StatusUnauthorized && caller(ctx).Key != nil && !errors.Is(err, auth.ErrAPIKey) {
			return s.problemOf(ctx, auth.ErrAPIKey) // the account is gone, and its API keys with it
		}
		if ok {
			return p
		}
	}
	switch state := pg.State(err); {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		if ctx.Err() == nil { // the client is still connected
			s.Log.WarnContext(ctx, "request interrupted", "request", requestID(ctx), "err", err)
		}
		return newProblem(http.StatusServiceUnavailable, "interrupted", "the request was interrupted: try again").retryAfter(time.Second)
	case state != nil:
		s.Log.WarnContext(ctx, "database unavailable", "request", requestID(ctx), "state", state, "err", err)
		s.met(state)
		if known, ok := errors.AsType[coded](state); ok {
			if p, ok := explain(known); ok {
				return p
			}
		}
	}
	s.Log.ErrorContext(ctx, "request failed", "request", requestID(ctx), "err", err)
	return internalError()
}

// internalError returns the answer to a fault of the service.
func internalError() *Problem {
	return newProblem(http.StatusInternalServerError, "internal", "something went wrong on our side; the instance identifies this request in our log")
}
