package api

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"colophon/events"
	"colophon/internal/auth"
	"colophon/internal/policy"
	"colophon/internal/vault"
	"colophon/jobs"
	"colophon/test/apitest"
)

// codesOf returns the codes of the errors that a package defines. A code is defined with
// errcode.New, in a policy.Refusal, or in a method Code.
func codesOf(t *testing.T, dir string) (codes []string) {
	t.Helper()
	add := func(e ast.Expr) {
		literal, ok := e.(*ast.BasicLit)
		if !ok {
			return
		}
		code, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		codes = append(codes, code)
	}
	called := func(e ast.Expr, name string) bool {
		s, ok := e.(*ast.SelectorExpr)
		return ok && fmt.Sprint(s.X, ".", s.Sel) == name
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if called(n.Fun, "errcode.New") {
					add(n.Args[0])
				}
			case *ast.CompositeLit:
				if name, ok := n.Type.(*ast.Ident); ok && name.Name == "Refusal" {
					add(n.Elts[1])
				}
			case *ast.FuncDecl:
				if n.Recv != nil && n.Name.Name == "Code" {
					ast.Inspect(n, func(n ast.Node) bool {
						if r, ok := n.(*ast.ReturnStmt); ok {
							add(r.Results[0])
						}
						return true
					})
				}
			}
			return true
		})
	}
	return codes
}

// TestEveryCodeHasAMeaning reads the packages that define coded errors. Each code must
// have a row in meanings, and each row must have an error with its code.
func TestEveryCodeHasAMeaning(t *testing.T) {
	defined := map[string]bool{}
	for _, dir := range []string{"openai", "../events", "../events/ledger", "../jobs", "../internal/auth", "../internal/pg", "../internal/policy", "../internal/vault", "../internal/webhook"} {
		codes := codesOf(t, dir)
		if len(codes) == 0 {
			t.Errorf("%s defines no codes", dir)
		}
		for _, code := range codes {
			defined[code] = true
			if _, ok := meanings[code]; !ok {
				t.Errorf("%s: %s has no meaning", dir, code)
			}
		}
	}
	for code, m := range meanings {
		if !defined[code] {
			t.Errorf("%s is the code of no error", code)
		}
		if _, ok := meanings[m.as]; m.as != "" && !ok {
			t.Errorf("%s is answered as %s, which has no meaning", code, m.as)
		}
	}
}

