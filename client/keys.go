package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// The scopes of an API key. No scope includes another one.
const (
	ScopeGenerate = "generate" // submits, cancels and erases jobs
	ScopeRead     = "read"     // reads jobs, events and the account
	ScopeAdmin    = "admin"    // does what the account's role allows with other accounts
)

// An APIKey is an API key of the user without its secret.
type APIKey struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Prefix      string    `json:"prefix"` // the first characters of the key
	Scopes      []string  `json:"scopes"`
	Generations int       `json:"generations_per_minute"` // the key's own limit, or 0
	Tokens      int       `json:"tokens_per_day"`         // the key's own budget, or 0
	CreatedAt   time.Time `json:"created_at"`
	ExpiresAt   time.Time `json:"expires_at"`   // zero if the key does not expire
	LastUsedAt  time.Time `json:"last_used_at"` // known a minute or two later; zero if the key was not used
}

// A KeyRequest describes an API key to create.
type KeyRequest struct {
	Name        string    `json:"name"`
	Scopes      []string  `json:"scopes,omitempty"`                 // generate and read if empty
	ExpiresAt   time.Time `json:"expires_at,omitzero"`              // zero for a key that does not expire
	Generations int       `json:"generations_per_minute,omitempty"` // the key's own limit, or 0
	Tokens      int       `json:"tokens_per_day,omitempty"`         // the key's own budget, or 0
}

// CreateKey creates an API key and returns its secret, which nobody can read again. It sends
// the request once, because a retry would leave a key without a holder if the answer to the
// first request was lost.
func (c *Client) CreateKey(ctx context.Context, r KeyRequest) (key *APIKey, secret string, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, "", fmt.Errorf("encode the key: %w", err)
	}
	request := &Request{Method: http.MethodPost, Path: "/keys", Body: body}
	resp, err := c.try(ctx, request)
	if err != nil {
		return nil, "", failed(request, err)
	}
	var created struct {
		APIKey
		Key string `json:"key"`
	}
	if err := json.Unmarshal(resp.Body, &created); err != nil || created.Key == "" {
		return nil, "", failed(request, fmt.Errorf("%w: no API key", ErrProtocol))
	}
	return &created.APIKey, created.Key, nil
}

// Keys returns the API keys of the user that are not revoked, the newest first.
func (c *Client) Keys(ctx context.Context) ([]APIKey, error) {
	var keys []APIKey
	_, err := c.call(ctx, &Request{Path: "/keys"}, &keys)
	return keys, err
}

// RevokeKey revokes an API key of the user by its id.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	_, err := c.Do(ctx, &Request{Method: http.MethodDelete, Path: "/keys/" + url.PathEscape(id)})
	return err
}
