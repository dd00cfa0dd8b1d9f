package events

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"colophon/model"
)

// State is the state of a job.
type State string

// The states of a job.
const (
	Queued    State = "queued"
	Running   State = "running"
	Completed State = "completed"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Final reports whether a job in this state has ended.
func (s State) Final() bool { return s == Completed || s == Failed || s == Cancelled }

// ErrIllegal occurs when a fact cannot follow the events before it.
var ErrIllegal = errors.New("the fact cannot follow")

// Job is the fold of a job's events. The zero Job has no events.
type Job struct {
	ID      uuid.UUID
	Owner   uuid.UUID
	Version int
	Hash    Hash // hash of the event of this version
	State   State
	Erased  bool // the ciphertext or the owner's key is gone, so Prompt, Params, Tokens, Text and Logprobs are empty

	// ErasedAt is the time at which the job was erased by itself. It is zero if the job was
	// not erased, and if its owner was erased with all of their jobs.
	ErasedAt time.Time

	Prompt       string
	PromptTokens int
	Params       model.Params
	Model        string
	AcceptedFor  string // digest of the weights that the job was accepted for or reassigned to; empty if any weights may run it
	Policy       string
	Watermark    Watermark   // zero for a text without a mark
	LogprobsOf   uuid.UUID   // job whose text this job computes again; zero for a job with a text of its own
	Group        []uuid.UUID // jobs of the same request, this one included; empty for a request for one text
	Template     string      // name of the chat template that made the prompt; empty without a template
	Request      string      // as in JobAccepted; empty if the job was erased
	EraseAtEnd   bool        // as in JobAccepted
	TextAt       time.Time   // as in JobAccepted
	Batch        BatchLine   // line of a batch that asked for the job, or zero
	Priority     int         // priority in the queue, from 1 (first) to 4 (last)
	Reserved     Reservation // share of the token budgets of the owner and of APIKey
	APIKey       uuid.UUID   // id of the API key that submitted the job, or zero

	Attempts int    // number of starts
	Weights  string // weights of the first start, which may differ from AcceptedFor; later starts need the same weights
	Kernel   string // kernel of the latest start
	Tokens   []int  // tokens generated so far
	TokensBy string // kernel that generated the last of these tokens
	Mixed    bool   // true if more than one kernel generated these tokens
	Text     string // the text of Tokens

	// Logprobs has the log probabilities of each of Tokens, if Params asks for them.
	Logprobs []model.TokenLogprobs

	ErasedTokens int // number of tokens that the erasure of the job has removed from Tokens

	FinishReason string // "stop", "length" or "content_filter" for a completed job, otherwise empty
	Usage        Usage  // usage of a completed job
	Timings      Timings
	Reason       string // reason of the latest failure or of the cancellation

	AcceptedAt   time.Time
	Deadline     time.Time // time at which an unfinished job is cancelled, or zero if the job has no deadline
	StartedAt    time.Time // time of the first start
	FirstTokenAt time.Time
	FinishedAt   time.Time
	ChangedAt    time.Time // time of the latest event
}

// Apply returns the job j with the event e applied to it. If e cannot follow the events
// of j, Apply returns j and ErrIllegal. It does not modify j's slices.
func (j Job) Apply(e Event) (Job, error) {
	if !j.allows(e) {
		return j, fmt.Errorf("%s %s@%d after version %d, state %q: %w", e.Fact.Type(), e.Stream, e.Version, j.Version, j.State, ErrIllegal)
	}
	j.Version, j.Hash, j.ChangedAt = e.Version, e.Hash, e.At
	j.Erased = j.Erased || e.Erased
	switch f := e.Fact.(type) {
	case JobAccepted:
		j.ID, j.Owner, j.State, j.AcceptedAt = e.Stream.ID(), e.Owner, Queued, e.At
		j.Prompt, j.PromptTokens, j.Model, j.AcceptedFor, j.Policy = f.Prompt, f.PromptTokens, f.Model, f.Weights, f.Policy
		j.Priority, j.Reserved, j.APIKey = max(1, f.Priority), f.Reserved, f.APIKey // events of the first release have no priority
		j.Params, j.Deadline, j.Watermark = f.Params, f.Deadline, f.Watermark
		j.Params.Stop, j.LogprobsOf, j.TextAt = f.Stop, f.LogprobsOf, f.TextAt
		j.Group, j.Template = f.Group, f.Template
		j.Request, j.EraseAtEnd, j.Batch = string(f.Request), f.EraseAtEnd, f.Batch
	case JobReassigned:
		j.AcceptedFor = f.Weights
	case JobStarted:
		if j.Attempts == 0 {
			j.StartedAt, j.Weights = e.At, f.Weights
		}
		j.State, j.Kernel, j.Attempts = Running, f.Kernel, j.Attempts+1
	case JobAdvanced:
		if j.FirstTokenAt.IsZero() {
			j.FirstTokenAt = e.At
		}
		if len(f.Tokens) > 0 {
			j.Mixed = j.Mixed || j.TokensBy != "" && j.TokensBy != j.Kernel
			j.TokensBy = j.Kernel
		}
		j.Tokens = append(slices.Clip(j.Tokens), f.Tokens...)
		j.Text += f.Text
		j.Logprobs = append(slices.Clip(j.Logprobs), f.Logprobs...)
	case JobCompleted:
		j.State, j.FinishedAt = Completed, e.At
		j.FinishReason, j.Usage, j.Timings = f.FinishReason, f.Usage, f.Timings
	case JobFailed:
		j.Reason = f.Reason
		j.State = Queued
		if f.Final {
			j.State, j.FinishedAt = Failed, e.At
		}
	case JobCancelled:
		j.State, j.FinishedAt, j.Reason = Cancelled, e.At, f.Reason
	case JobErased:
		// The result is the fold of the emptied events.
		j.Erased, j.ErasedAt, j.ErasedTokens, j.APIKey = true, e.At, f.CompletionTokens, f.APIKey
		j.Prompt, j.Params, j.Text, j.Tokens, j.Logprobs, j.Request = "", model.Params{}, "", nil, nil, ""
		j.TokensBy, j.Mixed = "", false
	}
	return j, nil
}

// RetainedFrom returns the time from which the retention of an ended job's text counts.
func (j Job) RetainedFrom() time.Time {
	if !j.TextAt.IsZero() {
		return j.TextAt
	}
	return j.FinishedAt
}

// Generated returns the number of tokens generated so far. It also counts the tokens of an
// erased job, but not those of an erased owner.
func (j Job) Generated() int { return max(len(j.Tokens), j.ErasedTokens) }

// allows reports whether e may be the next event of the job. All starts of a job have the
// same weights. The first start may have other weights than those that the job was accepted
// for, because earlier builds of a worker do not know these.
func (j Job) allows(e Event) bool {
	if e.Version != j.Version+1 || j.Version > 0 && (e.Stream != JobStream(j.ID) || e.Owner != j.Owner) {
		return false
	}
	switch f := e.Fact.(type) {
	case JobAccepted:
		return j.Version == 0
	case JobReassigned:
		return j.State == Queued && j.Weights == ""
	case JobStarted:
		return (j.State == Queued || j.State == Running) &&
			(f.FromToken == len(j.Tokens) || j.Erased) && (j.Weights == "" || j.Weights == f.Weights)
	case JobAdvanced, JobCompleted:
		return j.State == Running
	case JobFailed, JobCancelled:
		return j.State == Queued || j.State == Running
	case JobErased:
		return j.State.Final() && j.ErasedAt.IsZero() && f.CompletionTokens >= 0 && (f.CompletionTokens == len(j.Tokens) && f.APIKey == j.APIKey || j.Erased)
	}
	return false
}

// RunsOn reports whether weights may run the job. The text of a job that has started needs
// the weights of the start, in the same format, to the end. A job that has not started needs
// the weights that it was accepted for. Weights is a digest and a format, such as
// "sha256:248d…/f32".
func (j Job) RunsOn(weights string) bool {
	if j.Weights != "" {
		return j.Weights == weights
	}
	return j.AcceptedFor == "" || j.AcceptedFor == digest(weights)
}

// Needs returns the digest of the weights that the job's next attempt must have. It is empty
// if any weights may run the job.
func (j Job) Needs() string { return digest(cmp.Or(j.Weights, j.AcceptedFor)) }

// digest returns the digest of weights, without their format.
func digest(weights string) string {
	digest, _, _ := strings.Cut(weights, "/")
	return digest
}

// Fold applies events in order to the zero Job. If an event is illegal, Fold stops and
// returns the job before that event and ErrIllegal.
func Fold(events []Event) (Job, error) {
	var j Job
	var err error
	for _, e := range events {
		if j, err = j.Apply(e); err != nil {
			return j, err
		}
	}
	return j, nil
}