// TestCodedErrorsBecomeProblems wraps coded errors in a cause. The problem of an error
// must not show the cause.
func TestCodedErrorsBecomeProblems(t *testing.T) {
	for _, k := range []struct {
		err          error
		status       int
		code, detail string
		at, wait     string
		challenge    string
	}{
		{events.ErrNotFound, 404, "not_found", "there is nothing here, or it belongs to another account", "", "", ""},
		{&events.Damage{Stream: "job/canary"}, 410, "damaged", "the record of this is damaged and cannot be read: the operator finds it by its id", "", "", ""},
		{events.ErrKeyReused, 422, "idempotency_key_reused", "this Idempotency-Key was used with another request: send a new one, such as a UUID", "header.Idempotency-Key", "", ""},
		{events.ErrInFlight, 409, "idempotency_key_in_flight", "a request with this Idempotency-Key is being accepted: send it again in a moment", "", "1", ""},
		{auth.ErrTaken, 409, "username_taken", "the user name is taken: choose another one", "body.username", "", ""},
		{auth.ErrCredentials, 401, "invalid_credentials", "the user name or the password is wrong", "", "", `Bearer realm="colophon"`},
		{auth.ErrPassword, 403, "wrong_password", "the current password is wrong", "", "", ""},
		{auth.ErrForbidden, 403, "forbidden", "your account's role does not allow this", "", "", ""},
		{auth.ErrOwnAccount, 409, "own_account", "an account cannot disable itself: ask another administrator", "", "", ""},
		{auth.ErrAccountErased, 409, "account_erased", "the account has been erased, which is final", "", "", ""},
		{auth.ErrAccessToken, 401, "invalid_access_token", "the access token is invalid, expired or revoked: get a new one from POST /token", "", "", `Bearer realm="colophon", error="invalid_token"`},
		{vault.ErrErased, 401, "invalid_access_token", "the access token is invalid, expired or revoked: get a new one from POST /token", "", "", `Bearer realm="colophon", error="invalid_token"`},
		{auth.ErrRefreshToken, 401, "invalid_refresh_token", "the refresh token is invalid, used, expired or revoked: sign in again", "", "", `Bearer realm="colophon"`},
		{auth.ErrBusy, 503, "busy", "too many sign-ins at once: try again in a moment", "", "1", ""},
		{&auth.ThrottledError{Wait: 1500 * time.Millisecond}, 429, "too_many_wrong_passwords", "too many wrong passwords from your network: wait 2 s", "", "2", ""},
		{&auth.ThrottledError{}, 429, "too_many_wrong_passwords", "too many wrong passwords from your network: wait 1 s", "", "1", ""},
		{jobs.ErrQueueFull, 503, "queue_full", "the queue is full: try again later", "", "5", ""},
		{&jobs.OutstandingError{Limit: 7}, 429, "too_many_jobs", "7 jobs are queued or running, the most that one user may have: wait until one has ended, or cancel one", "", "5", ""},
		{&jobs.BudgetError{Limit: 10, Left: 2, Needed: 5, Reset: time.Minute}, 429, "token_budget_spent", "the job may use 5 tokens, but only 2 of today's 10 are left: ask for fewer, or wait until midnight UTC", "", "60", ""},
		{&jobs.BudgetError{Limit: 10, Left: 2, Needed: 11, Reset: time.Minute}, 422, "over_token_budget", "the job may use 11 tokens, but only 2 of today's 10 are left: shorten the prompt or ask for fewer tokens", "", "", ""},
		{&jobs.NoRoomError{PromptTokens: 60, Limit: 50, LimitName: "max_length"}, 422, "no_room", "the prompt has 60 tokens, which leaves no room under max_length of 50 tokens: shorten the prompt or allow more", "body.prompt", "", ""},
		{jobs.ErrNoToken, 422, "no_token", "the model has no token for a character of the text: remove it", "", "", ""},
		{jobs.ErrMinTokens, 422, "min_tokens_above_maximum", "min_tokens is above max_new_tokens, which is 50 in a request without any length: lower it or allow more", "body.min_tokens", "", ""},
		{&jobs.UnknownTokenError{Vocab: 50257}, 422, "unknown_token", "logit_bias names something else than a token id of the model, which has the ids 0 to 50256: POST /tokenize returns the ids of a text", "body.logit_bias", "", ""},
		{jobs.ErrNoRepeatableText, 409, "no_repeatable_text", "the job has no complete text, its text is not to be kept, or parts of it were generated with different arithmetic", "", "", ""},
		{jobs.ErrDetectorBusy, 503, "detector_busy", "too many texts are examined at once: try again in a moment", "", "1", ""},
		{&jobs.TextLengthError{Tokens: 8001}, 422, "text_length", "the text has 8001 tokens, and at most 8000 can be examined: send a part of it", "body.text", "", ""},
		{policy.ErrPromptWord, 422, "prompt_word", policy.ErrPromptWord.Message, "body.prompt", "", ""},
		{policy.ErrUsernameLength, 422, "username_length", policy.ErrUsernameLength.Message, "body.username", "", ""},
		{policy.ErrPasswordCommon, 422, "password_common", policy.ErrPasswordCommon.Message, "body.password", "", ""},
		{newProblem(418, "a_code", "a detail"), 418, "a_code", "a detail", "", "", ""},
		{fmt.Errorf("no code: %w", errors.Join(errors.New("canary"), events.ErrCorrupt)), 500, "internal", internalError().Detail, "", "", ""},
		{unknownCode{}, 500, "internal", internalError().Detail, "", "", ""},
	} {
		var log apitest.Log
		s := &server{Options: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}
		p := s.problemOf(t.Context(), errors.Join(errors.New("canary"), fmt.Errorf("canary: %w", k.err)))
		at := ""
		if len(p.Errors) == 1 && *p.Compat.Param == p.Errors[0].Location && p.Errors[0].Message == p.Detail {
			at = p.Errors[0].Location
		}
		if p.Status != k.status || *p.Compat.Code != k.code || p.Detail != k.detail || p.Compat.Message != k.detail || at != k.at ||
			p.headers.Get("Retry-After") != k.wait || p.headers.Get("WWW-Authenticate") != k.challenge {
			t.Errorf("%v: %+v with code %s and headers %v", k.err, p, *p.Compat.Code, p.headers)
		}
		if logged := strings.Contains(log.String(), "canary"); logged != (k.status == 500) {
			t.Errorf("%v: in the log: %s", k.err, log.String())
		}
	}
}

// unknownCode is an error of a library that happens to have a method Code. Clients must
// not see this code.
type unknownCode struct{}

func (unknownCode) Error() string { return "canary" }
func (unknownCode) Code() string  { return "canary" }

// TestInterruptionsOfTheServiceAreLogged interrupts requests. An interruption by the
// service must be logged, and an interruption by the client must not.
func TestInterruptionsOfTheServiceAreLogged(t *testing.T) {
	left, leave := context.WithCancel(t.Context())
	leave()
	for name, k := range map[string]struct {
		ctx    context.Context
		err    error
		status int
		log    string
	}{
		"the client has left":                    {left, fmt.Errorf("read: %w", context.Canceled), 503, ""},
		"it left, and the time ran out":          {left, fmt.Errorf("read: %w", context.DeadlineExceeded), 503, ""},
		"the time ran out":                       {t.Context(), fmt.Errorf("canary: %w", context.DeadlineExceeded), 503, "level=WARN"},
		"an internal error":                      {t.Context(), errors.New("canary"), 500, "level=ERROR"},
		"an internal error, and the client left": {left, errors.New("canary"), 500, "level=ERROR"},
	} {
		var log apitest.Log
		s := &server{Options: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}
		p := s.problemOf(k.ctx, k.err)
		lines := log.String()
		if p.Status != k.status || (lines == "") != (k.log == "") || !strings.Contains(lines, k.log) || k.log != "" && !strings.Contains(lines, "canary") {
			t.Errorf("%s: %d and in the log %q", name, p.Status, lines)
		}
		if strings.Contains(p.Detail, "canary") {
			t.Errorf("%s: %s", name, p.Detail)
		}
	}
}
