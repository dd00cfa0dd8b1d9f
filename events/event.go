package events

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"

	"colophon/model"
)

// Stream names a sequence of events: "job/<uuid>" or "account/<uuid>".
type Stream string

// JobStream returns the stream of a job.
func JobStream(id uuid.UUID) Stream { return Stream("job/" + id.String()) }

// AccountStream returns the stream of an account.
func AccountStream(id uuid.UUID) Stream { return Stream("account/" + id.String()) }

// ID returns the UUID in the stream's name, or the zero UUID if the name has no valid
// UUID.
func (s Stream) ID() uuid.UUID {
	_, id, _ := strings.Cut(string(s), "/")
	u, err := uuid.Parse(id)
	if err != nil {
		return uuid.UUID{}
	}
	return u
}

// Event is a stored fact.
type Event struct {
	Stream  Stream
	Version int       // position in the stream, from 1
	Owner   uuid.UUID // id of the account whose key encrypts the fact
	At      time.Time // time of the append in UTC, to the microsecond, by the database's clock; never before the stream's previous event
	Fact    Fact
	Erased  bool // the ciphertext or the owner's key is gone, so the members of Fact that Secret names are zero
	Hash    Hash // hash of the stored payload; the next event of the stream contains it
}

// Secret returns the names of the fact's JSON members that are stored as ciphertext.
func (e Event) Secret() []string { return e.Fact.sealed() }

// Fact is the content of an event. Its type is one of the types below.
type Fact interface {
	// Type returns the name under which the fact is stored, such as "job.accepted".
	Type() string

	// sealed names the JSON members that are stored as ciphertext. The log contains only
	// commitments to them.
	sealed() []string
}

