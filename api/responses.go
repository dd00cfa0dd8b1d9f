package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"colophon/api/openai"
	"colophon/events"
	"colophon/internal/auth"
	"colophon/jobs"
)

const responsesPath = openai.EndpointResponses

type createResponseInput struct {
	Idempotent
	Body openai.ResponseBody
}

// ResponsePath is the path of a response. It is exported because Huma reads only exported types
// inside others.
type ResponsePath struct {
	ID string `path:"id" minLength:"1" maxLength:"64" example:"resp_01920000-0000-7000-8000-000000000001" doc:"The response's id."`
}

type getResponseInput struct {
	ResponsePath
	Stream        bool           `query:"stream" doc:"Send the events of the response as a stream, from the first on, until it has ended."`
	StartingAfter optionalNumber `query:"starting_after" minimum:"0" maximum:"2147483647" doc:"Send the events after this sequence_number as a stream, also without the parameter stream."`

	// IncludeObfuscation asks for random characters that hide the lengths of the pieces.
	IncludeObfuscation bool `query:"include_obfuscation" enum:"false" doc:"Must be false: the stream has no padding."`
}

// optionalNumber is a parameter whose value may be 0.
type optionalNumber struct {
	Value int
	sent  bool
}

// Schema describes the parameter.
func (optionalNumber) Schema(r huma.Registry) *huma.Schema {
	return huma.SchemaFromType(r, reflect.TypeFor[int]())
}

// Receiver tells Huma where the value belongs.
func (o *optionalNumber) Receiver() reflect.Value { return reflect.ValueOf(&o.Value).Elem() }

// OnParamSet is called by Huma.
func (o *optionalNumber) OnParamSet(sent bool, _ any) { o.sent = sent }

