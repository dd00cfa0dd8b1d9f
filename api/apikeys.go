package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/internal/auth"
)

// APIKey is an API key as its owner sees it. It does not have the secret.
type APIKey struct {
	ID          uuid.UUID  `json:"id" format:"uuid" doc:"The id of the key."`
	Name        string     `json:"name" doc:"The name that the owner gave it."`
	Prefix      string     `json:"prefix" example:"sk-colophon-q7Xz" doc:"The first characters of the key."`
	Scopes      []string   `json:"scopes" enum:"generate,read,admin" nullable:"false" doc:"What the key may do."`
	Generations int        `json:"generations_per_minute,omitempty" doc:"The key's own limit. Missing if it has only the service's."`
	Tokens      int        `json:"tokens_per_day,omitempty" doc:"The key's own budget. Missing if it has none."`
	CreatedAt   time.Time  `json:"created_at" doc:"When the key was created."`
	ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"When the key expires. Missing if it does not. An expired key stays in the list until it is revoked or a new key needs its room."`
	LastUsedAt  *time.Time `json:"last_used_at,omitempty" doc:"When the key was last used, known a minute or two later. Missing if it was not."`
}

func apiKeyBody(k auth.APIKey) APIKey {
	scopes := make([]string, len(k.Scopes))
	for i, scope := range k.Scopes {
		scopes[i] = string(scope)
	}
	return APIKey{
		ID: k.ID, Name: k.Name, Prefix: k.Prefix, Scopes: scopes, Generations: k.Generations, Tokens: k.Tokens,
		CreatedAt: k.CreatedAt, ExpiresAt: optional(k.Expires), LastUsedAt: optional(k.LastUsedAt),
	}
}

// CreatedAPIKey is a new API key with its secret.
type CreatedAPIKey struct {
	APIKey
	Key string `json:"key" doc:"The API key itself. Keep it now: nobody can read it again."`
}

type createKeyInput struct {
	Body struct {
		Name        string     `json:"name" minLength:"1" maxLength:"100" example:"night shift" doc:"What the key is for. Printable characters, without spaces at the ends."`
		Scopes      []string   `json:"scopes,omitempty" enum:"generate,read,admin" minItems:"1" maxItems:"3" doc:"What the key may do; generate and read if missing. generate submits, cancels and erases jobs, read reads jobs, events and the account, and admin does what the account's role allows with other accounts. No scope includes another one."`
		ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"When the key expires (RFC 3339). Without it, the key does not expire."`
		Generations int        `json:"generations_per_minute,omitempty" minimum:"1" maximum:"1000000" doc:"The key's own limit of texts, by all operations that make some. The service's limit per key applies if it is lower."`
		Tokens      int        `json:"tokens_per_day,omitempty" minimum:"1" maximum:"1000000000" doc:"The key's own budget of tokens per day (UTC), of prompts and completions together. It counts beside the user's budget, and in the same way."`
	}
}

type createKeyOutput struct{ Body CreatedAPIKey }

type listKeysOutput struct{ Body []APIKey }

type keyInput struct {
	ID uuid.UUID `path:"id" format:"uuid" doc:"The key's id, not the key itself."`
}

// apiKeys registers the operations on the caller's API keys.
func (s *server) apiKeys() {
	register(s, huma.Operation{
		OperationID: "create-key", Method: http.MethodPost, Path: "/keys", Tags: []string{"accounts"},
		DefaultStatus: http.StatusCreated,
		Summary:       "Create an API key",
		Description: "An API key is sent as an access token is (Authorization: Bearer), and does not need to be refreshed. It has the form sk-colophon- and 38 letters and digits, the last six of which are a checksum, so that secret scanners recognise it. " +
			"The answer is the only one that has the key itself. If it is lost, revoke the key and create another one; there is no Idempotency-Key for this reason. " +
			"An account has at most 100 keys, beyond which the answer is 409 too_many_keys. " +
			"With an API key, POST /generate and POST /jobs are counted per key and not per user.",
		Security: private(),
		Metadata: limited("token"),
		Errors:   []int{http.StatusConflict},
	}, s.createKey)
	register(s, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: "/keys", Tags: []string{"accounts"},
		Summary:     "List your API keys, the newest first",
		Description: "Revoked keys are not in the list.",
		Security:    private(),
	}, s.listKeys)
	register(s, huma.Operation{
		OperationID: "revoke-key", Method: http.MethodDelete, Path: "/keys/{id}", Tags: []string{"accounts"},
		DefaultStatus: http.StatusNoContent,
		Summary:       "Revoke an API key",
		Description: "Every process that reaches the database refuses the key within two seconds, and ends the streams and waits that were opened with it. Jobs go on. " +
			"A person who finds a key can revoke it too: POST /revoke takes the key as its token.",
		Security: private(),
		Errors:   []int{http.StatusNotFound},
	}, func(ctx context.Context, in *keyInput) (*struct{}, error) {
		id := caller(ctx).Account
		return nil, s.Auth.RevokeKey(ctx, id, id, in.ID)
	})
}

func (s *server) createKey(ctx context.Context, in *createKeyInput) (*createKeyOutput, error) {
	o := auth.KeyOptions{Name: in.Body.Name, Scopes: []auth.Scope{auth.ScopeGenerate, auth.ScopeRead}, Generations: in.Body.Generations, Tokens: in.Body.Tokens}
	if len(in.Body.Scopes) > 0 {
		o.Scopes = make([]auth.Scope, len(in.Body.Scopes))
		for i, scope := range in.Body.Scopes {
			o.Scopes[i] = auth.Scope(scope)
		}
	}
	if in.Body.ExpiresAt != nil {
		o.Expires = in.Body.ExpiresAt.UTC()
		switch year := o.Expires.Year(); {
		case year <= 1: // the zero time would mean that the key never expires
			return nil, s.problemOf(ctx, auth.ErrKeyExpired).at("body.expires_at")
		case year > 9999: // has no form in RFC 3339
			return nil, newProblem(http.StatusUnprocessableEntity, "invalid_request", "body.expires_at: expected a year up to 9999 (UTC)").at("body.expires_at")
		}
	}
	id := caller(ctx)
	key, secret, err := s.Auth.CreateKey(ctx, id.Session, id.Account, o)
	if errors.Is(err, auth.ErrForbidden) {
		return nil, s.problemOf(ctx, err).at("body.scopes")
	}
	if err != nil {
		return nil, err
	}
	return &createKeyOutput{CreatedAPIKey{apiKeyBody(key), secret}}, nil
}

func (s *server) listKeys(ctx context.Context, _ *struct{}) (*listKeysOutput, error) {
	keys, err := s.Auth.APIKeys(ctx, caller(ctx).Account)
	if err != nil {
		return nil, err
	}
	out := &listKeysOutput{Body: make([]APIKey, len(keys))}
	for i, k := range keys {
		out.Body[i] = apiKeyBody(k)
	}
	return out, nil
}
