package openai

import (
	"fmt"

	"colophon/events"
	"colophon/jobs"
)

// Response is a response as clients see it. It has the members that OpenAI's specification and
// that of OpenResponses demand.
type Response struct {
	ID                 string             `json:"id" doc:"resp_ and the id of the job."`
	Object             string             `json:"object" enum:"response" doc:"The kind of object."`
	CreatedAt          int64              `json:"created_at" doc:"When the job was accepted, in Unix seconds."`
	CompletedAt        *int64             `json:"completed_at" nullable:"true" doc:"When the response was completed, in Unix seconds."`
	Status             string             `json:"status" enum:"queued,in_progress,completed,incomplete,failed,cancelled" doc:"The state. A text that ends at the length that the service has chosen is completed. At the length that the client has chosen, it is incomplete."`
	IncompleteDetails  *IncompleteDetails `json:"incomplete_details" doc:"Why the response is incomplete."`
	Error              *ResponseError     `json:"error" doc:"Why the response failed."`
	Model              string             `json:"model" doc:"The name of the model."`
	PreviousResponseID *string            `json:"previous_response_id" nullable:"true" doc:"The response that this one continues."`
	Instructions       *string            `json:"instructions" nullable:"true" doc:"The text of the system."`
	Output             []ResponseItem     `json:"output" nullable:"false" doc:"The message with the text so far. Empty before the start."`
	MaxOutputTokens    *int               `json:"max_output_tokens" nullable:"true" doc:"The length that the client has chosen."`
	MaxToolCalls       *int               `json:"max_tool_calls" nullable:"true" doc:"Always null."`
	Tools              []string           `json:"tools" nullable:"false" maxItems:"0" doc:"Always empty."`
	ToolChoice         string             `json:"tool_choice" enum:"auto" doc:"Without meaning, as there are no tools."`
	ParallelToolCalls  bool               `json:"parallel_tool_calls" doc:"Without meaning, as there are no tools."`
	Truncation         string             `json:"truncation" enum:"disabled" doc:"A conversation is never shortened."`
	Text               ResponseText       `json:"text" doc:"The form of the text."`
	Temperature        float64            `json:"temperature" doc:"The parameter of the request."`
	TopP               float64            `json:"top_p" doc:"The parameter of the request."`
	PresencePenalty    float64            `json:"presence_penalty" doc:"The parameter of the request."`
	FrequencyPenalty   float64            `json:"frequency_penalty" doc:"The parameter of the request."`
	TopLogprobs        int                `json:"top_logprobs" doc:"The parameter of the request."`
	Reasoning          ResponseReasoning  `json:"reasoning" doc:"The model does not reason."`
	Usage              *ResponseUsage     `json:"usage" doc:"The tokens of a response that has ended."`
	Store              bool               `json:"store" doc:"Whether the response stays on record."`
	Background         bool               `json:"background" doc:"Whether the response goes on without its client."`
	ServiceTier        string             `json:"service_tier" enum:"default" doc:"There is one tier."`
	Metadata           Metadata           `json:"metadata" nullable:"false" doc:"The texts of the client."`
	SafetyIdentifier   *string            `json:"safety_identifier" nullable:"true" doc:"As in the request."`
	PromptCacheKey     *string            `json:"prompt_cache_key" nullable:"true" doc:"As in the request."`
	User               *string            `json:"user" nullable:"true" doc:"As in the request."`
}

// IncompleteDetails say why a response is incomplete.
type IncompleteDetails struct {
	Reason string `json:"reason" enum:"max_output_tokens,content_filter" doc:"The client's length (max_output_tokens), or a word that the text policy refuses (content_filter)."`
}

// ResponseError says why a response failed.
type ResponseError struct {
	Code    string `json:"code" enum:"server_error" doc:"The kind of error."`
	Message string `json:"message" doc:"What has happened."`
}

// ResponseText is the form of a text.
type ResponseText struct {
	Format ResponseFormat `json:"format" doc:"The form of the text."`
}

// ResponseFormat is plain text.
type ResponseFormat struct {
	Type string `json:"type" enum:"text" doc:"Plain text."`
}

