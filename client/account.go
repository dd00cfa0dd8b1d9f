package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// A Session is a session of the user's account. It begins with a sign-in.
type Session struct {
	ID          string    `json:"id"`
	CreatedAt   time.Time `json:"created_at"`
	RefreshedAt time.Time `json:"refreshed_at"` // time at which the session last got new tokens
	ExpiresAt   time.Time `json:"expires_at"`   // time at which the session ends
	Current     bool      `json:"current"`      // true for the session of the client itself
}

// Sessions returns the user's sessions that have not ended, the newest first.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	var sessions []Session
	if _, err := c.call(ctx, &Request{Path: "/users/me/sessions"}, &sessions); err != nil {
		return nil, err
	}
	return sessions, nil
}

// EndSession ends one of the user's sessions. EndSession may be repeated.
func (c *Client) EndSession(ctx context.Context, id string) error {
	_, err := c.Do(ctx, &Request{Method: http.MethodDelete, Path: "/users/me/sessions/" + url.PathEscape(id)})
	return err
}

// A UsageReport says what the user's jobs have used.
type UsageReport struct {
	From   string     `json:"from"` // first day in UTC, in the form 2006-01-02
	To     string     `json:"to"`   // last day
	Days   []DayUsage `json:"days"` // every day from the first to the last
	Total  UsageSum   `json:"total"`
	Budget *Budget    `json:"budget"` // nil if the service limits no tokens
}

// A DayUsage says what the jobs that were accepted on one day have used.
type DayUsage struct {
	Day string `json:"day"` // day in UTC, in the form 2006-01-02
	UsageSum
}

// A UsageSum counts jobs, and their model tokens.
type UsageSum struct {
	Jobs             int   `json:"jobs"`
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"` // only of jobs that have ended
	TotalTokens      int64 `json:"total_tokens"`
}

// A Budget is the token budget of the user or an API key on the current day.
type Budget struct {
	Limit    int       `json:"limit"` // tokens that may be used per day (UTC)
	Used     int       `json:"used"`  // tokens that today's jobs have used or reserved
	Left     int       `json:"left"`
	ResetsAt time.Time `json:"resets_at"` // midnight UTC, when the budget of the next day begins
}

// Usage returns what the user's jobs have used on each of the days from one time to another,
// in UTC. There may be 31 days. If to is zero, the last day is today. If from is zero, the
// report has 30 days. The parameter key is the id of an API key, whose jobs alone are then
// counted, or "" for all jobs.
func (c *Client) Usage(ctx context.Context, from, to time.Time, key string) (*UsageReport, error) {
	query := map[string]string{}
	if key != "" {
		query["key"] = key
	}
	for name, day := range map[string]time.Time{"from": from, "to": to} {
		if !day.IsZero() {
			query[name] = day.UTC().Format(time.DateOnly)
		}
	}
	report := &UsageReport{}
	if _, err := c.call(ctx, &Request{Path: withQuery("/usage", query)}, report); err != nil {
		return nil, err
	}
	return report, nil
}

// Tokenize returns the tokens of a text for the model of new jobs. The text has at most 5,000
// characters.
func (c *Client) Tokenize(ctx context.Context, text string) ([]int, error) {
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return nil, fmt.Errorf("encode the text: %w", err)
	}
	var answer struct{ Tokens []int }
	if _, err := c.call(ctx, &Request{Method: http.MethodPost, Path: "/tokenize", Body: body}, &answer); err != nil {
		return nil, err
	}
	return answer.Tokens, nil
}
