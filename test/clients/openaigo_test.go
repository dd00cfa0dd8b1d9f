package clients

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"
)

const (
	model = "opticks"

	// The same request gives the same text, so that scenarios can compare answers.
	prompt = "The nature of light"
	long   = 200 // tokens
)

// sdk returns OpenAI's client of a process.
func sdk(url, key string, options ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{option.WithBaseURL(url + "/v1/"), option.WithAPIKey(key)}, options...)...)
}

// counted counts the requests of a client.
func counted(n *int) option.RequestOption {
	return option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		*n++
		return next(r)
	})
}

// request is a request for a text, with any of the three operations.
type request struct {
	input       string // prompt if empty
	tokens      int64
	temperature float64
	seed        int64 // responses have none
	options     []option.RequestOption
}

// text is a text, or a piece of one in a stream.
type text struct {
	job           string // id, empty if the piece does not have it
	text          string
	number        int64  // sequence_number of responses
	status        string // of responses
	input, output int64  // usage
}

// stream is a stream of pieces.
type stream struct {
	next  func() (text, bool)
	err   func() error
	close func() error
}

func pieces[T any](s *ssestream.Stream[T], read func(T) text) stream {
	return stream{
		next: func() (text, bool) {
			if !s.Next() {
				return text{}, false
			}
			return read(s.Current()), true
		},
		err:   s.Err,
		close: s.Close,
	}
}

// begin reads a stream up to its first piece of text. The piece has the id of the job.
func (s stream) begin(t *testing.T) (first text) {
	t.Helper()
	for job := ""; ; {
		piece, ok := s.next()
		if !ok {
			t.Fatalf("the stream ended without a text: %v", s.err())
		}
		job = cmp.Or(job, piece.job)
		if piece.text != "" {
			piece.job = job
			return piece
		}
	}
}

// rest reads a stream to its end, and adds its pieces to a text.
func (s stream) rest(all text) (text, error) {
	defer s.close()
	for {
		piece, ok := s.next()
		if !ok {
			return all, s.err()
		}
		all.job = cmp.Or(all.job, piece.job)
		all.text += piece.text
		all.number, all.status = piece.number, cmp.Or(piece.status, all.status)
		if piece.output > 0 {
			all.input, all.output = piece.input, piece.output
		}
	}
}

// surface is one of the operations that make texts.
type surface struct {
	name        string
	unsupported option.RequestOption // a field that the operation refuses
	create      func(context.Context, openai.Client, request) (text, error)
	stream      func(context.Context, openai.Client, request) stream
}

var surfaces = []surface{
	{
		"completions", option.WithJSONSet("best_of", 3),
		func(ctx context.Context, c openai.Client, r request) (text, error) {
			answer, err := c.Completions.New(ctx, completionParams(r), r.options...)
			if err != nil {
				return text{}, err
			}
			return ofCompletion(*answer), nil
		},
		func(ctx context.Context, c openai.Client, r request) stream {
			return pieces(c.Completions.NewStreaming(ctx, completionParams(r), r.options...), ofCompletion)
		},
	},
	{
		"chat", option.WithJSONSet("tools", []any{map[string]any{"type": "function"}}),
		func(ctx context.Context, c openai.Client, r request) (text, error) {
			answer, err := c.Chat.Completions.New(ctx, chatParams(r), r.options...)
			if err != nil {
				return text{}, err
			}
			return text{job: strings.TrimPrefix(answer.ID, "chatcmpl-"), text: answer.Choices[0].Message.Content, input: answer.Usage.PromptTokens, output: answer.Usage.CompletionTokens}, nil
		},
		func(ctx context.Context, c openai.Client, r request) stream {
			return pieces(c.Chat.Completions.NewStreaming(ctx, chatParams(r), r.options...), func(chunk openai.ChatCompletionChunk) text {
				piece := text{job: strings.TrimPrefix(chunk.ID, "chatcmpl-"), input: chunk.Usage.PromptTokens, output: chunk.Usage.CompletionTokens}
				for _, choice := range chunk.Choices {
					piece.text += choice.Delta.Content
				}
				return piece
			})
		},
	},
	{
		"responses", option.WithJSONSet("tools", []any{map[string]any{"type": "web_search"}}),
		func(ctx context.Context, c openai.Client, r request) (text, error) {
			answer, err := c.Responses.New(ctx, responseParams(r), r.options...)
			if err != nil {
				return text{}, err
			}
			return ofResponse(*answer), nil
		},
		func(ctx context.Context, c openai.Client, r request) stream {
			return pieces(c.Responses.NewStreaming(ctx, responseParams(r), r.options...), ofEvent)
		},
	},
}

func completionParams(r request) openai.CompletionNewParams {
	return openai.CompletionNewParams{
		Model: model, Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String(cmp.Or(r.input, prompt))},
		MaxTokens: openai.Int(r.tokens), Temperature: openai.Float(r.temperature), Seed: openai.Int(r.seed),
		StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
	}
}

func ofCompletion(answer openai.Completion) text {
	piece := text{job: strings.TrimPrefix(answer.ID, "cmpl-"), input: answer.Usage.PromptTokens, output: answer.Usage.CompletionTokens}
	for _, choice := range answer.Choices {
		piece.text += choice.Text
	}
	return piece
}

func chatParams(r request) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(cmp.Or(r.input, prompt))},
		MaxCompletionTokens: openai.Int(r.tokens), Temperature: openai.Float(r.temperature), Seed: openai.Int(r.seed),
		StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
	}
}

func responseParams(r request) responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model: model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(cmp.Or(r.input, prompt))},
		MaxOutputTokens: openai.Int(r.tokens), Temperature: openai.Float(r.temperature),
	}
}

func ofResponse(r responses.Response) text {
	return text{job: jobOf(r), text: r.OutputText(), status: string(r.Status), input: r.Usage.InputTokens, output: r.Usage.OutputTokens}
}

func ofEvent(e responses.ResponseStreamEventUnion) text {
	piece := ofResponse(e.Response)
	piece.text, piece.number = "", e.SequenceNumber
	if e.Type == "response.output_text.delta" {
		piece.text = e.Delta
	}
	return piece
}

func jobOf(r responses.Response) string { return strings.TrimPrefix(r.ID, "resp_") }

// refused checks the status and the code of an error.
func refused(t *testing.T, err error, status int, code string) {
	t.Helper()
	got, ok := errors.AsType[*openai.Error](err)
	if !ok || got.StatusCode != status || got.Code != code || got.Message == "" {
		t.Errorf("%v, want %d %s", err, status, code)
	}
}