// These types are the facts of a job's stream.
type (
	// JobAccepted opens a job's stream with everything that determines the job's text.
	JobAccepted struct {
		Prompt       string       `json:"prompt"`
		Stop         []string     `json:"stop,omitempty"` // Params.Stop, stored apart because it is sealed
		Params       model.Params `json:"params"`
		PromptTokens int          `json:"prompt_tokens"`
		Model        string       `json:"model"`
		Weights      string       `json:"weights,omitempty"`  // digest of the weights that may run the job; empty if any weights may run it
		Policy       string       `json:"policy"`             // version of the rules that the prompt passed
		Priority     int          `json:"priority,omitempty"` // priority in the queue, from 1 (first) to 4 (last)
		Reserved     Reservation  `json:"reserved,omitzero"`  // tokens reserved of the budgets of the owner and of APIKey, or zero without a budget
		// APIKey is the id of the API key that submitted the job, or zero. It is sealed, so
		// that two receipts do not show that they come from one key.
		APIKey uuid.UUID `json:"api_key,omitzero"`
		// Deadline is the time at which the job is cancelled if it has not ended. It is
		// in UTC, to the microsecond, by the database's clock. Jobs of the first release
		// have no deadline.
		Deadline time.Time `json:"deadline,omitzero"`
		// Watermark says how the text is marked. It is zero for a text without a mark.
		Watermark Watermark `json:"watermark,omitzero"`
		// LogprobsOf is the job whose text this job computes again for its log probabilities.
		// It is zero for a job with a text of its own.
		LogprobsOf uuid.UUID `json:"logprobs_of,omitzero"`
		// TextAt is the end of the job that generated the text, if that is another job. It is
		// in UTC, to the microsecond. The text is kept for as long as that job's.
		TextAt time.Time `json:"text_at,omitzero"`
		// Group has the ids of the jobs of one request, in the order of its texts. They were
		// accepted in one transaction. It is empty for a request for one text.
		Group []uuid.UUID `json:"group,omitempty"`
		// Template is the name of the chat template that made the prompt from messages. It is
		// empty for a prompt that the client wrote itself.
		Template string `json:"template,omitempty"`
		// Request has what the operation that made the job must know later to answer about
		// it, such as the messages of the prompt. It is a JSON object whose form the
		// operation decides, with sorted members. It is empty for jobs of other operations.
		Request json.RawMessage `json:"request,omitempty"`
		// EraseAtEnd is set if the job is to be erased as soon as it has ended.
		EraseAtEnd bool `json:"erase_at_end,omitempty"`
		// Response is set for the job of a response of OpenAI's API: ResponseCapped if the
		// client chose the length of the text, and otherwise ResponseUncapped. It is in the
		// clear, because the database names the end of the response to webhooks by it.
		Response string `json:"response,omitempty"`
		// Batch is the line of a batch that asked for the job. It is zero for other jobs.
		Batch BatchLine `json:"batch,omitzero"`
	}

	// JobReassigned changes the weights that may run a queued job. The job has no tokens
	// yet.
	JobReassigned struct {
		Weights string `json:"weights"` // digest of the new weights
		By      string `json:"by"`      // "command" for the command line
	}

	// JobStarted records that a worker has started the job, or resumed it after
	// FromToken tokens.
	JobStarted struct {
		Attempt   int    `json:"attempt"`
		Worker    string `json:"worker"`
		FromToken int    `json:"from_token"`
		Weights   string `json:"weights"`          // digest of the model's weights, then a slash and their format
		Kernel    string `json:"kernel"`           // fingerprint of the arithmetic, such as "avx2-fma/1"
		Policy    string `json:"policy,omitempty"` // version of the rules that filter the text, or empty in events of the first release
	}

	// JobAdvanced adds generated tokens, and the text that is complete with these
	// tokens.
	JobAdvanced struct {
		Tokens []int  `json:"tokens"`
		Text   string `json:"text"`
		// Logprobs has the log probabilities of each of the tokens, if the parameters ask for
		// them.
		Logprobs []model.TokenLogprobs `json:"logprobs,omitempty"`
	}

	// JobCompleted ends a job whose text is complete.
	JobCompleted struct {
		FinishReason string  `json:"finish_reason"`
		Usage        Usage   `json:"usage"`
		Timings      Timings `json:"timings"`
	}

	// JobFailed ends an attempt. If Final is set, it also ends the job.
	JobFailed struct {
		Attempt int    `json:"attempt"`
		Reason  string `json:"reason"`
		Final   bool   `json:"final"`
	}

	// JobCancelled ends a job before its text is complete.
	JobCancelled struct {
		By     string `json:"by"` // "owner", "service" for a deadline, or "command" for the command line
		Reason string `json:"reason,omitempty"`
	}

	// JobErased records that the ciphertext of all other events of an ended job was emptied.
	// It ends the job's stream.
	JobErased struct {
		By string `json:"by"` // "owner", or "retention" for a text that was kept long enough

		// CompletionTokens is the number of generated tokens. The tokens themselves are gone.
		CompletionTokens int `json:"completion_tokens"`

		// APIKey is the API key that submitted the job, or zero. Its budget counts erased jobs
		// too, and the id in JobAccepted is gone. It is sealed as it was there.
		APIKey uuid.UUID `json:"api_key,omitzero"`
	}
)

// The values of JobAccepted.Response. A text that ends at its length is an incomplete response
// if the client chose the length, and a completed one if the service chose it. The database's
// function make_response_deliveries has them too.
const (
	ResponseCapped   = "capped"
	ResponseUncapped = "uncapped"
)

// BatchLine names a line of a batch. The ids of the jobs that a line has made are on record in
// their job.accepted, so no row decides which line a job belongs to.
type BatchLine struct {
	ID   uuid.UUID `json:"id"`   // id of the batch
	Line int       `json:"line"` // number of the line in the input, from 1
}

// Watermark says how a text is marked. Nobody can execute a marked text again without the
// key.
type Watermark struct {
	Key        string `json:"key"`        // id of the owner's watermark key
	Parameters string `json:"parameters"` // name and version of the scheme, such as "gumbel-h3-s8/1"
}

// Usage counts model tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// Timings are durations of a completed job in milliseconds.
type Timings struct {
	QueuedMS     int64 `json:"queued_ms"`      // milliseconds from the job's acceptance to its first start
	FirstTokenMS int64 `json:"first_token_ms"` // milliseconds from the job's acceptance to its first appended token
	TotalMS      int64 `json:"total_ms"`       // milliseconds from the job's acceptance to its completion
}

