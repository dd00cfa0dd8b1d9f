package events

import (
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

// ID returns the id behind the stream's kind, or the zero UUID if there is none.
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
	Version int       // place in the stream, from 1
	Owner   uuid.UUID // whose key seals it
	At      time.Time // UTC, to the microsecond, by the clock of the process that appended it
	Fact    Fact
	Erased  bool // the owner's key is gone, so the sealed members of Fact are zero
}

// Fact is the content of an event: one of the types of this file.
type Fact interface {
	// Type returns the name under which the fact is stored, such as "job.accepted".
	Type() string

	// sealed names the JSON members that are stored as ciphertext.
	sealed() []string
}

// The facts of a job's stream.
type (
	// JobAccepted opens a job's stream with all that determines its text.
	JobAccepted struct {
		Prompt       string       `json:"prompt"`
		Stop         []string     `json:"stop,omitempty"` // Params.Stop, apart from the others because it is the owner's text
		Params       model.Params `json:"params"`
		PromptTokens int          `json:"prompt_tokens"`
		Model        string       `json:"model"`
		Policy       string       `json:"policy"`             // version of the rules that the prompt passed
		Priority     int          `json:"priority,omitempty"` // in the queue: 1, which is first, to 4
		Reserved     Reservation  `json:"reserved,omitzero"`  // zero if its owner had no token budget
		// Deadline is when the job ends whatever it has come to, UTC, to the
		// microsecond, by the database's clock. Jobs of the first release have none.
		Deadline time.Time `json:"deadline,omitzero"`
	}

	// JobStarted says that a worker has taken the job up, at the token after
	// those already there.
	JobStarted struct {
		Attempt   int    `json:"attempt"`
		Worker    string `json:"worker"`
		FromToken int    `json:"from_token"`
		Weights   string `json:"weights"`
		Kernel    string `json:"kernel"`
		Policy    string `json:"policy,omitempty"` // version of the rules that the text is held to; none in the first release
	}

	// JobAdvanced adds tokens, and the text that they complete.
	JobAdvanced struct {
		Tokens []int  `json:"tokens"`
		Text   string `json:"text"`
	}

	// JobCompleted ends a job that has its text.
	JobCompleted struct {
		FinishReason string  `json:"finish_reason"`
		Usage        Usage   `json:"usage"`
		Timings      Timings `json:"timings"`
	}

	// JobFailed ends an attempt, and the job if Final.
	JobFailed struct {
		Attempt int    `json:"attempt"`
		Reason  string `json:"reason"`
		Final   bool   `json:"final"`
	}

	// JobCancelled ends a job that nobody wants any longer.
	JobCancelled struct {
		By     string `json:"by"` // who ended it: "owner", or "service" for a deadline
		Reason string `json:"reason,omitempty"`
	}
)

// Usage counts model tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// Timings says where the time of a job went, in milliseconds.
type Timings struct {
	QueuedMS     int64 `json:"queued_ms"`      // from accepted to the first start
	FirstTokenMS int64 `json:"first_token_ms"` // from accepted to the first token on record
	TotalMS      int64 `json:"total_ms"`       // from accepted to completed
}

// The facts of an account's stream.
type (
	// AccountRegistered opens an account's stream.
	AccountRegistered struct {
		Username string `json:"username"`
	}

	// AccountSignedIn says that the password was right.
	AccountSignedIn struct {
		Session uuid.UUID `json:"session"`
	}

	// AccountSignInFailed says that the password was wrong.
	AccountSignInFailed struct{}

	// AccountSignedOut says that the session was ended by whoever had it, or made
	// room for another one.
	AccountSignedOut struct {
		Session uuid.UUID `json:"session"`
	}

	// AccountTokenReuseDetected says that a refresh token was presented a
	// second time, and that its session was ended for it.
	AccountTokenReuseDetected struct {
		Session uuid.UUID `json:"session"`
	}

	// AccountKeyRotated says, on the stream of the zero account, that access
	// tokens are signed with another key from a time on (UTC, to the
	// microsecond); and, if Leaked, that those of earlier ones are refused.
	AccountKeyRotated struct {
		Key    string    `json:"key"` // its id
		From   time.Time `json:"from"`
		Leaked bool      `json:"leaked"`
	}

	// AccountSignedOutEverywhere says that all sessions were ended.
	AccountSignedOutEverywhere struct {
		By string `json:"by,omitempty"` // "command" for the command line, or nobody but the owner
	}

	// AccountPasswordChanged says that the password is another one, and that
	// all sessions were ended: but the one in which its owner changed it, if it
	// was not somebody else who did.
	AccountPasswordChanged struct {
		Session uuid.UUID `json:"session,omitzero"`
		By      string    `json:"by,omitempty"` // "command" for the command line, or nobody but the owner
	}

	// AccountRoleChanged says what the account may do from now on.
	AccountRoleChanged struct {
		Role string `json:"role"`
		By   string `json:"by"` // the id of an account, or "command" for the command line
	}

	// AccountDisabled says that nobody can sign in any longer, and that all
	// sessions were ended.
	AccountDisabled struct {
		By string `json:"by"`
	}

	// AccountEnabled reverses AccountDisabled, except for the sessions.
	AccountEnabled struct {
		By string `json:"by"`
	}

	// AccountErased ends an account's stream: its owner wanted it so, and did it
	// himself or had it done.
	AccountErased struct {
		By string `json:"by,omitempty"` // "command" for the command line, or nobody but the owner
	}
)

func (JobAccepted) Type() string                { return "job.accepted" }
func (JobStarted) Type() string                 { return "job.started" }
func (JobAdvanced) Type() string                { return "job.advanced" }
func (JobCompleted) Type() string               { return "job.completed" }
func (JobFailed) Type() string                  { return "job.failed" }
func (JobCancelled) Type() string               { return "job.cancelled" }
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

func (JobAccepted) sealed() []string                { return []string{"prompt", "stop"} }
func (JobStarted) sealed() []string                 { return nil }
func (JobAdvanced) sealed() []string                { return []string{"tokens", "text"} }
func (JobCompleted) sealed() []string               { return nil }
func (JobFailed) sealed() []string                  { return nil }
func (JobCancelled) sealed() []string               { return nil }
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
