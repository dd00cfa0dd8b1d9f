package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"
)

// PolicyRefused is the type of the event that follows a prompt that the text policy refused.
const PolicyRefused = "policy.refused"

// A FeedEvent is one fact about the user's account or one of the user's jobs. For the event
// of a job, the embedded Event has its fields.
type FeedEvent struct {
	Event

	Index  int64  `json:"index"`  // index in the log of all events, from 0; events of others are in between
	Stream string `json:"stream"` // job/ID or account/ID

	Erased  bool `json:"erased"`  // true if the texts are erased; the fields of the type are then empty
	Damaged bool `json:"damaged"` // true if the record is damaged; the fields of the type are then empty

	// Fields of the account's events.
	Username string `json:"username"`
	Session  string `json:"session"`
	Role     string `json:"role"`

	// Fields of the events of API keys. Key is the id of the key.
	Key          string    `json:"key"`
	Name         string    `json:"name"`
	Scopes       []string  `json:"scopes"`
	ExpiresAt    time.Time `json:"expires_at"`
	Generations  int       `json:"generations_per_minute"`
	TokensPerDay int       `json:"tokens_per_day"` // not Tokens, which are those of a job.advanced

	// Fields of the events of webhooks. Webhook is the id of the webhook, Host the host of its
	// URL, and Events has the types of the events that it hears of. Enabled and Disabled say
	// what the owner has changed. Reason says why the service has disabled a webhook.
	Webhook  string   `json:"webhook"`
	Host     string   `json:"host"`
	Events   []string `json:"events"`
	Enabled  bool     `json:"enabled"`
	Disabled bool     `json:"disabled"`

	// Rule is the code of the rule that a refused prompt broke, and Policy the version of the
	// text policy. The prompt itself is not on record.
	Rule string `json:"rule"`
}

// Job returns the id of the job whose event it is, or "" for an event of the account.
func (e *FeedEvent) Job() string {
	if id, ok := strings.CutPrefix(e.Stream, "job/"); ok {
		return id
	}
	return ""
}

// Feed yields the events of all of the user's jobs and of the account whose index is later
// than after, as they arrive. It yields each event exactly once, in the order of the log. With
// the index -1 it yields all events. It does not end by itself.
//
// Feed reconnects, resumes and fails as Follow does.
func (c *Client) Feed(ctx context.Context, after int64) iter.Seq2[FeedEvent, error] {
	return func(yield func(FeedEvent, error) bool) {
		f := &follower{client: c, path: "/events", first: -1, last: after, tries: tries{limit: c.tries}}
		f.take = func(m Message) error {
			var e FeedEvent
			if err := json.Unmarshal([]byte(m.Data), &e); err != nil {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if m.ID != strconv.FormatInt(e.Index, 10) {
				return fmt.Errorf("%w: event %d has the id %q", ErrProtocol, e.Index, m.ID)
			}
			if e.Index <= f.last {
				return fmt.Errorf("%w: event %d follows event %d", ErrProtocol, e.Index, f.last)
			}
			f.last = e.Index
			if !yield(e, nil) {
				return errDone
			}
			return nil
		}
		f.explainEmpty = func(context.Context) error { return errCut }
		if err := f.run(ctx); err != nil {
			yield(FeedEvent{}, failed(f.request(), err))
		}
	}
}
