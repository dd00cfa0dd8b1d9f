package api

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"colophon/events"
	"colophon/internal/auth"
)

// EventBody is an event of a job as clients see it. Version, type and time are always
// present. The type decides which other members are present. The events of an erased job lack
// prompt, stop, params, request, tokens, text and logprobs.
type EventBody struct {
	Version int       `json:"version" minimum:"1" doc:"The position of the event in the job's stream, from 1. It is the id of the SSE message."`
	Type    string    `json:"type" enum:"job.accepted,job.reassigned,job.started,job.advanced,job.completed,job.failed,job.cancelled,job.erased" doc:"The type of the event, which decides which other members it has."`
	At      time.Time `json:"at" doc:"When the event happened, by the clock of the database."`

	Prompt       string             `json:"prompt,omitempty" doc:"The text to continue."`
	Stop         []string           `json:"stop,omitempty" doc:"The text ends before the first of these strings."`
	Params       any                `json:"params,omitempty" doc:"The values that determine the text, as in a job."`
	PromptTokens int                `json:"prompt_tokens,omitempty" doc:"The number of tokens of the prompt."`
	Model        string             `json:"model,omitempty" doc:"The name of the model."`
	Policy       string             `json:"policy,omitempty" doc:"The version of the text policy: in job.accepted that which the prompt passed, in job.started that which applies to the text."`
	Priority     int                `json:"priority,omitempty" minimum:"1" maximum:"4" doc:"The priority in the queue; 1 goes first. It grows with the number of the owner's outstanding jobs."`
	Reserved     *Reserved          `json:"reserved,omitempty" doc:"What was reserved from the token budgets of the owner and of the API key, if there is one."`
	APIKey       *uuid.UUID         `json:"api_key,omitempty" format:"uuid" doc:"The id of the API key that submitted the job. Missing without one."`
	Deadline     *time.Time         `json:"deadline,omitempty" doc:"When the job is cancelled unless it has ended."`
	Watermark    *Watermark         `json:"watermark,omitempty" doc:"How the text is marked. Missing if the text has no mark."`
	Group        []uuid.UUID        `json:"group,omitempty" doc:"The ids of all jobs of the same request, in the order of its texts. Missing if the request was for one text."`
	Template     string             `json:"template,omitempty" doc:"The chat template that made the prompt from messages, such as plain. Missing if the client wrote the prompt."`
	Request      any                `json:"request,omitempty" doc:"What the operation of OpenAI's API that made the job must know later, such as the messages of the prompt. Its members are not part of the API."`
	EraseAtEnd   bool               `json:"erase_at_end,omitempty" doc:"Whether the job is erased when it has ended."`
	Response     string             `json:"response,omitempty" enum:"capped,uncapped" doc:"Whether the client chose the length of the text, for the job of a response of OpenAI's API. Missing for other jobs."`
	Batch        *BatchLine         `json:"batch,omitempty" doc:"The line of a batch that asked for the job. Missing for other jobs."`
	LogprobsOf   *uuid.UUID         `json:"logprobs_of,omitempty" format:"uuid" doc:"The job whose text this job computes again for its log probabilities."`
	TextAt       *time.Time         `json:"text_at,omitempty" doc:"When the job that generated the text ended, if that is another job. The text is kept for as long as that job's."`
	Attempt      int                `json:"attempt,omitempty" doc:"The number of the attempt, from 1."`
	Worker       string             `json:"worker,omitempty" doc:"The worker that started the job."`
	FromToken    int                `json:"from_token,omitempty" doc:"The number of tokens already on record."`
	Weights      string             `json:"weights,omitempty" doc:"The digest of the weights: in job.accepted and job.reassigned of those that may run the job, any if it is missing; in job.started with their format."`
	Kernel       string             `json:"kernel,omitempty" doc:"The fingerprint of the arithmetic."`
	Tokens       []int              `json:"tokens,omitempty" doc:"The new token ids. Empty if the text ends inside a token, before a refused word."`
	Text         string             `json:"text,omitempty" doc:"The text that the new tokens complete."`
	Logprobs     []RecordedLogprobs `json:"logprobs,omitempty" doc:"The log probabilities of each of the tokens, if the request asked for them."`
	FinishReason string             `json:"finish_reason,omitempty" enum:"stop,length,content_filter" doc:"Why the text ends, as in a job."`
	Usage        *Usage             `json:"usage,omitempty" doc:"The tokens of the job."`
	Timings      *TimingBody        `json:"timings,omitempty" doc:"The durations of the stages of the job."`
	Reason       string             `json:"reason,omitempty" doc:"Why the attempt failed, or why the job was cancelled. In GET /events, also why a webhook was disabled."`
	Final        bool               `json:"final,omitempty" doc:"Whether the job has ended; false if it will be tried again."`
	By           string             `json:"by,omitempty" doc:"Who caused it: owner, service or command; for job.erased also retention, if the service keeps texts for a limited time."`

	CompletionTokens int `json:"completion_tokens,omitempty" doc:"The number of generated tokens."`
}

