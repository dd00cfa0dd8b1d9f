package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

// Account is an account as clients see it.
type Account struct {
	ID         uuid.UUID  `json:"id" format:"uuid" doc:"The id of the account."`
	Username   string     `json:"username,omitempty" doc:"As registered. An erased account has none."`
	Role       string     `json:"role" enum:"user,auditor,admin" doc:"What the account may do with other accounts: auditors read them, and administrators also disable and enable them."`
	CreatedAt  time.Time  `json:"created_at" doc:"When the account was registered."`
	DisabledAt *time.Time `json:"disabled_at,omitempty" doc:"When the account was disabled. Missing if it is enabled."`
	ErasedAt   *time.Time `json:"erased_at,omitempty" doc:"When the account was erased. Missing if it was not."`
}

func accountBody(a auth.Account) Account {
	return Account{
		ID: a.ID, Username: a.Username, Role: string(a.Role), CreatedAt: a.CreatedAt,
		DisabledAt: optional(a.DisabledAt), ErasedAt: optional(a.ErasedAt),
	}
}

type accountOutput struct{ Body Account }

type passwordInput struct {
	Body struct {
		CurrentPassword string `json:"current_password" minLength:"1" maxLength:"256" format:"password" doc:"The password so far."`
		NewPassword     string `json:"new_password" minLength:"8" maxLength:"256" format:"password" doc:"The rules are those of POST /users."`
	}
}

type eraseOutput struct{ Status int }

type eraseInput struct {
	Body struct {
		Password string `json:"password" minLength:"1" maxLength:"256" format:"password" doc:"The password of the account, as a confirmation."`
	}
}

// me registers the operations on the caller's own account.
func (s *server) me() {
	register(s, huma.Operation{
		OperationID: "me", Method: http.MethodGet, Path: "/users/me", Tags: []string{"accounts"},
		Summary:  "Get your account",
		Security: keyed(auth.ScopeRead),
	}, s.getMe)
	register(s, huma.Operation{
		OperationID: "change-password", Method: http.MethodPut, Path: "/users/me/password", Tags: []string{"accounts"},
		DefaultStatus: http.StatusNoContent,
		Summary:       "Change the password",
		Description:   "Ends all other sessions of the account. Its API keys stay valid. A wrong current password counts as a failed sign-in.",
		Security:      private(),
		Metadata:      limited("token"),
		Errors:        []int{http.StatusForbidden},
	}, s.changePassword)
	register(s, huma.Operation{
		OperationID: "erase-account", Method: http.MethodDelete, Path: "/users/me", Tags: []string{"accounts"},
		DefaultStatus: http.StatusNoContent,
		Summary:       "Erase the account",
		Description: "Permanent. Signing in is no longer possible, the account's API keys are revoked, its jobs are cancelled, and the key that opens its prompts and texts is destroyed. " +
			"The user name stays taken. " +
			"A wrong password counts as a failed sign-in.",
		Security: private(),
		Metadata: limited("token"),
		Errors:   []int{http.StatusForbidden},
		Responses: map[string]*huma.Response{
			"202": {Description: "The account is closed for good, but its key still exists. The service destroys the key within seconds, or as soon as its database is back."},
		},
	}, s.erase)
}

func (s *server) getMe(ctx context.Context, _ *struct{}) (*accountOutput, error) {
	account, err := s.account(ctx)
	if err != nil {
		return nil, err
	}
	return &accountOutput{accountBody(account)}, nil
}

// account returns the current state of the caller's account. It returns
// auth.ErrAccessToken if the account has been disabled or erased.
func (s *server) account(ctx context.Context) (auth.Account, error) {
	account, err := s.Auth.Account(ctx, caller(ctx).Account)
	if errors.Is(err, events.ErrNotFound) || err == nil && !account.DisabledAt.IsZero() {
		return account, auth.ErrAccessToken
	}
	return account, err
}

func (s *server) changePassword(ctx context.Context, in *passwordInput) (*struct{}, error) {
	err := s.Auth.ChangePassword(ctx, caller(ctx), in.Body.CurrentPassword, in.Body.NewPassword, networkOf(ctx))
	if err == nil {
		return nil, nil
	}
	p := s.problemOf(ctx, err)
	switch {
	case errors.Is(err, auth.ErrPassword):
		p = p.at("body.current_password")
	case len(p.Errors) == 1 && p.Errors[0].Location == "body.password": // the new password breaks a rule
		p = p.at("body.new_password")
	}
	return nil, p
}

// erase closes the caller's account, cancels the account's jobs and destroys the
// account's key. It goes on even if the client disconnects.
func (s *server) erase(ctx context.Context, in *eraseInput) (*eraseOutput, error) {
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), eraseTimeout)
	defer cancel()
	err := s.Auth.Erase(undisturbed, caller(ctx), in.Body.Password, networkOf(ctx))
	if errors.Is(err, auth.ErrPassword) {
		return nil, s.problemOf(ctx, err).at("body.password")
	}
	if err != nil {
		return nil, err
	}
	if err := s.Queue.Erase(undisturbed, caller(ctx).Account); err != nil {
		s.Log.WarnContext(ctx, "account closed but not yet erased, the erasure goes on", "request", requestID(ctx), "err", err)
		return &eraseOutput{http.StatusAccepted}, nil
	}
	return &eraseOutput{http.StatusNoContent}, nil
}

// eraseTimeout bounds the time to erase an account.
const eraseTimeout = 30 * time.Second