// ResponseReasoning is empty, because the model does not reason.
type ResponseReasoning struct {
	Effort  *string `json:"effort" doc:"Always null."`
	Summary *string `json:"summary" doc:"Always null."`
}

// ResponseUsage counts the tokens of a response.
type ResponseUsage struct {
	InputTokens         int                 `json:"input_tokens" doc:"The tokens of the prompt."`
	InputTokensDetails  InputTokensDetails  `json:"input_tokens_details" doc:"The service has no cache that changes what a request costs."`
	OutputTokens        int                 `json:"output_tokens" doc:"The tokens of the text."`
	OutputTokensDetails OutputTokensDetails `json:"output_tokens_details" doc:"The model does not reason."`
	TotalTokens         int                 `json:"total_tokens" doc:"The sum of both."`
}

// InputTokensDetails has the tokens of a cache.
type InputTokensDetails struct {
	CachedTokens     int `json:"cached_tokens" doc:"Always 0."`
	CacheWriteTokens int `json:"cache_write_tokens" doc:"Always 0."`
}

// OutputTokensDetails has the tokens of the reasoning.
type OutputTokensDetails struct {
	ReasoningTokens int `json:"reasoning_tokens" doc:"Always 0."`
}

// ResponseItem is a message of the input or of the output.
type ResponseItem struct {
	Type    string         `json:"type" enum:"message" doc:"The kind of item."`
	ID      string         `json:"id" doc:"msg_ and the id of the job; an item of the input has a number too, or the id that the client has sent."`
	Status  string         `json:"status" enum:"in_progress,completed,incomplete" doc:"Whether the text has ended."`
	Role    string         `json:"role" enum:"system,developer,user,assistant" doc:"Who speaks."`
	Content []ResponsePart `json:"content" nullable:"false" doc:"One part with the text."`
	Phase   string         `json:"phase,omitempty" enum:"commentary,final_answer" doc:"final_answer in the output. In the input: as the client has sent it."`
}

// ResponsePart is the text of a message. Texts of the output and of the assistant have lists
// of annotations, which are empty, and of log probabilities.
type ResponsePart struct {
	Type        string    `json:"type" enum:"input_text,output_text" doc:"Whose text it is."`
	Text        string    `json:"text" doc:"The text."`
	Annotations []string  `json:"annotations,omitzero" maxItems:"0" doc:"Always empty."`
	Logprobs    []LogProb `json:"logprobs,omitzero" doc:"The log probabilities of the tokens. Empty if the request did not ask for them, and in the input."`
}

// outputPart returns the part with a text of the assistant.
func outputPart(text string, tokens []jobs.TokenLogprobs) ResponsePart {
	return ResponsePart{Type: "output_text", Text: text, Annotations: []string{}, Logprobs: logProbs(tokens)}
}

// ResponseDeleted is the answer to the deletion of a response.
type ResponseDeleted struct {
	ID      string `json:"id" doc:"The id of the response."`
	Object  string `json:"object" enum:"response" doc:"The kind of object."`
	Deleted bool   `json:"deleted" enum:"true" doc:"The prompt and the text are erased."`
}

// ResponseItemList is a page of the input of a response.
type ResponseItemList struct {
	Object  string         `json:"object" enum:"list" doc:"The kind of object."`
	Data    []ResponseItem `json:"data" nullable:"false" doc:"The messages."`
	FirstID *string        `json:"first_id" nullable:"true" doc:"The id of the first message."`
	LastID  *string        `json:"last_id" nullable:"true" doc:"The id of the last message."`
	HasMore bool           `json:"has_more" doc:"Whether more messages follow."`
}

// optional returns nil for "".
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// NewResponse returns the response of a job that was made by /v1/responses and is not erased.
func NewResponse(job events.Job, logprobs Logprobs) Response {
	record, _ := recordOf(job)
	return newResponse(job, record, logprobs)
}