// RecordedLogprobs are the log probabilities of one position of a text, as they are on record.
type RecordedLogprobs struct {
	Logprob float32           `json:"logprob" doc:"The log probability of the generated token."`
	Top     []RecordedLogprob `json:"top,omitempty" doc:"The likeliest tokens, highest first."`
}

// RecordedLogprob is a token with its log probability, as they are on record.
type RecordedLogprob struct {
	Token   int     `json:"token" doc:"The id of the token."`
	Logprob float32 `json:"logprob" doc:"The natural logarithm of its probability."`
}

// BatchLine names a line of a batch.
type BatchLine struct {
	ID   uuid.UUID `json:"id" format:"uuid" doc:"The id of the batch. In OpenAI's API it has the prefix batch_."`
	Line int       `json:"line" minimum:"1" doc:"The number of the line in the input, from 1."`
}

// Reserved is a part of a token budget.
type Reserved struct {
	Day    string `json:"day" format:"date" doc:"The day (UTC) whose budget it is, whenever the job ends."`
	Tokens int    `json:"tokens" doc:"The tokens of the prompt and of the longest continuation. Unused ones are given back when the job ends."`
}

// TimingBody has the durations of the stages of a job.
type TimingBody struct {
	QueuedMS     int64 `json:"queued_ms" doc:"Milliseconds from accepted to started."`
	FirstTokenMS int64 `json:"first_token_ms" doc:"Milliseconds from accepted to the first token."`
	TotalMS      int64 `json:"total_ms" doc:"Milliseconds from accepted to completed."`
}

type eventsInput struct {
	ID          uuid.UUID `path:"id" format:"uuid" doc:"The job's id."`
	Accept      string    `header:"Accept" maxLength:"8192" example:"text/event-stream" doc:"text/event-stream follows the job until it ends. Anything else, and q=0, returns the events so far as JSON."`
	LastEventID int       `header:"Last-Event-ID" minimum:"0" maximum:"2147483647" doc:"Continue after this version, as EventSource does when it reconnects. An empty one counts as absent."`
	After       int       `query:"after" minimum:"0" maximum:"2147483647" doc:"Like Last-Event-ID, for clients that cannot set headers. Last-Event-ID takes precedence."`
	Ticket      string    `query:"ticket" maxLength:"100" doc:"A ticket from POST /jobs/{id}/ticket, for EventSource. It replaces the Authorization header, and needs Accept: text/event-stream. Last-Event-ID may then be an id of the stream as it is, such as 7.Zm9v."`
}

func (s *server) stream() {
	event := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[EventBody](), true, "EventBody")
	op := huma.Operation{
		OperationID: "job-events", Method: http.MethodGet, Path: "/jobs/{id}/events", Tags: []string{"jobs"},
		Summary: "Read or follow the events of a job",
		Description: "With Accept: text/event-stream, the answer is a stream of server-sent events. Each message is an event, with its version as id and its type as event. " +
			"If a ticket opened the stream, the id has more than the version, see /jobs/{id}/ticket. " +
			"The stream begins with a comment. " +
			"Another one follows every ten seconds of silence. The stream ends after the job's last event. " +
			"If the service stops or the access token or API key expires before that, a retry field gives the milliseconds after which to resume, with a valid one. " +
			"When the session ends, the API key is revoked, or the account is disabled or erased, the stream ends within seconds. " +
			"The number of open streams of an account and of the service is limited: beyond that the answer is 429 too_many_streams or 503 streams_full, with Retry-After. " +
			"Without that media type, the answer is a JSON array of the events so far.",
		Security: append(keyed(auth.ScopeRead), map[string][]string{ticketScheme: {}}),
		Metadata: waits(nil),
		Errors:   []int{http.StatusNotFound, http.StatusGone},
		Responses: map[string]*huma.Response{"200": {
			Description: "The events after the given version.",
			Headers: map[string]*huma.Param{"X-Accel-Buffering": {
				Description: "no, with a stream: proxies must not hold events back.", Schema: &huma.Schema{Type: huma.TypeString},
			}},
			Content: map[string]*huma.MediaType{
				"application/json":  {Schema: &huma.Schema{Type: huma.TypeArray, Items: event}},
				"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Description: "Messages with id, event and data. The data is an EventBody as JSON."}},
			},
		}, "204": {Description: "With a ticket: the job has ended and the client has its last event."}},
	}
	register(s, op, s.events)
}