type inputItemsInput struct {
	ResponsePath
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"The largest number of messages."`
	Order string `query:"order" enum:"asc,desc" default:"desc" doc:"The order of the messages: asc is that of the request."`
	After string `query:"after" maxLength:"512" doc:"Begin after the message with this id."`
}

type inputTokensInput struct{ Body openai.InputTokensBody }

func (s *server) responses() {
	schemas := s.api.OpenAPI().Components.Schemas
	answer := schemas.Schema(reflect.TypeFor[openai.Response](), true, "Response")
	const erased = "An erased response is answered with 404 response_erased."
	register(s, openAIOperation(huma.Operation{
		OperationID: "create-response", Path: responsesPath,
		Summary: "Answer a text or a conversation, as OpenAI's API does",
		Description: "Makes a job and waits for it, like POST /v1/chat/completions. With background, the answer comes at once, and GET /v1/responses/{id} has the text later. " +
			"A field of OpenAI's specification that is not listed here is refused with unsupported_parameter, unless its value asks for nothing, such as null. Tools, images, files, audio, forms of answers and reasoning are refused. " +
			"If chat completions are switched off, the answer is 404 chat_off. " +
			"A client that disconnects before the answer or during the stream cancels the job, unless it sent an Idempotency-Key or background. " +
			"With stream, the answer is a stream of server-sent events, each with a type and a sequence_number. A comment follows every ten seconds of silence. " +
			"The last event is response.completed, response.incomplete or response.failed; a cancelled response ends with response.incomplete, and its status is cancelled. " +
			"If the stream ends before the response, its last event is error, with the sequence_number of the event before. GET /v1/responses/{id} with starting_after continues the stream, at any process. " + openAILimits + admission,
		Responses: openAIResponses(answer, "The response.", "Messages with event and data: the type of the event, and the event as JSON."),
	}, openai.Responses), s.createResponse)
	register(s, huma.Operation{
		OperationID: "get-response", Method: http.MethodGet, Path: responsesPath + "/{id}", Tags: []string{"openai"},
		Summary: "Get or follow a response, as OpenAI's API does",
		Description: "With stream or starting_after, the answer is a stream of server-sent events, as that of POST /v1/responses. The same events come with the same numbers, at any process and at any time. " +
			"A client that leaves this stream cancels nothing. " + erased,
		Security:  keyed(auth.ScopeRead),
		Metadata:  waits(nil),
		Errors:    []int{http.StatusNotFound, http.StatusGone},
		Responses: openAIResponses(answer, "The response.", "Messages with event and data: the type of the event, and the event as JSON."),
	}, s.getResponse)
	register(s, huma.Operation{
		OperationID: "cancel-response", Method: http.MethodPost, Path: responsesPath + "/{id}/cancel", Tags: []string{"openai"},
		Summary:     "Cancel a response, as OpenAI's API does",
		Description: "Cancels the response unless it has ended, also if it has no background. Cancelling again changes nothing. An API key without the scope read gets no texts. " + erased,
		Security:    keyed(auth.ScopeGenerate),
		Errors:      []int{http.StatusNotFound, http.StatusGone},
	}, s.cancelResponse)
	register(s, huma.Operation{
		OperationID: "delete-response", Method: http.MethodDelete, Path: responsesPath + "/{id}", Tags: []string{"openai"},
		DefaultStatus: http.StatusOK,
		Summary:       "Erase a response, as OpenAI's API does",
		Description:   "Erases the prompt and the text like DELETE /jobs/{id}, and cancels the response if it has not ended. Erasing again changes nothing.",
		Security:      keyed(auth.ScopeGenerate),
		Errors:        []int{http.StatusNotFound, http.StatusGone},
	}, s.deleteResponse)
	register(s, huma.Operation{
		OperationID: "list-response-input-items", Method: http.MethodGet, Path: responsesPath + "/{id}/input_items", Tags: []string{"openai"},
		Summary:     "List the input of a response, as OpenAI's API does",
		Description: "Has the messages of the request. Those of previous responses have lists of their own. " + erased,
		Security:    keyed(auth.ScopeRead),
		Errors:      []int{http.StatusNotFound, http.StatusGone},
	}, s.inputItems)
	register(s, huma.Operation{
		OperationID: "count-response-input-tokens", Method: http.MethodPost, Path: responsesPath + "/input_tokens", Tags: []string{"openai"},
		Summary:     "Count the tokens of a response's prompt, as OpenAI's API does",
		Description: "Answers with the number of tokens that the prompt of POST /v1/responses with the same input would have. The service neither stores nor logs the input.",
		Security:    keyed(auth.ScopeRead),
		Metadata:    map[string]any{fieldsName: openai.ResponseTokens, bodyLimitName: int64(64 << 10)}, // the answer costs no token, so the limit of calls alone bounds it
		Errors:      []int{http.StatusNotFound, http.StatusGone},
	}, s.inputTokens)
}

// historyOf returns the conversation before an input. Its errors are those of conversation, and
// the problems of a service without chat and of an API key without the scope read.
func (s *server) historyOf(ctx context.Context, in *openai.ResponseInput) ([]openai.Message, error) {
	if s.ChatTemplate == "" {
		return nil, errChatOff()
	}
	if in.PreviousResponseID != "" && !mayRead(ctx) {
		return nil, newProblem(http.StatusForbidden, "insufficient_scope", "the API key does not have the scope read, which a previous response needs").at("body.previous_response_id")
	}
	return s.conversation(ctx, in.PreviousResponseID)
}

// The conversation before an input has at most maxResponses responses, and is not read further
// once it has more than maxConversation bytes. The model's context bounds the prompts alone: the
// text policy has removed characters from them that the conversation still has.
const (
	maxResponses    = 100
	maxConversation = 64 << 10
)

// conversation returns the conversation that ends with a response of the caller.
func (s *server) conversation(ctx context.Context, id string) (turns []openai.Message, err error) {
	size := 0
	for n := 0; id != ""; n++ {
		if n == maxResponses || size > maxConversation {
			return nil, openai.ErrInputTooLong
		}
		job, err := s.ownResponse(ctx, id)
		switch {
		case errors.Is(err, openai.ErrErased):
			return nil, openai.ErrPreviousErased
		case errors.Is(err, events.ErrNotFound):
			return nil, openai.ErrPreviousNotFound
		case err != nil:
			return nil, err
		case job.EraseAtEnd:
			return nil, openai.ErrPreviousNotFound // its text must not get into another record
		case job.State != events.Completed:
			return nil, openai.ErrPreviousUnfinished
		}
		var added []openai.Message
		added, id = openai.Turns(job)
		for _, m := range added {
			size += len(m.Content)
		}
		turns = append(added, turns...)
	}
	return turns, nil
}

// ownResponse returns the job of a response of the caller. The error is openai.ErrErased or
// one of own. The record of an erased job does not say whether it was a response, so any erased
// job counts as an erased response.
func (s *server) ownResponse(ctx context.Context, id string) (events.Job, error) {
	jobID, ok := openai.JobOfResponse(id)
	if !ok {
		return events.Job{}, events.ErrNotFound
	}
	job, err := s.own(ctx, jobID)
	switch {
	case err != nil:
		return job, err
	case !job.ErasedAt.IsZero():
		return job, openai.ErrErased
	case !openai.IsResponse(job):
		return job, events.ErrNotFound
	}
	return job, nil
}

func (s *server) createResponse(ctx context.Context, in *createResponseInput) (*openAIOutput, error) {
	b := &in.Body
	key, err := openAIKey(ctx, &in.Idempotent, responsesPath, b)
	if err != nil {
		return nil, err
	}
	requests := func() ([]jobs.Request, error) {
		request, err := s.responseRequest(ctx, b)
		return []jobs.Request{request}, err
	}
	if b.Background && !b.Stream {
		group, err := s.enqueueGroup(ctx, key, requests)
		if err != nil {
			return nil, err
		}
		return s.responseAnswer(ctx, group[0])
	}
	group, leave, err := s.enqueueAndEnter(ctx, key, requests)
	if err != nil {
		return nil, err
	}
	if b.Stream {
		return s.streamNewResponse(ctx, key, group[0], leave, b.Background)
	}
	defer leave()
	err = s.awaitTexts(ctx, key, group)
	if key == nil {
		s.forget(ctx, group[0])
	}
	if err != nil {
		return nil, err
	}
	return s.responseAnswer(ctx, group[0])
}

// responseRequest returns the request for the text that a body asks for.
func (s *server) responseRequest(ctx context.Context, b *openai.ResponseBody) (r jobs.Request, err error) {
	if err = openai.CheckModel(b.Model, s.Model.Name); err != nil {
		return r, err
	}
	history, err := s.historyOf(ctx, &b.ResponseInput)
	if err != nil {
		return r, err
	}
	return b.Request(s.ChatTemplate, history, defaultNewTokens)
}

// responseAnswer returns the answer about a job. With an idempotency key, the job may have
// been erased.
func (s *server) responseAnswer(ctx context.Context, job events.Job) (*openAIOutput, error) {
	if !job.ErasedAt.IsZero() {
		return nil, openai.ErrErased
	}
	return s.json(ctx, openai.NewResponse(job, s.Queue.Logprobs)), nil
}

// forget erases an ended job that is not to be kept. If that fails, some API process does it within
// two minutes, see jobs.Queue.
func (s *server) forget(ctx context.Context, job events.Job) {
	if !job.EraseAtEnd || !job.State.Final() {
		return
	}
	undisturbed, cancel := context.WithTimeout(context.WithoutCancel(ctx), acceptTimeout)
	defer cancel()
	if _, err := s.Queue.EraseJob(undisturbed, job); err != nil {
		s.Log.WarnContext(ctx, "job that is not to be kept not erased at once", "request", requestID(ctx), "err", err)
	}
}

func (s *server) getResponse(ctx context.Context, in *getResponseInput) (*openAIOutput, error) {
	job, err := s.ownResponse(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case in.StartingAfter.sent:
		return s.followResponse(ctx, job, in.StartingAfter.Value), nil
	case in.Stream:
		return s.followResponse(ctx, job, -1), nil
	}
	return s.json(ctx, openai.NewResponse(job, s.Queue.Logprobs)), nil
}

func (s *server) cancelResponse(ctx context.Context, in *ResponsePath) (*struct{ Body openai.Response }, error) {
	job, err := s.ownResponse(ctx, in.ID)
	if err == nil {
		job, err = s.Queue.Cancel(ctx, job, events.JobCancelled{By: "owner"})
	}
	if err != nil {
		return nil, err
	}
	if !job.ErasedAt.IsZero() { // meanwhile
		return nil, openai.ErrErased
	}
	response := openai.NewResponse(job, s.Queue.Logprobs)
	if !mayRead(ctx) {
		response = response.WithoutTexts()
	}
	return &struct{ Body openai.Response }{response}, nil
}

func (s *server) deleteResponse(ctx context.Context, in *ResponsePath) (*struct{ Body openai.ResponseDeleted }, error) {
	job, err := s.ownResponse(ctx, in.ID)
	if err == nil {
		_, err = s.Queue.EraseJob(ctx, job)
	}
	if err != nil && !errors.Is(err, openai.ErrErased) {
		return nil, err
	}
	return &struct{ Body openai.ResponseDeleted }{openai.ResponseDeleted{ID: in.ID, Object: "response", Deleted: true}}, nil
}

func (s *server) inputItems(ctx context.Context, in *inputItemsInput) (*struct{ Body openai.ResponseItemList }, error) {
	job, err := s.ownResponse(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	items := openai.InputItems(job)
	if in.Order == "desc" {
		slices.Reverse(items)
	}
	if in.After != "" {
		at := slices.IndexFunc(items, func(item openai.ResponseItem) bool { return item.ID == in.After })
		if at < 0 {
			return nil, newProblem(http.StatusUnprocessableEntity, "invalid_request", "the input has no such message").at("query.after")
		}
		items = items[at+1:]
	}
	page := openai.ResponseItemList{Object: "list", Data: items[:min(in.Limit, len(items))], HasMore: len(items) > in.Limit}
	if len(page.Data) > 0 {
		page.FirstID, page.LastID = &page.Data[0].ID, &page.Data[len(page.Data)-1].ID
	}
	return &struct{ Body openai.ResponseItemList }{page}, nil
}

func (s *server) inputTokens(ctx context.Context, in *inputTokensInput) (*struct{ Body openai.InputTokens }, error) {
	b := &in.Body
	if b.Model != "" {
		if err := openai.CheckModel(b.Model, s.Model.Name); err != nil {
			return nil, err
		}
	}
	history, err := s.historyOf(ctx, &b.ResponseInput)
	if err != nil {
		return nil, err
	}
	n, err := s.Queue.PromptTokens(b.Prompt(s.ChatTemplate, history))
	return &struct{ Body openai.InputTokens }{openai.NewInputTokens(n)}, err
}
