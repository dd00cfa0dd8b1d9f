package api

import (
	"context"
	"encoding/json"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"colophon/api/openai"
	"colophon/events"
	"colophon/jobs"
)

type completionInput struct {
	Idempotent
	Body openai.CompletionBody
}

func (s *server) completions() {
	schemas := s.api.OpenAPI().Components.Schemas
	answer := schemas.Schema(reflect.TypeFor[openai.Completion](), true, "Completion")
	register(s, openAIOperation(huma.Operation{
		OperationID: "create-completion", Path: openai.EndpointCompletions,
		Summary: "Complete a text, as OpenAI's API does",
		Description: "Makes a job for each text and waits for all of them. The jobs are like those of POST /jobs: they are in the history and have receipts, and several of one request have the same group. " +
			"A field of OpenAI's specification that is not listed here is refused with unsupported_parameter, unless its value asks for nothing, such as null. " +
			"A client that disconnects before the answer or during the stream cancels the jobs, unless it sent an Idempotency-Key. " + openAIStreams + openAILimits + admission,
		Responses: openAIResponses(answer, "The texts.", "Messages with data alone: a Completion as JSON for each piece of a text, then [DONE]."),
	}, openai.Completions), s.complete)
}

// openAIStreams is the part of descriptions that says how a stream ends.
const openAIStreams = "With stream, the answer is a stream of server-sent events. A comment follows every ten seconds of silence. " +
	"If a text fails after the stream has begun, the last message has a member error instead. "

// openAILimits is the part of descriptions that says how texts count and how long a wait lasts.
const openAILimits = "Each text counts under the limits of generations, all texts of a request or none. " +
	"Without a stream, the wait ends after nine minutes with 503 wait_over. Streams and waits count together: beyond their limit the answer is 429 too_many_streams or 503 streams_full. "

// openAIResponses describes an answer as JSON or as a stream.
func openAIResponses(body *huma.Schema, text, stream string) map[string]*huma.Response {
	return map[string]*huma.Response{"200": {
		Description: text,
		Headers: map[string]*huma.Param{"X-Accel-Buffering": {
			Description: "no, with a stream: proxies must not hold it back.", Schema: &huma.Schema{Type: huma.TypeString},
		}},
		Content: map[string]*huma.MediaType{
			"application/json":  {Schema: body},
			"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Description: stream}},
		},
	}}
}

func (s *server) complete(ctx context.Context, in *completionInput) (*openAIOutput, error) {
	b := &in.Body
	requests, err := s.completionRequests(b)
	if err != nil {
		return nil, err
	}
	key, err := openAIKey(ctx, &in.Idempotent, openai.EndpointCompletions, b)
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

// completionRequests returns the requests for the texts that a body asks for.
func (s *server) completionRequests(b *openai.CompletionBody) ([]jobs.Request, error) {
	if err := openai.CheckModel(b.Model, s.Model.Name); err != nil {
		return nil, err
	}
	return b.Requests(s.Model.Encode, s.Model.Decode)
}

// dataStream returns a stream whose messages have only the field data. The data of the last
// message is [DONE].
func dataStream(chunks func(all []events.Job, i int, fact events.Fact) ([]json.RawMessage, error), end func([]events.Job) ([]json.RawMessage, error)) surfaceStream {
	messages := func(chunks []json.RawMessage, err error) ([]message, error) {
		list := make([]message, len(chunks))
		for i, chunk := range chunks {
			list[i] = message{data: chunk}
		}
		return list, err
	}
	return surfaceStream{
		chunks: func(all []events.Job, i int, fact events.Fact) ([]message, error) {
			return messages(chunks(all, i, fact))
		},
		end: func(all []events.Job) ([]message, error) {
			last, err := end(all)
			return messages(append(last, json.RawMessage("[DONE]")), err)
		},
	}
}

// promptsSchema describes openai.Prompts.
type promptsSchema struct{}

// Schema returns the schema.
func (promptsSchema) Schema(huma.Registry) *huma.Schema {
	text := func() *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, MaxLength: new(32768), Examples: []any{"The nature of light"}}
	}
	ids := func() *huma.Schema {
		return &huma.Schema{Type: huma.TypeArray, MinItems: new(1), MaxItems: new(32768), Items: &huma.Schema{Type: huma.TypeInteger, Minimum: new(0.0), Maximum: new(1048575.0)}}
	}
	list := func(of *huma.Schema) *huma.Schema {
		return &huma.Schema{Type: huma.TypeArray, MinItems: new(1), MaxItems: new(openai.MaxChoices), Items: of}
	}
	return &huma.Schema{OneOf: []*huma.Schema{text(), list(text()), ids(), list(ids())}}
}

// stopSchema describes openai.Stop.
type stopSchema struct{}

// Schema returns the schema.
func (stopSchema) Schema(huma.Registry) *huma.Schema {
	text := func(nullable bool) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, Nullable: nullable, MinLength: new(1), MaxLength: new(128)}
	}
	return &huma.Schema{OneOf: []*huma.Schema{text(true), {Type: huma.TypeArray, MaxItems: new(4), Items: text(false)}}}
}
