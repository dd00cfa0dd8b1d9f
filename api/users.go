package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

// rolesName is the metadata key of the roles that may call an operation. The OpenAPI
// description shows these roles as x-role. Without this key, every role may call the
// operation.
const rolesName = "roles"

// only returns the metadata of an operation that requires one of the roles.
func only(roles ...auth.Role) map[string]any { return map[string]any{rolesName: roles} }

// authorize refuses API keys without the operation's scope, and callers whose role may not
// call the operation. It reads the account's current role from the database, because neither
// an access token nor an API key contains a role.
func (s *server) authorize(ctx huma.Context, next func(huma.Context)) {
	if refused := missingScope(ctx.Operation(), caller(ctx.Context())); refused != nil {
		s.refuse(ctx, refused)
		return
	}
	roles, ok := ctx.Operation().Metadata[rolesName].([]auth.Role)
	if !ok {
		next(ctx)
		return
	}
	account, err := s.account(ctx.Context())
	if err == nil && !slices.Contains(roles, account.Role) {
		err = auth.ErrForbidden
	}
	if err != nil {
		s.refuse(ctx, s.problemOf(ctx.Context(), err))
		return
	}
	next(ctx)
}

type usersInput struct {
	After uuid.UUID `query:"after" format:"uuid" doc:"Only accounts that were created after this one. The Link header of a page has the value for the next one."`
	Limit int       `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"The largest number of accounts in the answer."`
}

type usersOutput struct {
	Link string `header:"Link" doc:"The next page as rel=next (RFC 8288), if this page is full."`
	Body []Account
}

type userInput struct {
	ID uuid.UUID `path:"id" format:"uuid" doc:"The account's id."`
}

type userEventsInput struct {
	ID    uuid.UUID `path:"id" format:"uuid" doc:"The account's id."`
	After int       `query:"after" minimum:"0" maximum:"2147483647" doc:"Only events after this version. The Link header of a page has the value for the next one."`
	Limit int       `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"The largest number of events in the answer."`
}

type userEventsOutput struct {
	Link string `header:"Link" doc:"The next page as rel=next (RFC 8288), if this page is full."`
	Body []AccountEvent
}

// AccountEvent is an event of an account. Version, type and time are always present. The
// type decides which other members are present.
type AccountEvent struct {
	Version int       `json:"version" minimum:"1" doc:"The position of the event in the account's stream, from 1."`
	Type    string    `json:"type" example:"account.signed_in" doc:"account.registered, account.signed_in, account.sign_in_failed, account.signed_out, account.signed_out_everywhere, account.token_reuse_detected, account.password_changed, account.role_changed, account.disabled, account.enabled, account.erased, key.created, key.revoked, policy.refused, webhook.created, webhook.updated, webhook.secret_rotated, webhook.disabled or webhook.deleted."`
	At      time.Time `json:"at" doc:"When the event happened, by the clock of the database."`

	Username string     `json:"username,omitempty" doc:"account.registered, unless the account has been erased."`
	Session  *uuid.UUID `json:"session,omitempty" format:"uuid" doc:"account.signed_in, account.signed_out, account.token_reuse_detected: the session. account.password_changed: the session that goes on, if the owner changed the password."`
	Role     string     `json:"role,omitempty" doc:"account.role_changed: the new role."`
	Policy   string     `json:"policy,omitempty" doc:"policy.refused: the version of the text policy that refused a prompt."`
	Rule     string     `json:"rule,omitempty" doc:"policy.refused: the rule that the prompt broke, as in the code of the answer. The prompt is not on record."`
	By       string     `json:"by,omitempty" doc:"Who changed the account: the id of the administrator's account, command for the command line, or holder for somebody who revoked an API key by presenting it. With account.role_changed, account.disabled and account.enabled, and, unless the owner did it, with account.signed_out_everywhere, account.password_changed, account.erased, key.created and key.revoked."`

	Reason string `json:"reason,omitempty" enum:"gone,failures" doc:"webhook.disabled: gone if the receiver has answered 410, failures if attempts have failed for three days."`

	AccountKey
	AccountWebhook
}

// AccountWebhook has the members of the events about an account's webhooks.
type AccountWebhook struct {
	Webhook  *uuid.UUID `json:"webhook,omitempty" format:"uuid" doc:"webhook.created and the other events of webhooks: the webhook's id."`
	Host     string     `json:"host,omitempty" doc:"webhook.created, webhook.updated, unless the account has been erased: the host of the webhook's URL."`
	Events   []string   `json:"events,omitempty" doc:"webhook.created, webhook.updated: the types of the events that it hears of."`
	Enabled  bool       `json:"enabled,omitempty" doc:"webhook.updated: whether the webhook was enabled."`
	Disabled bool       `json:"disabled,omitempty" doc:"webhook.updated: whether the owner has disabled the webhook."`
}