// These types are the facts of an account's stream.
type (
	// AccountRegistered opens an account's stream.
	AccountRegistered struct {
		Username string `json:"username"`
	}

	// AccountSignedIn records a sign-in with the right password.
	AccountSignedIn struct {
		Session uuid.UUID `json:"session"`
	}

	// AccountSignInFailed records a wrong password.
	AccountSignInFailed struct{}

	// AccountSignedOut records that a client ended the session, or that a newer
	// session replaced it.
	AccountSignedOut struct {
		Session uuid.UUID `json:"session"`
	}

	// AccountTokenReuseDetected records that a refresh token was used a second time,
	// and that its session was therefore ended.
	AccountTokenReuseDetected struct {
		Session uuid.UUID `json:"session"`
	}

	// AccountKeyRotated records that a new key signs access tokens from the time From
	// on. The event belongs to the service and to no user, so it is appended to the
	// stream of the zero account, whose id is the nil UUID.
	AccountKeyRotated struct {
		Key    string    `json:"key"`    // the id of the new key
		From   time.Time `json:"from"`   // time in UTC, to the microsecond, from which the new key signs
		Leaked bool      `json:"leaked"` // true if access tokens signed by earlier keys are refused
	}

	// AccountSignedOutEverywhere records that all sessions were ended.
	AccountSignedOutEverywhere struct {
		By string `json:"by,omitempty"` // "command" for the command line, empty for the owner
	}

	// AccountPasswordChanged records a new password. All sessions were ended, except
	// Session, in which the owner changed the password.
	AccountPasswordChanged struct {
		Session uuid.UUID `json:"session,omitzero"`
		By      string    `json:"by,omitempty"` // "command" for the command line, empty for the owner
	}

	// AccountRoleChanged records the account's new role.
	AccountRoleChanged struct {
		Role string `json:"role"`
		By   string `json:"by"` // id of the account that made the change, or "command" for the command line
	}

	// AccountDisabled records that the account can no longer sign in, that all sessions
	// were ended and that all API keys were revoked.
	AccountDisabled struct {
		By string `json:"by"`
	}

	// AccountEnabled reverses AccountDisabled, but the account's ended sessions stay
	// ended and its API keys revoked.
	AccountEnabled struct {
		By string `json:"by"`
	}

	// AccountErased records that the account was erased. It ends the account's stream.
	AccountErased struct {
		By string `json:"by,omitempty"` // "command" for the command line, empty for the owner
	}

	// KeyCreated records a new API key. Neither its secret nor a hash of it is on record.
	KeyCreated struct {
		Key         uuid.UUID `json:"key"`
		Name        string    `json:"name"`
		Scopes      []string  `json:"scopes"`
		Expires     time.Time `json:"expires_at,omitzero"`              // time in UTC, to the microsecond, from which the key is refused
		Generations int       `json:"generations_per_minute,omitempty"` // the key's own limit, or 0
		Tokens      int       `json:"tokens_per_day,omitempty"`         // the key's own budget, or 0
		By          string    `json:"by,omitempty"`                     // "command" for the command line, empty for the owner
	}

	// KeyRevoked records that an API key was revoked. AccountDisabled and AccountErased
	// revoke all keys of the account.
	KeyRevoked struct {
		Key uuid.UUID `json:"key"`
		By  string    `json:"by,omitempty"` // "command" for the command line, "holder" for somebody who presented the key, empty for the owner
	}

	// PolicyRefused records that the text policy refused a prompt of the account. It has
	// nothing of the prompt.
	PolicyRefused struct {
		Policy string `json:"policy"` // version of the rules that refused the prompt
		Rule   string `json:"rule"`   // code of the rule, such as "prompt_word"
	}

	// WebhookCreated records a new webhook. None of its keys is on record.
	WebhookCreated struct {
		Webhook uuid.UUID `json:"webhook"`
		Host    string    `json:"host"`   // host of the URL; the rest may be a secret
		Events  []string  `json:"events"` // types of the events that it hears of
	}

	// WebhookUpdated records a change of a webhook. Host and Events are those after it.
	WebhookUpdated struct {
		Webhook  uuid.UUID `json:"webhook"`
		Host     string    `json:"host"`
		Events   []string  `json:"events"`
		Enabled  bool      `json:"enabled,omitempty"`  // the webhook was disabled before
		Disabled bool      `json:"disabled,omitempty"` // the owner has disabled it
	}

	// WebhookSecretRotated records that a webhook got new keys.
	WebhookSecretRotated struct {
		Webhook uuid.UUID `json:"webhook"`
	}

	// WebhookDisabled records that the service has disabled a webhook.
	WebhookDisabled struct {
		Webhook uuid.UUID `json:"webhook"`
		Reason  string    `json:"reason"` // "gone" for an answer of 410, or "failures" for days of failed attempts
	}

	// WebhookDeleted records that a webhook was deleted. AccountErased deletes all webhooks
	// of the account.
	WebhookDeleted struct {
		Webhook uuid.UUID `json:"webhook"`
	}
)

