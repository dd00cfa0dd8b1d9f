package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"colophon/api/openai"
	"colophon/events"
	"colophon/jobs"
)

type chatInput struct {
	Idempotent
	Body openai.ChatBody
}

func (s *server) chat() {
	answer := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[openai.ChatCompletion](), true, "ChatCompletion")
	register(s, openAIOperation(huma.Operation{
		OperationID: "create-chat-completion", Path: openai.EndpointChat,
		Summary: "Answer a conversation, as OpenAI's API does",
		Description: "Makes a job for each answer and waits for all of them, like POST /v1/completions. The chat template of the model makes the prompt: " +
			"plain puts the name of the role before each text, and eos ends each text with the end-of-text token. One message of a user alone is the prompt as it is, except with eos. " +
			"If chat completions are switched off, the answer is 404 chat_off. " +
			"A field of OpenAI's specification that is not listed here is refused with unsupported_parameter, unless its value asks for nothing, such as null. Tools, images, audio and forms of answers are refused. " +
			"A client that disconnects before the answer or during the stream cancels the jobs, unless it sent an Idempotency-Key. " + openAIStreams + openAILimits + admission,
		Responses: openAIResponses(answer, "The answers.", "Messages with data alone: a chunk (chat.completion.chunk) as JSON for each piece of an answer, then [DONE]."),
	}, openai.Chat), s.converse)
}

func (s *server) converse(ctx context.Context, in *chatInput) (*openAIOutput, error) {
	b := &in.Body
	requests, err := s.chatRequests(b)
	if err != nil {
		return nil, err
	}
	key, err := openAIKey(ctx, &in.Idempotent, openai.EndpointChat, b)
	if err != nil {
		return nil, err
	}
	return s.generate(ctx, key, requests, b.Stream, surface{
		answer: func(group []events.Job) any { return b.Answer(group, s.Queue.Logprobs) },
		stream: func(group []events.Job) surfaceStream {
			stream := b.NewStream(group, s.Queue.Logprobs)
			return dataStream(stream.Chunks, stream.End)
		},
	})
}

// chatRequests returns the requests for the answers that a body asks for.
func (s *server) chatRequests(b *openai.ChatBody) ([]jobs.Request, error) {
	if s.ChatTemplate == "" {
		return nil, errChatOff()
	}
	if err := openai.CheckModel(b.Model, s.Model.Name); err != nil {
		return nil, err
	}
	return b.Requests(s.ChatTemplate, defaultNewTokens)
}

// messagesSchema describes openai.Messages.
type messagesSchema struct{}

// Schema returns the schema.
func (messagesSchema) Schema(huma.Registry) *huma.Schema {
	text := func() *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, MaxLength: new(32768), Description: "The text."}
	}
	part := &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"type", "text"},
		Properties: map[string]*huma.Schema{
			"type": {Type: huma.TypeString, Enum: []any{"text"}, Description: "The kind of part: only texts are read."},
			"text": text(),
		},
	}
	return &huma.Schema{Type: huma.TypeArray, MinItems: new(1), MaxItems: new(256), Items: &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"role", "content"},
		Properties: map[string]*huma.Schema{
			"role": {Type: huma.TypeString, Enum: []any{"system", "developer", "user", "assistant"}, Description: "Who speaks."},
			"content": {
				OneOf:       []*huma.Schema{text(), {Type: huma.TypeArray, MinItems: new(1), MaxItems: new(256), Items: part}},
				Description: "The text, or parts of it that are joined.",
			},
		},
	}}
}

// errChatOff is the answer without a chat template.
func errChatOff() *Problem {
	return newProblem(http.StatusNotFound, "chat_off", "chat completions are switched off here: send a prompt to POST /v1/completions")
}