func newResponse(job events.Job, record responseRecord, logprobs Logprobs) Response {
	r := Response{
		ID: ResponseID(job.ID), Object: "response", CreatedAt: job.AcceptedAt.Unix(), Status: status(job, record), Model: job.Model,
		PreviousResponseID: optional(record.PreviousResponseID), Instructions: optional(record.Instructions),
		Output: []ResponseItem{}, Tools: []string{}, ToolChoice: "auto", ParallelToolCalls: true, Truncation: "disabled",
		Text:        ResponseText{ResponseFormat{"text"}},
		Temperature: job.Params.Temperature, TopP: job.Params.TopP,
		PresencePenalty: job.Params.PresencePenalty, FrequencyPenalty: job.Params.FrequencyPenalty,
		Store: !job.EraseAtEnd, Background: record.Background, ServiceTier: "default", Metadata: record.Metadata,
		SafetyIdentifier: optional(record.SafetyIdentifier), PromptCacheKey: optional(record.PromptCacheKey), User: optional(record.User),
	}
	if record.Metadata == nil {
		r.Metadata = Metadata{}
	}
	if record.MaxOutputTokens > 0 {
		r.MaxOutputTokens = &record.MaxOutputTokens
	}
	if job.Attempts > 0 {
		r.Output = append(r.Output, outputItem(job, r.Status, logprobs))
	}
	if n := job.Params.Logprobs; n != nil {
		r.TopLogprobs = *n
	}
	switch r.Status {
	case "completed":
		r.CompletedAt = new(job.FinishedAt.Unix())
	case "incomplete":
		r.IncompleteDetails = &IncompleteDetails{incompleteReasons[job.FinishReason]}
	case "failed":
		r.Error = &ResponseError{"server_error", fmt.Sprintf("job %s failed: %s", job.ID, job.Reason)}
	}
	if job.State.Final() {
		n := job.Generated()
		r.Usage = &ResponseUsage{InputTokens: job.PromptTokens, OutputTokens: n, TotalTokens: job.PromptTokens + n}
	}
	return r
}

// incompleteReasons has the reasons for the ends of a text that leave it incomplete.
var incompleteReasons = map[string]string{"length": "max_output_tokens", "content_filter": "content_filter"}

// status returns the state of a job's response. A response that has started does not go back
// to the queue, although its job may.
func status(job events.Job, record responseRecord) string {
	switch {
	case job.State == events.Completed && job.FinishReason == "length" && record.MaxOutputTokens == 0:
		return "completed" // at the length that the service has chosen
	case job.State == events.Completed && incompleteReasons[job.FinishReason] != "":
		return "incomplete"
	case job.State.Final():
		return string(job.State) // the names are the same
	case job.Attempts == 0 && record.Background:
		return "queued"
	}
	return "in_progress"
}

// outputItem returns the message with the text so far.
func outputItem(job events.Job, status string, logprobs Logprobs) ResponseItem {
	switch status {
	case "in_progress", "completed":
	default:
		status = "incomplete"
	}
	tokens, _ := logprobs(job, 0)
	return ResponseItem{Type: "message", ID: messagePrefix + job.ID.String(), Status: status, Role: "assistant", Content: []ResponsePart{outputPart(job.Text, tokens)}, Phase: "final_answer"}
}

// WithoutTexts returns the response without what the client has written and without the text.
func (r Response) WithoutTexts() Response {
	r.Instructions, r.Output, r.Metadata = nil, []ResponseItem{}, Metadata{}
	r.SafetyIdentifier, r.PromptCacheKey, r.User = nil, nil, nil
	return r
}

// InputItems returns the messages of the input of a job's response, in their order.
func InputItems(job events.Job) []ResponseItem {
	record, _ := recordOf(job)
	items := make([]ResponseItem, len(record.Input))
	for i, m := range record.Input {
		part := ResponsePart{Type: "input_text", Text: string(m.Content)}
		if m.Role == "assistant" {
			part = outputPart(part.Text, nil)
		}
		items[i] = ResponseItem{Type: "message", ID: m.ID, Status: "completed", Role: m.Role, Content: []ResponsePart{part}, Phase: m.Phase}
		if m.ID == "" {
			items[i].ID = fmt.Sprintf("%s%s_%d", messagePrefix, job.ID, i)
		}
	}
	return items
}

// NewInputTokens returns the answer with the number of tokens of a prompt.
func NewInputTokens(n int) InputTokens {
	return InputTokens{Object: "response.input_tokens", InputTokens: n}
}