func (JobAccepted) Type() string                { return "job.accepted" }
func (JobReassigned) Type() string              { return "job.reassigned" }
func (JobStarted) Type() string                 { return "job.started" }
func (JobAdvanced) Type() string                { return "job.advanced" }
func (JobCompleted) Type() string               { return "job.completed" }
func (JobFailed) Type() string                  { return "job.failed" }
func (JobCancelled) Type() string               { return "job.cancelled" }
func (JobErased) Type() string                  { return "job.erased" }
func (AccountRegistered) Type() string          { return "account.registered" }
func (AccountSignedIn) Type() string            { return "account.signed_in" }
func (AccountSignInFailed) Type() string        { return "account.sign_in_failed" }
func (AccountSignedOut) Type() string           { return "account.signed_out" }
func (AccountTokenReuseDetected) Type() string  { return "account.token_reuse_detected" }
func (AccountKeyRotated) Type() string          { return "account.key_rotated" }
func (AccountSignedOutEverywhere) Type() string { return "account.signed_out_everywhere" }
func (AccountPasswordChanged) Type() string     { return "account.password_changed" }
func (AccountRoleChanged) Type() string         { return "account.role_changed" }
func (AccountDisabled) Type() string            { return "account.disabled" }
func (AccountEnabled) Type() string             { return "account.enabled" }
func (AccountErased) Type() string              { return "account.erased" }
func (KeyCreated) Type() string                 { return "key.created" }
func (KeyRevoked) Type() string                 { return "key.revoked" }
func (PolicyRefused) Type() string              { return "policy.refused" }
func (WebhookCreated) Type() string             { return "webhook.created" }
func (WebhookUpdated) Type() string             { return "webhook.updated" }
func (WebhookSecretRotated) Type() string       { return "webhook.secret_rotated" }
func (WebhookDisabled) Type() string            { return "webhook.disabled" }
func (WebhookDeleted) Type() string             { return "webhook.deleted" }

func (JobAccepted) sealed() []string {
	return []string{"prompt", "stop", "params", "api_key", "request"}
}
func (JobReassigned) sealed() []string              { return nil }
func (JobStarted) sealed() []string                 { return nil }
func (JobAdvanced) sealed() []string                { return []string{"tokens", "text", "logprobs"} }
func (JobCompleted) sealed() []string               { return nil }
func (JobFailed) sealed() []string                  { return nil }
func (JobCancelled) sealed() []string               { return nil }
func (JobErased) sealed() []string                  { return []string{"api_key"} }
func (AccountRegistered) sealed() []string          { return []string{"username"} }
func (AccountSignedIn) sealed() []string            { return nil }
func (AccountSignInFailed) sealed() []string        { return nil }
func (AccountSignedOut) sealed() []string           { return nil }
func (AccountTokenReuseDetected) sealed() []string  { return nil }
func (AccountKeyRotated) sealed() []string          { return nil }
func (AccountSignedOutEverywhere) sealed() []string { return nil }
func (AccountPasswordChanged) sealed() []string     { return nil }
func (AccountRoleChanged) sealed() []string         { return nil }
func (AccountDisabled) sealed() []string            { return nil }
func (AccountEnabled) sealed() []string             { return nil }
func (AccountErased) sealed() []string              { return nil }
func (KeyCreated) sealed() []string                 { return []string{"name"} }
func (KeyRevoked) sealed() []string                 { return nil }
func (PolicyRefused) sealed() []string              { return nil }
func (WebhookCreated) sealed() []string             { return []string{"host"} }
func (WebhookUpdated) sealed() []string             { return []string{"host"} }
func (WebhookSecretRotated) sealed() []string       { return nil }
func (WebhookDisabled) sealed() []string            { return nil }
func (WebhookDeleted) sealed() []string             { return nil }