// AccountKey has the members of the events about an account's API keys.
type AccountKey struct {
	Key         *uuid.UUID `json:"key,omitempty" format:"uuid" doc:"key.created, key.revoked: the id of the API key."`
	Name        string     `json:"name,omitempty" doc:"key.created, unless the account has been erased: the key's name."`
	Scopes      []string   `json:"scopes,omitempty" doc:"key.created: the key's scopes."`
	ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"key.created: the key's expiry, if it has one."`
	Generations int        `json:"generations_per_minute,omitempty" doc:"key.created: the key's own limit, if it has one."`
	// The field of another event is named Tokens, and Huma tells embedded fields apart by name.
	TokensPerDay int `json:"tokens_per_day,omitempty" doc:"key.created: the key's own token budget, if it has one."`
}

// users registers the operations on other accounts.
func (s *server) users() {
	register(s, huma.Operation{
		OperationID: "list-users", Method: http.MethodGet, Path: "/users", Tags: []string{"administration"},
		Summary:  "List the accounts in the order in which they were created",
		Security: keyed(auth.ScopeAdmin),
		Metadata: only(auth.Auditor, auth.Admin),
	}, s.listUsers)
	register(s, huma.Operation{
		OperationID: "user-events", Method: http.MethodGet, Path: "/users/{id}/events", Tags: []string{"administration"},
		Summary:     "Read the events of an account",
		Description: "Sign-ins, failed sign-ins and changes. Only the owner can read the account's jobs.",
		Security:    keyed(auth.ScopeAdmin),
		Metadata:    only(auth.Auditor, auth.Admin),
		Errors:      []int{http.StatusNotFound, http.StatusGone},
	}, s.userEvents)
	register(s, huma.Operation{
		OperationID: "disable-user", Method: http.MethodPost, Path: "/users/{id}/disable", Tags: []string{"administration"},
		Summary:     "Disable an account",
		Description: "Ends its sessions, revokes its API keys and prevents sign-ins. Its jobs go on. Disabling a disabled account changes nothing.",
		Security:    keyed(auth.ScopeAdmin),
		Metadata:    only(auth.Admin),
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *userInput) (*accountOutput, error) {
		account, err := s.Auth.Disable(ctx, caller(ctx).Account, in.ID)
		if err != nil {
			return nil, err
		}
		return &accountOutput{accountBody(account)}, nil
	})
	register(s, huma.Operation{
		OperationID: "enable-user", Method: http.MethodPost, Path: "/users/{id}/enable", Tags: []string{"administration"},
		Summary:     "Enable an account",
		Description: "Signing in is possible again. Its API keys stay revoked. Enabling an enabled account changes nothing. An erased account cannot be enabled.",
		Security:    keyed(auth.ScopeAdmin),
		Metadata:    only(auth.Admin),
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *userInput) (*accountOutput, error) {
		account, err := s.Auth.Enable(ctx, caller(ctx).Account, in.ID)
		if err != nil {
			return nil, err
		}
		return &accountOutput{accountBody(account)}, nil
	})
}

func (s *server) listUsers(ctx context.Context, in *usersInput) (*usersOutput, error) {
	accounts, err := s.Auth.Accounts(ctx, in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &usersOutput{Body: make([]Account, len(accounts))}
	for i, a := range accounts {
		out.Body[i] = accountBody(a)
	}
	if len(accounts) == in.Limit {
		out.Link = fmt.Sprintf("</users?after=%s&limit=%d>; rel=\"next\"", accounts[len(accounts)-1].ID, in.Limit)
	}
	return out, nil
}

func (s *server) userEvents(ctx context.Context, in *userEventsInput) (*userEventsOutput, error) {
	if _, err := s.Auth.Account(ctx, in.ID); err != nil {
		return nil, err
	}
	found, err := s.Store.Page(ctx, events.AccountStream(in.ID), in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &userEventsOutput{Body: make([]AccountEvent, len(found))}
	for i, e := range found {
		raw, err := eventBody(e)
		if err == nil {
			err = json.Unmarshal(raw, &out.Body[i])
		}
		if err != nil {
			return nil, fmt.Errorf("show an event of account %s: %w", in.ID, err)
		}
	}
	if len(found) == in.Limit {
		out.Link = fmt.Sprintf("</users/%s/events?after=%d&limit=%d>; rel=\"next\"", in.ID, found[len(found)-1].Version, in.Limit)
	}
	return out, nil
}
