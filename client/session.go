package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// An Account is a user of the service.
type Account struct {
	ID       string `json:"id"`
	Username string `json:"username"`
}

// Tokens continue a session. They are secrets.
type Tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// Register creates an account. It does not sign the client in.
func (c *Client) Register(ctx context.Context, username, password string) (*Account, error) {
	body, err := json.Marshal(map[string]string{"username": username, "password": password})
	if err != nil {
		return nil, fmt.Errorf("encode the account: %w", err)
	}
	account := &Account{}
	if _, err := c.call(ctx, &Request{Method: http.MethodPost, Path: "/users", Body: body, anonymous: true}, account); err != nil {
		return nil, err
	}
	return account, nil
}

// SignIn starts a session of a user for later calls of the client. The client keeps the
// password and signs in again when the session has ended. If SignIn returns an error, the
// client keeps its earlier session.
func (c *Client) SignIn(ctx context.Context, username, password string) error {
	tokens, err := askTokens(func(r *Request) (*Response, error) { return c.Do(ctx, r) }, signIn(username, password))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = session{username: username, password: password, tokens: tokens}
	return nil
}

// Tokens returns the tokens of the session. The tokens change whenever the client renews
// them. To continue the session later with Options.Tokens, save the tokens after the last
// call.
func (c *Client) Tokens() Tokens {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.tokens
}

// session holds the credentials of a client. It is zero if the client has no user.
type session struct {
	username, password string // "" if the client was given only tokens
	tokens             Tokens
	key                string // the API key, which replaces an access token; "" if there is none
}

// renewable reports whether the session can get new tokens.
func (s session) renewable() bool { return s.tokens.Refresh != "" || s.password != "" }

// A renewal is a request for new tokens of a session. All calls of the session share one
// renewal.
type renewal struct {
	of   session
	done chan struct{} // closed when the renewal has ended
	err  error
}

// access returns the API key or the access token to send. If the session has neither yet,
// access requests a token. Without a user it returns "".
func (c *Client) access(ctx context.Context) (string, error) {
	c.mu.Lock()
	sent := cmp.Or(c.session.key, c.session.tokens.Access)
	c.mu.Unlock()
	if sent != "" {
		return sent, nil
	}
	return c.renew(ctx, "")
}

// renew returns an access token that replaces a refused one. This is the token that
// another call has received meanwhile, or a new token. If the session cannot be renewed,
// renew returns the refused token. Concurrent calls share one request for tokens. The
// request continues after their contexts end, because the refresh token may then be used
// up, so the answer must not be lost.
func (c *Client) renew(ctx context.Context, refused string) (string, error) {
	c.mu.Lock()
	if current := cmp.Or(c.session.key, c.session.tokens.Access); current != refused || !c.session.renewable() {
		defer c.mu.Unlock()
		return current, nil
	}
	r := c.renewal
	if r == nil || r.of != c.session {
		r = &renewal{of: c.session, done: make(chan struct{})}
		c.renewal = r
		go c.run(context.WithoutCancel(ctx), r)
	}
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-r.done:
		return c.Tokens().Access, r.err
	}
}

// run gets new tokens, with one try for each kind of credential. It does not retry,
// because the calls that wait for the renewal retry by themselves.
func (c *Client) run(ctx context.Context, r *renewal) {
	tokens, err := c.newTokens(ctx, r.of)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.session == r.of { // no SignIn has replaced the user meanwhile
		c.session.tokens = tokens
	}
	if c.renewal == r {
		c.renewal = nil
	}
	r.err = err
	close(r.done)
}

// newTokens requests tokens with the refresh token of a session. If the refresh token is
// missing or refused, newTokens uses the password.
func (c *Client) newTokens(ctx context.Context, of session) (tokens Tokens, err error) {
	once := func(r *Request) (*Response, error) {
		resp, err := c.try(ctx, r)
		if err != nil {
			return nil, failed(r, err)
		}
		return resp, nil
	}
	if of.tokens.Refresh != "" {
		tokens, err = askTokens(once, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {of.tokens.Refresh}})
		p, ok := errors.AsType[*Problem](err)
		if refused := ok && (p.Status == http.StatusUnauthorized || p.Status == http.StatusBadRequest); !refused || of.password == "" {
			return tokens, err
		}
	}
	return askTokens(once, signIn(of.username, of.password))
}

func signIn(username, password string) url.Values {
	return url.Values{"grant_type": {"password"}, "username": {username}, "password": {password}}
}

// askTokens sends an OAuth2 token request and returns the tokens.
func askTokens(send func(*Request) (*Response, error), form url.Values) (tokens Tokens, err error) {
	r := &Request{Method: http.MethodPost, Path: "/token", Body: []byte(form.Encode()), anonymous: true}
	r.setHeader("Content-Type", "application/x-www-form-urlencoded")
	resp, err := send(r)
	if err != nil {
		return tokens, err
	}
	if err := json.Unmarshal(resp.Body, &tokens); err != nil {
		return tokens, failed(r, fmt.Errorf("%w: %w", ErrProtocol, err))
	}
	if tokens.Access == "" {
		return tokens, failed(r, fmt.Errorf("%w: no access token", ErrProtocol))
	}
	return tokens, nil
}