func (s *server) events(ctx context.Context, in *eventsInput) (*eventsOutput, error) {
	job, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	after := in.After
	if in.LastEventID > 0 {
		after = in.LastEventID // EventSource sends it with the URL that it began with
	}
	// If a stream started after a version that does not exist, it would not end with the
	// job.
	after = min(after, job.Version)
	if accepts(in.Accept, "text/event-stream") {
		if job.State.Final() && after == job.Version && requestOf(ctx).proof != "" {
			return nothingLeft(), nil
		}
		return s.sse(ctx, job.Owner, int64(after), s.messages(job, after)), nil
	}
	found, err := s.Store.Read(ctx, events.JobStream(job.ID), after)
	if err != nil {
		return nil, err
	}
	list := make([]json.RawMessage, len(found))
	for i, e := range found {
		if list[i], err = eventBody(e); err != nil {
			return nil, err
		}
	}
	return s.array(ctx, list), nil
}

// messages yields the events of a job after a version as messages, up to the job's last
// event.
func (s *server) messages(job events.Job, after int) messages {
	return func(ctx context.Context) iter.Seq2[[]message, error] {
		return func(yield func([]message, error) bool) {
			if job.State.Final() && after >= job.Version {
				return
			}
			for batch, err := range s.Store.Follow(ctx, events.JobStream(job.ID), after, s.timeouts.beat) {
				list := make([]message, len(batch))
				final := false
				for i, e := range batch {
					if err == nil {
						list[i], err = eventMessage(e)
					}
					final = final || ends(e.Fact)
				}
				if !yield(list, err) || err != nil || final {
					return
				}
			}
		}
	}
}

func eventMessage(e events.Event) (message, error) {
	data, err := eventBody(e)
	return message{strconv.Itoa(e.Version), e.Fact.Type(), data}, err
}

// ends reports whether a fact ends its job. Only the fact that the job was erased may follow.
func ends(f events.Fact) bool {
	switch f := f.(type) {
	case events.JobCompleted, events.JobCancelled, events.JobErased:
		return true
	case events.JobFailed:
		return f.Final
	}
	return false
}

// eventBody returns an event as the JSON that EventBody describes. The JSON has the
// event's version, type and time, followed by the members of the event's fact.
func eventBody(e events.Event) (json.RawMessage, error) {
	var hidden []string
	if e.Erased {
		hidden = e.Secret()
	}
	return withMembers(struct {
		Version int       `json:"version"`
		Type    string    `json:"type"`
		At      time.Time `json:"at"`
	}{e.Version, e.Fact.Type(), e.At}, e.Fact, hidden...)
}

// withMembers returns the object that represents first, followed by the members of the fact
// that are not hidden.
func withMembers(first any, of events.Fact, hidden ...string) (json.RawMessage, error) {
	head, err := json.Marshal(first)
	if err != nil {
		return nil, err
	}
	fact, err := json.Marshal(of)
	if err == nil && len(hidden) > 0 {
		fact, err = without(fact, hidden)
	}
	if err != nil {
		return nil, err
	}
	if len(fact) == len("{}") {
		return head, nil
	}
	return fmt.Appendf(head[:len(head)-1], ",%s", fact[1:]), nil
}

// without returns a JSON object without some of its members.
func without(object json.RawMessage, names []string) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, err
	}
	for _, name := range names {
		delete(members, name)
	}
	return json.Marshal(members)
}
